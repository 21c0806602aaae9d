"""No page, filter or search of the admin may read a table of millions of messages from end to end.

Most rows are sent messages.  The plans are those that the databases choose among 20 000 rows, and what is told is what
they read: a plan that names an index may still walk all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from prx_email_django.admin import search as searching
from prx_email_django.admin.base import CappedPaginator
from prx_email_django.models import Account, DeliveryAttempt, HourlyCount, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db(transaction=True)

#: Sent messages, each with an attempt and a recipient.
COPIES = 16_000
#: Rows that one page may read: the lists count 500 and the searches look at the newest 500 here.
MOST_ROWS = 5_000
QUERIES = (
    *("", "status=pending", "status=sending", "status=sent", "status=failed", "status=due", "status=needs_person"),
    *(
        "status=at_rest",
        "status=waiting",
        "error=provider",
        "status=failed&o=2",
        "doubt=yes",
        "doubt=held",
        "error=network",
        "error=recipients_refused",
    ),
    *("priority=high", "priority=normal", "text=nothing", "tag=rare", "tag=absent", "smtp_code=421", "peer=nowhere"),
    *(
        "enhanced_code=4.2.1",
        "q=bob",
        "q=rare",
        "q=absent",
        "q=ann",
        "q=4711",
        "q=bob.case@example.com",
        "q=@nowhere.example",
    ),
    *("q=<own.4711@shop.example>", "q=4F11A22B", "created_at__gte=2020-01-01+00:00:00%2B00:00"),
)
ATTEMPTS = ("", "outcome=lost", "error=tls")


def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "RECENT", 500)
    monkeypatch.setattr(searching, "LIMIT", 250)
    monkeypatch.setattr(CappedPaginator, "cap", 500)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Account:
    """Few messages that wait or failed, in front of and behind very many that are sent."""
    _small(monkeypatch)
    owner, other = rows.make_account(), rows.make_account("other")
    # Where the rows of a condition are the oldest, a walk from the newest row on reads all others first.
    for name, count in (("retired", 520), ("small", 15)):
        _copy(rows.at_rest(rows.make_account(name)), count)
    rows.make_message(owner, tag="rare", priority=5)
    sent = rows.sent(owner)
    DeliveryAttempt.objects.create(
        message=sent, number=1, started_at=sent.created_at, finished_at=sent.created_at, outcome="sent", smtp_code=250
    )
    _copy(sent, COPIES)
    _copy(DeliveryAttempt.objects.get(), COPIES)
    _add_recipients()
    for make in (rows.at_rest, rows.deferred, rows.sending, rows.unknown, rows.make_message):
        for _ in range(5):
            make(other, to="Bob.Case@example.com")
    OutboxMessage.objects.filter(status="pending", tag="rare").exclude(account=other).update(
        created_at=sent.created_at - timedelta(days=400)
    )
    _add_counts(other)
    return owner


def _connection() -> Any:
    return connections[outbox_alias()]


def _copy(row: Any, count: int) -> None:
    """Write copies, whose primary keys follow one another."""
    columns = [field.attname for field in row._meta.concrete_fields if not (field.primary_key or field.generated)]
    values = {name: getattr(row, name) for name in columns}
    type(row).objects.bulk_create([type(row)(**values) for _ in range(count)], batch_size=2_000)
    _analyze(type(row))


def _add_recipients() -> None:
    """Give each message a recipient: copies have none."""
    numbers = OutboxMessage.objects.filter(recipients__isnull=True).values_list("pk", flat=True)
    Recipient.objects.bulk_create([Recipient(message_id=pk, address="ann@example.org") for pk in numbers])
    _analyze(Recipient)


def _add_counts(account: Account) -> None:
    """Count every hour of a year: the dashboard shows the last thirty days."""
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=number) for number in range(365 * 24)]
    HourlyCount.objects.bulk_create(
        [HourlyCount(account=account, hour=hour, worker="web1:1", sent=5) for hour in hours], batch_size=2_000
    )
    _analyze(HourlyCount)


def _analyze(model: type[Any]) -> None:
    connection = _connection()
    with connection.cursor() as cursor:
        words = {"mysql": "ANALYZE TABLE", "postgresql": "VACUUM ANALYZE"}
        cursor.execute(f"{words.get(connection.vendor, 'ANALYZE')} {connection.ops.quote_name(model._meta.db_table)}")
        if connection.vendor == "mysql":
            cursor.fetchall()


def rows_read(call: Callable[[], object]) -> int:
    """Index and table rows that MariaDB reads for a call."""

    def handler() -> int:
        with _connection().cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    before = handler()
    call()
    return handler() - before


def rows_scanned(call: Callable[[], object]) -> int:
    """Rows that PostgreSQL reads for a call, those that a filter then removes among them."""
    with CaptureQueriesContext(_connection()) as queries:
        call()
    rows_of_all = 0
    for query in [query["sql"] for query in queries if query["sql"].startswith("SELECT")]:
        with _connection().cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}")
            (said,) = cursor.fetchone()
        rows_of_all += _scanned((json.loads(said) if isinstance(said, str) else said)[0]["Plan"])
    return rows_of_all


def _scanned(node: dict[str, Any]) -> int:
    removed = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
    own = (node["Actual Rows"] + removed) * node["Actual Loops"] if "Relation Name" in node else 0
    return int(own) + sum(map(_scanned, node.get("Plans", ())))


def test_no_list_filter_or_search_reads_the_whole_table(crowded: Account) -> None:
    vendor = _connection().vendor
    if vendor == "sqlite":  # has no statistics of its own about what it read; its plans are those of test_claim_plan
        return
    client = rows.client_for("*")
    measure = rows_read if vendor == "mysql" else rows_scanned
    owned, small, retired = (
        f"account__id__exact={Account.objects.get(name=name).pk}" for name in ("other", "small", "retired")
    )
    of_accounts = (owned, f"{owned}&status=due", small, retired, f"{retired}&p=2", f"{retired}&o=2")
    pages = [f"{rows.MESSAGES}?{query}" for query in (*QUERIES, *of_accounts)]
    pages += [f"{rows.ADMIN}deliveryattempt/?{query}" for query in ATTEMPTS]
    pages += [f"{rows.ADMIN}outbox/", f"{rows.ADMIN}recipient/?q=bob", f"{rows.ADMIN}"]
    client.get(rows.MESSAGES)
    said = {page: measure(lambda page=page: client.get(page)) for page in pages}
    assert {page: read for page, read in said.items() if read > MOST_ROWS} == {}


def test_few_sent_messages_behind_a_backlog_are_no_reason_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = _connection().vendor
    if vendor == "sqlite":
        return
    _small(monkeypatch)
    account = rows.make_account()
    rows.sent(account)
    _copy(rows.make_message(account), COPIES)
    client = rows.client_for("*")
    measure = rows_read if vendor == "mysql" else rows_scanned
    # The queue itself is counted for the account's reason.
    assert measure(lambda: client.get(f"{rows.MESSAGES}?status=sent")) < MOST_ROWS
    assert "Only sent messages among the newest" in client.get(f"{rows.MESSAGES}?status=sent").content.decode()
