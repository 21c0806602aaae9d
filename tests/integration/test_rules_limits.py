"""Connection limits, rate limits and pauses in drains and single sends over the memory transport."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import ConnectionSlot, OutboxMessage, RateWindow
from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.memory import shared
from tests.support.factories import (
    NOW,
    SECOND,
    account,
    at,
    finish,
    fresh,
    mail,
    message,
    take_one,
)
from tests.support.slots import acquire_slot

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("memory_transport")]

A, B, C = "a@x.org", "b@x.org", "c@x.org"


def test_a_send_without_a_free_connection_does_not_wait() -> None:
    owner = account(max_connections=1)
    acquire_slot(owner, noted=set(), clock=at(None))
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code, result.retries) == ("pending", "limited", 0)
    assert result.error == "its 1 connection is in use"
    row = OutboxMessage.objects.get()
    assert (row.status, row.claim_token) == ("pending", None), "without a slot nothing is claimed"


def test_a_retry_without_a_free_connection_requeues() -> None:
    owner = account(max_connections=1)
    row = message(owner)
    finish(take_one(row), Ending.PERMANENT)
    acquire_slot(owner, noted=set(), clock=at(None))
    result = prx.retry_outbox(row.pk, now=NOW)
    assert (result.status, result.error_code, result.next_attempt_at) == ("failed", "limited", NOW)
    assert result.error == "its 1 connection is in use"


def test_a_send_without_a_permit_releases_its_message() -> None:
    owner = account(rate_limits="1/day")
    assert prx.send(**mail(owner)).status == "sent"
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code, result.retries) == ("pending", "limited", 0)
    assert result.error.startswith("limit 1/day reached, sending continues at ")
    assert fresh(OutboxMessage.objects.get(pk=result.outbox_id)).status == "pending"
    assert len(shared.delivered) == 1
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_retry_without_a_permit_names_the_limit() -> None:
    owner = account(rate_limits="100/minute, 1/day")
    prx.send(**mail(owner))
    row = message(owner)
    result = prx.retry_outbox(row.pk)
    assert result.error_code == "limited"
    assert result.error.startswith("limit 1/day reached")


def test_a_send_to_more_recipients_than_the_limit_has_left_names_the_limit() -> None:
    owner = account(rate_limits="3 recipients/day")
    prx.send(**mail(owner, to=[A, B]))
    result = prx.send(**mail(owner, to=[A, B]))
    assert (result.status, result.error_code) == ("pending", "limited")
    assert result.error == "too little is left of 3 recipients/day for all its recipients"


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_a_send_during_a_pause_returns_the_reason_and_the_end(everything: bool, ends: bool) -> None:
    owner = account()
    until = NOW + timedelta(days=2) if ends else None
    prx.pause_outbox(None if everything else owner, reason="stock taking", until=until)
    result = prx.send(**mail(owner), now=NOW)
    assert (result.status, result.error_code) == ("pending", "paused")
    words = "paused by a person until 2026-01-07" if ends else "paused until a person resumes it"
    assert words in result.error
    assert result.error.endswith(": stock taking")
    assert result.error.startswith("everything is ") is everything


def test_a_known_key_returns_the_error_of_its_row_and_not_the_pause() -> None:
    owner = account()
    first = prx.send(**mail(owner), idempotency_key="k", failure_mode="provider_permanent")
    prx.pause_outbox(owner, reason="stock taking")
    again = prx.send(**mail(owner), idempotency_key="k")
    assert (again.error, again.error_code) == (first.error, "provider")


def test_a_drain_sends_no_more_than_the_limit_and_returns() -> None:
    owner = account(rate_limits="5/hour")
    for _ in range(12):
        message(owner)
    report = prx.drain(now=NOW)
    assert (report.sent, len(shared.delivered)) == (5, 5)
    assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 7
    assert prx.drain(now=NOW + timedelta(minutes=30)).sent == 0
    assert prx.drain(now=NOW + timedelta(minutes=64)).sent == 5


def test_recipients_are_counted_by_the_envelope() -> None:
    owner = account(rate_limits="5 recipients/hour")
    for number in range(4):
        message(owner, to=[f"a{number}@x.org", f"b{number}@x.org"])
    assert prx.drain(now=NOW).sent == 2
    assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 2
    assert sum(len(delivery.recipients) for delivery in shared.delivered) == 4
    (window,) = RateWindow.objects.all()
    assert sum(window.counts) == 4, "messages that were not sent use no permits"


@pytest.mark.parametrize(("stand_ins", "recipients", "sent"), [(["q@x.org", "r@x.org"], 1, 3), (["q@x.org"], 3, 6)])
def test_redirected_recipients_are_counted_by_the_envelope(
    settings: Any, stand_ins: list[str], recipients: int, sent: int
) -> None:
    settings.PRX_EMAIL = settings.PRX_EMAIL | {"REDIRECT_TO": stand_ins}
    owner = account(rate_limits="6 recipients/day")
    for _ in range(8):
        message(owner, to=[A, B, C][:recipients])
    assert prx.drain(now=NOW).sent == sent
    assert sum(len(delivered.recipients) for delivered in shared.delivered) == 6


def test_a_message_with_more_recipients_than_the_limit_is_refused_at_the_call() -> None:
    owner = account(rate_limits="2 recipients/day")
    with pytest.raises(InvalidMessage) as refused:
        message(owner, to=[A, B, C])
    assert refused.value.code == "invalid_option"
    assert not OutboxMessage.objects.exists()


def test_released_messages_release_their_permits() -> None:
    owner = account(rate_limits="6/hour")
    for _ in range(6):
        message(owner)
    shared.fail_next("auth", "535 5.7.8 no")
    prx.drain(now=NOW)
    assert sum(sum(window.counts) for window in RateWindow.objects.all()) == 0
    assert prx.drain(now=NOW + 30 * SECOND).sent == 6


def test_a_drain_claims_no_more_than_its_limit() -> None:
    owner = account()
    for _ in range(9):
        message(owner)
    assert prx.drain(now=NOW, limit=4).claimed == 4
    shared.fail_next("auth", "535 5.7.8 no")
    assert prx.drain(now=NOW, limit=0).claimed == 0
    assert account_state(owner).pause_count == 0, "the drain connected although it may send nothing"
    assert len(shared.delivered) == 4
