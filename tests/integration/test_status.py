"""The figures of the outbox: a monitor can rely on them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings

from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage, OutboxState, RateWindow
from prx_email_django.models.runtime_state import PausedBy
from prx_email_django.status.facts import account_facts, message_reason
from prx_email_django.status.figures import Health, judge, outbox_status
from prx_email_django.status.reasons import account_sentence, message_sentence
from tests.support.factories import account_reason

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEYS = {
    "version",
    "due",
    "oldest_due_seconds",
    "sending",
    "at_rest",
    "unknown",
    "in_doubt",
    "expired_leases",
    "accounts_paused",
    "last_drain_at",
}


@pytest.fixture
def account() -> Account:
    return Account.objects.create(name="main", host="127.0.0.1", port=25, security="none", auth_method="none")


def message(account: Account, **fields: Any) -> OutboxMessage:
    values = {"next_attempt_at": NOW - MINUTE, "due_since": NOW - MINUTE, **fields}
    return OutboxMessage.objects.create(account=account, to=["ann@example.org"], subject="s", **values)


def sending(account: Account, *, until: datetime) -> OutboxMessage:
    return message(account, status="sending", claim_token=uuid.uuid4(), claim_expires_at=until)


def test_an_empty_outbox_is_well_and_writes_nothing() -> None:
    figures = outbox_status(now=NOW)
    assert set(figures) >= KEYS
    assert figures["version"] == 1
    assert (figures["due"], figures["oldest_due_seconds"], figures["last_drain_at"]) == (0, None, None)
    assert judge(figures, max_age=MINUTE) == (Health.WELL, "well")
    assert not OutboxState.objects.exists()


def test_every_message_is_counted_where_it_stands(account: Account) -> None:
    message(account, next_attempt_at=NOW - 5 * MINUTE)
    message(account, status="failed", retries=1, attempts=1)
    message(account, next_attempt_at=NOW + MINUTE)
    message(account, status="failed", next_attempt_at=None, attempts=1)
    message(account, status="sent", next_attempt_at=None, sent_at=NOW, attempts=1)
    sending(account, until=NOW + MINUTE)
    sending(account, until=NOW - 3 * MINUTE)
    OutboxState.objects.create(pk=1, last_drain_at=NOW)
    figures = outbox_status(now=NOW)
    wanted = {"due": 2, "waiting": 1, "at_rest": 1, "unknown": 1, "sending": 2, "expired_leases": 1}
    assert {key: figures[key] for key in wanted} == wanted
    assert figures["oldest_due_seconds"] == 300
    assert figures["oldest_expired_lease_seconds"] == 180
    assert figures["last_drain_at"] == "2026-11-24T14:00:00+00:00"
    assert json.loads(json.dumps(figures)) == figures


def test_each_account_has_its_own_figures(account: Account) -> None:
    other = Account.objects.create(name="bulk", host="127.0.0.1", port=25, security="none", auth_method="none")
    message(other)
    AccountState.objects.create(
        account=other, paused_by=PausedBy.WORKER, pause_reason="quota", paused_until=NOW + MINUTE
    )
    figures = outbox_status(now=NOW)
    assert figures["accounts_paused"] == 1
    by_name = {account["name"]: account for account in figures["accounts"]}
    assert (by_name["bulk"]["due"], by_name["main"]["due"]) == (1, 0)
    assert by_name["bulk"]["pause_reason"] == "quota"
    assert by_name["main"]["why"] == "may send"


def test_a_pause_that_is_over_is_no_pause(account: Account) -> None:
    AccountState.objects.create(account=account, paused_by=PausedBy.WORKER, pause_reason="quota", paused_until=NOW)
    assert outbox_status(now=NOW)["accounts_paused"] == 0


@pytest.mark.parametrize(
    ("due", "lease", "health"),
    [(9, None, Health.WELL), (11, None, Health.LATE), (None, -9, Health.WELL), (None, -11, Health.LATE)],
)
def test_mail_that_no_worker_sends_is_late(
    account: Account, due: int | None, lease: int | None, health: Health
) -> None:
    if due is not None:
        message(account, next_attempt_at=NOW - due * MINUTE)
    if lease is not None:
        sending(account, until=NOW + lease * MINUTE)
    assert judge(outbox_status(now=NOW), max_age=10 * MINUTE)[0] is health


def test_a_copied_database_is_broken_until_it_is_adopted() -> None:
    OutboxState.objects.create(pk=1, instance="production")
    with override_settings(PRX_EMAIL={"INSTANCE": "staging"}):
        health, reason = judge(outbox_status(now=NOW), max_age=MINUTE)
    assert health is Health.BROKEN
    assert "production" in reason
    assert "outbox_adopt" in reason
    with override_settings(PRX_EMAIL={"INSTANCE": "production"}):
        assert judge(outbox_status(now=NOW), max_age=MINUTE)[0] is Health.WELL


def test_the_reasons_that_workers_share_are_read_from_their_rows(account: Account) -> None:
    account.rate_limits = "2/minute"
    account.max_connections = 1
    account.save()
    assert account_reason(account, now=NOW) == "may send"
    ConnectionSlot.objects.create(account=account, number=1, token=uuid.uuid4(), expires_at=NOW + MINUTE)
    assert account_reason(account, now=NOW) == "its 1 connection is in use"
    RateWindow.objects.create(account=account, limit_key="messages/60", bucket=int(NOW.timestamp() // 3), counts=[2])
    assert account_reason(account, now=NOW).startswith("limit 2/minute reached, sending continues at ")
    AccountState.objects.create(account=account, pause_reason="refused", paused_by=PausedBy.WORKER)
    due = message(account)
    assert account_reason(account, now=NOW) == "paused until a person resumes it: refused"
    assert message_reason(due, now=NOW) == "its account is paused until a person resumes it: refused"
    OutboxState.objects.create(pk=1, pause_reason="holidays", paused_at=NOW)
    assert message_reason(due, now=NOW) == "everything is paused until a person resumes it: holidays"


def test_a_lost_workers_connection_is_not_in_use(account: Account) -> None:
    for number in (1, 2, 3):
        ConnectionSlot.objects.create(account=account, number=number, token=uuid.uuid4(), expires_at=NOW)
    assert account_reason(account, now=NOW) == "may send"


def test_limits_that_cannot_be_read_do_not_hide_the_page(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(rate_limits="many")
    assert outbox_status(now=NOW)["accounts"][0]["why"].startswith("it cannot work: rate_limits: ")


def test_a_list_of_messages_needs_no_query_for_each(account: Account, django_assert_num_queries: Any) -> None:
    messages = [message(account) for _ in range(5)]
    facts = account_facts(now=NOW)
    with django_assert_num_queries(0):
        assert {message_sentence(row, facts[account.pk], now=NOW) for row in messages} == {"due, waiting for a worker"}
        assert account_sentence(facts[account.pk], now=NOW) == "may send"


def test_many_accounts_cost_no_more_than_one(account: Account, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(5):
        account_facts(now=NOW)
    for number in range(5):
        Account.objects.create(name=str(number), host="127.0.0.1", port=25, security="none", auth_method="none")
    with django_assert_num_queries(5):
        account_facts(now=NOW)


def test_without_a_time_the_databases_clock_is_asked(account: Account) -> None:
    message(account, next_attempt_at=datetime.now(UTC) - timedelta(hours=1), due_since=datetime.now(UTC))
    assert 3590 < outbox_status()["oldest_due_seconds"] < 3700
