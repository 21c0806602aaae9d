"""The database itself refuses impossible rows, written here by SQL, past every model."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from prx_email_django.models import Account, OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from tests.support.factories import NOW, account, message

pytestmark = pytest.mark.django_db


def refused(model: Any, pk: int, **columns: Any) -> bool:
    """Whether the database refuses these values of a row."""
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    fields = {column: model._meta.get_field(column) for column in columns}
    values = [fields[column].get_db_prep_save(value, connection) for column, value in columns.items()]
    assignments = ", ".join(f"{quote(fields[column].column)} = %s" for column in columns)
    statement = f"UPDATE {quote(model._meta.db_table)} SET {assignments} WHERE id = %s"
    try:
        with transaction.atomic(using=outbox_alias()), connection.cursor() as cursor:
            cursor.execute(statement, [*values, pk])
            assert cursor.rowcount == 1
    except DatabaseError:
        return True
    return False


def test_an_unknown_status_is_refused() -> None:
    row = message(account())
    assert refused(OutboxMessage, row.pk, status="queued")
    assert refused(OutboxMessage, row.pk, status="")
    assert refused(OutboxMessage, row.pk, status="Sent ")


@pytest.mark.parametrize(
    ("token", "expires", "wrong"),
    [(None, None, True), (None, NOW, True), ("1" * 32, None, True), ("1" * 32, NOW, False)],
)
def test_sending_without_a_token_and_a_lease_is_refused(token: str | None, expires: Any, wrong: bool) -> None:
    row = message(account())
    assert refused(OutboxMessage, row.pk, status="sending", claim_token=token, claim_expires_at=expires) is wrong


@pytest.mark.parametrize(
    ("sent_at", "due", "wrong"), [(None, None, True), (NOW, NOW, True), (None, NOW, True), (NOW, None, False)]
)
def test_sent_without_its_instant_or_with_another_attempt_to_come_is_refused(
    sent_at: Any, due: Any, wrong: bool
) -> None:
    row = message(account())
    assert refused(OutboxMessage, row.pk, status="sent", sent_at=sent_at, next_attempt_at=due) is wrong


@pytest.mark.parametrize(("priority", "wrong"), [(-11, True), (-10, False), (10, False), (11, True)])
def test_a_priority_out_of_range_is_refused(priority: int, wrong: bool) -> None:
    assert refused(OutboxMessage, message(account()).pk, priority=priority) is wrong


def test_one_key_twice_in_an_account_is_refused() -> None:
    owner = account()
    first, second = message(owner, idempotency_key="k"), message(owner)
    hashed = OutboxMessage.objects.get(pk=first.pk).idempotency_hash
    assert refused(OutboxMessage, second.pk, idempotency_hash=hashed)


def test_the_claim_rank_is_right_however_the_row_is_written() -> None:
    row = message(account(), priority=4)

    def rank() -> int | None:
        return OutboxMessage.objects.values_list("claim_rank", flat=True).get(pk=row.pk)

    assert rank() == -4
    assert not refused(OutboxMessage, row.pk, priority=-2)
    assert rank() == 2
    assert not refused(OutboxMessage, row.pk, next_attempt_at=None)
    assert rank() is None
    assert not refused(OutboxMessage, row.pk, status="sent", sent_at=NOW)
    assert rank() is None


SECRETS: list[tuple[dict[str, str], bool]] = [
    ({"auth_method": "password", "user": "u", "password": "p", "oauth_token": ""}, False),
    ({"auth_method": "password", "user": "", "password": "p", "oauth_token": ""}, True),
    ({"auth_method": "password", "user": "u", "password": "", "oauth_token": ""}, True),
    ({"auth_method": "password", "user": "u", "password": "p", "oauth_token": "t"}, True),
    ({"auth_method": "xoauth2", "user": "u", "password": "", "oauth_token": "t"}, False),
    ({"auth_method": "xoauth2", "user": "u", "password": "", "oauth_token": "", "oauth_provider": "google"}, False),
    ({"auth_method": "xoauth2", "user": "u", "password": "", "oauth_token": ""}, True),
    ({"auth_method": "xoauth2", "user": "", "password": "", "oauth_token": "t"}, True),
    ({"auth_method": "xoauth2", "user": "u", "password": "p", "oauth_token": "t"}, True),
    ({"auth_method": "none", "user": "", "password": "", "oauth_token": ""}, False),
    ({"auth_method": "none", "user": "u", "password": "", "oauth_token": ""}, True),
    ({"auth_method": "none", "user": "", "password": "p", "oauth_token": ""}, True),
    ({"auth_method": "none", "user": "", "password": "", "oauth_token": "t"}, True),
    ({"auth_method": "", "user": "u", "password": "p", "oauth_token": ""}, True),
]


@pytest.mark.parametrize(("columns", "wrong"), SECRETS)
def test_an_account_has_exactly_the_secret_that_its_method_needs(columns: dict[str, str], wrong: bool) -> None:
    assert refused(Account, account().pk, **columns) is wrong


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ({"host": ""}, True),
        ({"port": 0}, True),
        ({"port": 65_536}, True),
        ({"port": 65_535}, False),
        ({"security": "ssl"}, True),
        ({"max_connections": 0}, True),
        ({"max_messages_per_connection": 0}, True),
        ({"pipelining": "on"}, True),
        ({"pipelining": "chunked"}, False),
        ({"max_in_flight": 0}, True),
        ({"max_in_flight": 33}, True),
        ({"max_in_flight": 32}, False),
        ({"oauth_provider": "yahoo"}, True),
    ],
)
def test_an_account_that_can_never_connect_is_refused(columns: dict[str, Any], wrong: bool) -> None:
    assert refused(Account, account().pk, **columns) is wrong


def test_there_is_one_row_about_the_outbox() -> None:
    OutboxState.objects.get_or_create(pk=1)
    with pytest.raises(DatabaseError), transaction.atomic():
        OutboxState.objects.create(pk=2)
