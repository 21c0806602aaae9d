"""A tag is found by its index, which on PostgreSQL leaves out the messages without one: a drain changes those twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext

from prx_email_django.admin.search import search
from prx_email_django.models import OutboxMessage
from prx_email_django.models.managers import outbox_alias
from tests.support.factories import NOW, account, double_messages

pytestmark = pytest.mark.django_db(transaction=True)

#: Rows of each kind are doubled so often: 98 304 in all.
DOUBLINGS = 15


@pytest.fixture
def crowded() -> None:
    """Sent messages and waiting ones without a tag, sent ones with a usual tag, and few with rare ones."""
    owner = account()
    instants = {"created_at": NOW, "updated_at": NOW, "due_since": NOW}

    def row(**fields: Any) -> OutboxMessage:
        return OutboxMessage(account=owner, subject="s", **instants, **fields)

    sent = {"status": "sent", "sent_at": NOW}
    OutboxMessage.objects.bulk_create([row(**sent), row(status="pending", next_attempt_at=NOW), row(**sent, tag="new")])
    double_messages(DOUBLINGS)
    connection = connections[outbox_alias()]
    table = connection.ops.quote_name(OutboxMessage._meta.db_table)
    few = ["rare"] * 5 + [f"t{number}" for number in range(500)]
    OutboxMessage.objects.bulk_create(row(status="pending", next_attempt_at=NOW, tag=tag) for tag in few)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE TABLE {table}" if connection.vendor == "mysql" else f"ANALYZE {table}")
        if connection.vendor == "mysql":
            cursor.fetchall()


def plans(call: Callable[[], object]) -> list[str]:
    """The plans of the statements of a call that ask for a tag."""
    connection = connections[outbox_alias()]
    with CaptureQueriesContext(connection) as queries:
        call()
    prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    found = []
    for statement in [query["sql"] for query in queries]:
        if connection.ops.quote_name("tag") in statement.partition(" WHERE ")[2]:
            with connection.cursor() as cursor:
                cursor.execute(f"{prefix} {statement}")
                lines = [" ".join(str(value) for value in line) for line in cursor.fetchall()]
            found.append("\n".join([statement, *lines]))
    return found


def test_a_tag_is_found_by_its_index(crowded: None) -> None:
    messages = OutboxMessage.objects.order_by()
    calls: dict[str, Callable[[], object]] = {
        "the filter of the admin, and a host": lambda: list(messages.filter(tag="rare")),
        "a host, for several": lambda: list(messages.filter(tag__in=["rare", "absent"])),
        "the search of the admin": lambda: list(search(messages, "rare", newest_only=True)[0]),
        "a search for the beginning": lambda: list(search(messages, "ra", newest_only=True)[0]),
        "a command": lambda: call_command("cancel_outbox", "--tag", "rare", "--dry-run"),
    }
    for name, call in calls.items():
        found = plans(call)
        assert found, name
        for plan in found:
            assert "prx_message_tag" in plan and "Seq Scan" not in plan, f"{name}\n{plan}"


def test_the_search_finds_whole_tags_and_their_beginnings() -> None:
    owner = account()
    for tag in ("rare", "rarest", "new", ""):
        OutboxMessage.objects.create(account=owner, subject="s", tag=tag)
    found, _ = search(OutboxMessage.objects.order_by("id"), "rare", newest_only=True)
    assert [message.tag for message in found] == ["rare", "rarest"]


def test_a_message_without_a_tag_has_no_entry_on_postgresql() -> None:
    connection = connections[outbox_alias()]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'prx_message_tag'")
        ((said,),) = cursor.fetchall()
    assert "varchar_pattern_ops" in said and "WHERE" in said, said
