"""Rows whose results come late, whose columns a person writes by hand, or whose account's limits change."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django import signals, store
from prx_email_django.compose.attachments import AttachmentInput
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.transports.memory import shared
from prx_email_django.worker.events import announce
from tests.support.factories import (
    MEMORY,
    NOW,
    SECOND,
    account,
    at,
    finish,
    fresh,
    lapse,
    lose,
    mail,
    make_due,
    message,
    results,
    take_one,
)

pytestmark = pytest.mark.django_db
A, B, C = "a@x.org", "b@x.org", "c@x.org"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Any:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


# A message with no recipient left is sent if any was accepted


def test_lost_after_a_late_acceptance_of_all_is_sent_not_at_rest() -> None:
    row = message(account(), to=[A, B], on_unknown="hold")
    stale = take_one(row)
    lose(stale)
    assert fresh(row).is_at_rest
    second = store.operations.claim_one(row.pk, clock=at(), force=False)
    finish(stale, Ending.ACCEPTED)  # late: both recipients are accepted; somebody is sending
    assert results(row) == {A: "accepted", B: "accepted"}
    lapse([second])
    store.recover.recover(clock=at())
    assert fresh(row).status == "sent", (fresh(row).status, fresh(row).next_attempt_at, fresh(row).last_error_code)


def test_retry_of_a_row_whose_recipients_are_all_answered_is_no_failure() -> None:
    row = message(account(), to=[A, B], now=NOW)
    stale = take_one(row)
    lose(stale)
    second = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    store.claims.release([second])
    before = fresh(row)
    result = prx.retry_outbox(row.pk, force=True)
    now = fresh(row)
    assert result.status == "sent"
    assert (now.retries, now.last_error_code, now.last_error) == (before.retries, "", "")


def test_expiry_of_a_row_whose_recipients_were_all_accepted() -> None:
    row = message(account(), to=[A, B], now=NOW)
    stale = take_one(row)
    lose(stale)
    second = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    store.claims.release([second])
    prx.drain(now=NOW + 10 * DAY)
    assert fresh(row).status == "sent", (fresh(row).status, fresh(row).last_error_code)


# A late acceptance marks its recipients, whichever worker has claimed the message meanwhile


def test_late_acceptance_marks_a_recipient_that_the_successor_was_refused() -> None:
    row = message(account(), to=[A, B])
    stale = take_one(row)
    lose(stale)
    finish(take_one(make_due(row)), Ending.ACCEPTED, {B: Answer.REFUSED})
    assert fresh(row).status == "sent"
    finish(stale, Ending.ACCEPTED)
    assert results(row)[B] == "accepted", results(row)


# Recipients permanently refused are signalled, late too


def test_late_refusals_are_signalled() -> None:
    heard: list[Any] = []

    def hear(**given: Any) -> None:
        heard.append(given["recipients"])

    signals.recipients_refused.connect(hear)
    try:
        row = message(account(), to=[A, B])
        stale = take_one(row)
        lose(stale)
        announce([finish(stale, Ending.ACCEPTED, {B: Answer.REFUSED})])
    finally:
        signals.recipients_refused.disconnect(hear)
    assert fresh(row).status == "sent"
    assert results(row)[B] == "refused"
    assert heard == [{B: "550 no such user"}]


def test_a_message_settled_late_still_shows_its_refusal() -> None:
    row = message(account(), to=[A, B])
    stale = take_one(row)
    lose(stale)
    finish(stale, Ending.ACCEPTED, {B: Answer.REFUSED})
    assert fresh(row).last_error_code == "recipients_refused"


# Columns that a person wrote count


def test_a_message_put_off_by_hand_is_not_expired_on_the_day_it_becomes_due() -> None:
    row = message(account(), now=NOW)
    OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=NOW + 6 * DAY)
    prx.drain(now=NOW + 6 * DAY + SECOND)
    assert fresh(row).status == "sent", (fresh(row).status, fresh(row).last_error_code)


def test_a_row_at_rest_made_due_by_hand_is_sent() -> None:
    row = message(account(), now=NOW)
    finish(take_one(row), Ending.PERMANENT)
    assert fresh(row).is_at_rest
    OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=NOW + 6 * DAY)
    prx.drain(now=NOW + 6 * DAY)
    assert fresh(row).status == "sent", (fresh(row).status, fresh(row).last_error_code)


# Confirm


def test_confirm_after_a_persons_retry_does_not_send_it_again() -> None:
    row = message(account(), to=[A], on_unknown="hold")
    lose(take_one(row))
    prx.requeue_outbox([row.pk], now=NOW)  # reopens
    finish(take_one(row), Ending.TEMPORARY)
    now = fresh(row)
    assert now.may_have_been_delivered and now.attempts > now.retries
    assert prx.confirm_outbox([row.pk], now=NOW).changed == 1
    assert fresh(row).status == "sent"


# Message-ID after an unknown outcome whose row was written by hand meanwhile


def test_a_late_unknown_fixes_the_number() -> None:
    row = message(account(), to=[A])
    first = take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(status="pending", next_attempt_at=NOW)
    sent_under = first.message.message_id
    finish(first, Ending.UNKNOWN)
    finish(take_one(row), Ending.TEMPORARY)
    again = take_one(make_due(row))
    assert again.message.message_id == sent_under


def test_a_late_acceptance_after_a_hand_written_status_leaves_an_attempt() -> None:
    row = message(account(), to=[A])
    first = take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(status="failed", next_attempt_at=None)
    finish(first, Ending.ACCEPTED)
    assert fresh(row).status == "sent"
    assert DeliveryAttempt.objects.filter(message=row).count() == 1


# A limit lowered below a queued message


@pytest.mark.parametrize("spent_before", [False, True])
def test_a_message_above_a_lowered_limit_comes_to_rest_and_blocks_nobody(spent_before: bool) -> None:
    """Lowered after it was queued: it never fits, is never claimed, so never expires, and nothing behind it goes."""
    owner = account()
    if spent_before:
        Account.objects.filter(pk=owner.pk).update(rate_limits="5 recipients/minute")
        message(owner, now=NOW)
        assert prx.drain(now=NOW).sent == 1
        Account.objects.filter(pk=owner.pk).update(rate_limits="")
        owner.refresh_from_db()
    big = message(owner, to=[f"r{n}@x.org" for n in range(10)], now=NOW)
    small = message(owner, now=NOW)
    Account.objects.filter(pk=owner.pk).update(rate_limits="5 recipients/minute")
    for hour in range(1, 24 * 12, 6):
        prx.drain(now=NOW + timedelta(hours=hour))
    assert fresh(big).is_at_rest, (fresh(big).status, fresh(big).last_error_code)  # GIVE_UP_AFTER is 5 days
    assert fresh(small).next_attempt_at is None, "nobody waits twelve days behind it"


# Sent under an unknown outcome


def test_unknown_of_a_successor_after_a_late_full_acceptance() -> None:
    row = message(account(), to=[A])
    stale = take_one(row)
    lose(stale)
    second = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    finish(second, Ending.UNKNOWN)
    now = fresh(row)
    assert now.status == "sent"
    assert now.last_error_code == "", now.last_error_code


# Empty attachment


def test_an_empty_attachment_is_sent() -> None:
    owner = account()
    prx.send(**mail(owner, attachment=AttachmentInput("empty.txt", "text/plain", content=b"")))
    assert b"empty.txt" in shared.delivered[0].body


# Windows and a now in the past


def test_a_now_in_the_past_gives_no_second_burst() -> None:
    owner = account(rate_limits="5/minute")
    for _ in range(4):
        prx.send(**mail(owner))
    prx.send(**mail(owner), now=store.db.clock_for(None).now - timedelta(minutes=5))
    codes = [prx.send(**mail(owner)).status for _ in range(5)]
    assert codes.count("sent") == 0, codes
