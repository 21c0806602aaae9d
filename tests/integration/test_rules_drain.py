"""The machine in motion, over the memory transport: what a drain and a single send make of limits, doubt and pauses."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.errors import InvalidMessage
from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.slots import acquire_slot
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage, RateWindow
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.memory import shared
from tests.support.factories import (
    MEMORY,
    NOW,
    SECOND,
    account,
    at,
    backlog,
    finish,
    fresh,
    mail,
    make_due,
    message,
    outcome,
    results,
    take_one,
)

pytestmark = pytest.mark.django_db

A, B, C = "a@x.org", "b@x.org", "c@x.org"


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Iterator[None]:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def headers() -> list[str]:
    return [one.message["Message-ID"] for one in shared.delivered]


# Statements


@pytest.mark.django_db(transaction=True)
def test_a_full_drain_costs_at_most_a_fifth_of_a_statement_a_message() -> None:
    backlog(account(max_connections=8), 3000)
    with CaptureQueriesContext(connections[outbox_alias()]) as queries:
        report = prx.drain()
    assert report.sent == len(shared.delivered) == 3000
    counted = [one["sql"] for one in queries if one["sql"].split()[0] not in {"BEGIN", "COMMIT"}]
    each = len(counted) / 3000
    print(f"{connections[outbox_alias()].vendor}: {each:.3f} statements a message")  # noqa: T201
    kinds = Counter(" ".join(one["sql"].replace("`", '"').split()[:4])[:60] for one in queries)
    assert each <= 0.2, f"{len(counted)} statements for 3000 messages: {kinds.most_common(12)}"


def test_a_claim_and_a_group_cost_the_same_however_many_messages(django_assert_max_num_queries: Any) -> None:
    owner = account()
    backlog(owner, 60)
    clock = store.db.clock_for(None)
    with django_assert_max_num_queries(8):
        claims = store.claims.claim(owner.pk, limit=50, hold_limit=3, clock=clock).claims
    assert len(claims) == 50
    said = [outcome(Ending.ACCEPTED, one) for one in claims]
    group = [
        store.attempts.FinishedAttempt(one, words, words.recipients, started_at=clock.now, finished_at=clock.now)
        for one, words in zip(claims, said, strict=True)
    ]
    with django_assert_max_num_queries(4):
        store.finalize.finalize(group, clock=clock)
    assert OutboxMessage.objects.filter(status="sent").count() == 50


# Doubt


def test_a_copy_after_doubt_bears_the_same_message_id_and_date() -> None:
    row = message(account())
    shared.fail_next("body", accept=True)
    assert prx.drain(now=NOW).deferred == 1
    assert fresh(row).last_error_code == "unknown_outcome"
    later = fresh(row).next_attempt_at
    assert prx.drain(now=later).sent == 1
    assert headers() == [f"<outbox-{row.pk}-0@prx-email.local>"] * 2
    assert len({one.message["Date"] for one in shared.delivered}) == 1
    assert (fresh(row).retries, fresh(row).attempts) == (0, 1)


def test_a_retry_after_a_known_failure_bears_a_new_message_id() -> None:
    row = message(account())
    shared.fail_next("mail", "451 4.3.0 later")
    prx.drain(now=NOW)
    prx.drain(now=NOW + 10 * SECOND)
    assert headers() == [f"<outbox-{row.pk}-1@prx-email.local>"]


def test_hold_sends_at_most_once() -> None:
    row = message(account(), on_unknown="hold")
    shared.fail_next("body", accept=True)
    assert prx.drain(now=NOW).failed == 1
    assert prx.drain(now=NOW + timedelta(days=4)).claimed == 0
    assert fresh(row).is_at_rest
    assert len(shared.delivered) == 1
    assert prx.confirm_outbox([row.pk], now=NOW).changed == 1
    assert fresh(row).status == "sent"


def test_a_persons_retry_changes_the_date_and_keeps_a_doubtful_message_id() -> None:
    row = message(account(), on_unknown="hold")
    shared.fail_next("body", accept=True)
    prx.drain(now=NOW)
    result = prx.retry_outbox(row.pk, now=NOW + timedelta(days=1))
    assert result.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    assert len(set(headers())) == 1
    assert len({one.message["Date"] for one in shared.delivered}) == 2


# Recipients


def test_recipients_that_were_put_off_are_served_alone_and_in_the_same_thread() -> None:
    shared.defer(B)
    shared.refuse(C)
    row = message(account(), to=[A, B, C])
    assert prx.drain(now=NOW).deferred == 1
    shared.reset()
    assert prx.drain(now=NOW + 10 * SECOND).sent == 1
    assert [one.recipients for one in shared.delivered] == [(B,)]
    assert headers() == [f"<outbox-{row.pk}-0@prx-email.local>"]
    assert results(row)[C] == "refused"


def test_a_recipient_that_never_fits_is_one_failure_and_no_endless_loop() -> None:
    shared.defer(C, "452 4.5.3 too many recipients")
    row = message(account(), to=[A, B, C])
    report = prx.drain(now=NOW)
    assert (report.sent, report.deferred, report.failed) == (0, 1, 0)
    assert shared.delivered[0].recipients == (A, B)
    assert fresh(row).retries == 1
    assert results(row) == {A: "accepted", B: "accepted", C: ""}


def test_redirected_mail_reaches_nobody_real_and_tells_the_real_rows(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "REDIRECT_TO": "dev@me.test", "REDIRECT_EXCEPT": ["*@qa.test"]}
    row = message(account(), to=[A, "t@qa.test"], cc=B, bcc=C)
    assert prx.drain(now=NOW).sent == 1
    assert sorted(shared.delivered[0].recipients) == ["dev@me.test", "t@qa.test"]
    assert set(results(row)) == {A, B, C, "t@qa.test"}
    original = shared.delivered[0].message["X-Original-To"]
    assert sorted(original.split(", ")) == [A, B, C]


# The account's trouble


def test_ten_messages_do_not_burn_an_attempt_each_against_a_refused_password() -> None:
    owner = account()
    rows = [message(owner) for _ in range(10)]
    shared.fail_next("auth", "535 5.7.8 no")
    report = prx.drain(now=NOW)
    assert (report.sent, report.deferred, report.failed) == (0, 0, 0)
    assert {(fresh(row).status, fresh(row).attempts) for row in rows} == {("pending", 0)}
    assert owner.paused_until == NOW + 30 * SECOND
    assert prx.drain(now=NOW + 29 * SECOND).claimed == 0
    assert prx.drain(now=NOW + 30 * SECOND).sent == 10
    assert owner.pause_reason == ""
    assert not DeliveryAttempt.objects.exclude(outcome="sent").exists()


def test_a_pause_that_ends_is_probed_with_one_message() -> None:
    owner = account()
    for _ in range(10):
        message(owner)
    shared.fail_next("auth", "535 5.7.8 no")
    prx.drain(now=NOW)
    shared.fail_next("mail", "451 4.3.2 not now")
    claimed: list[int] = []
    prx.drain(now=NOW + 30 * SECOND, progress=lambda report: claimed.append(report.claimed))
    assert 1 in claimed
    assert min(one for one in claimed if one) == 1


@pytest.mark.parametrize("who", ["account", "everything"])
def test_paused_is_paused_for_drain_and_send_and_not_for_who_asks(who: str) -> None:
    owner = account()
    row = message(owner)
    prx.pause_outbox(owner if who == "account" else None, reason="holiday")
    assert prx.drain(now=NOW).claimed == 0
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code) == ("pending", "paused")
    assert shared.opened == []
    assert prx.retry_outbox(row.pk, now=NOW).status == "sent"
    assert prx.drain().claimed == 0, "a success ends no pause that a person set"
    prx.resume_outbox(owner if who == "account" else None)
    assert prx.drain().sent == 1


def test_a_success_that_somebody_asked_for_ends_a_workers_pause() -> None:
    owner = account()
    row = message(owner)
    shared.fail_next("auth", "535 5.7.8 no")
    prx.drain(now=NOW)
    assert owner.pause_reason
    assert prx.retry_outbox(row.pk, now=NOW).status == "sent"
    assert owner.pause_reason == ""


@pytest.mark.parametrize("mode", ["network", "provider", "provider_permanent"])
def test_a_simulated_failure_takes_and_causes_nothing(mode: str) -> None:
    owner = account(rate_limits="1/day")
    prx.pause_outbox(owner, reason="holiday")
    result = prx.send(**mail(owner), now=NOW, failure_mode=mode)
    assert (result.status, result.retries) == ("failed", 1)
    assert (result.next_attempt_at is None) is (mode == "provider_permanent")
    assert result.error_code == ("network" if mode == "network" else "provider")
    assert not ConnectionSlot.objects.exists()
    assert not RateWindow.objects.exists()
    assert account_state(owner).connection_failures == 0
    assert shared.opened == []


def test_one_dead_account_never_holds_up_another() -> None:
    dead, well = account("a dead one"), account("well")
    message(dead)
    row = message(well)
    shared.fail_next("connect")
    prx.drain(now=NOW)
    prx.drain(now=NOW)
    assert fresh(row).status == "sent"


# Limits


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


def test_a_send_without_a_permit_gives_its_message_back() -> None:
    owner = account(rate_limits="1/day")
    assert prx.send(**mail(owner)).status == "sent"
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code, result.retries) == ("pending", "limited", 0)
    assert result.error.startswith("limit 1/day reached, sending continues at ")
    assert fresh(OutboxMessage.objects.get(pk=result.outbox_id)).status == "pending"
    assert len(shared.delivered) == 1
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_retry_without_a_permit_tells_which_limit() -> None:
    owner = account(rate_limits="100/minute, 1/day")
    prx.send(**mail(owner))
    row = message(owner)
    result = prx.retry_outbox(row.pk)
    assert result.error_code == "limited"
    assert result.error.startswith("limit 1/day reached")


def test_a_send_to_more_recipients_than_are_left_tells_so() -> None:
    owner = account(rate_limits="3 recipients/day")
    prx.send(**mail(owner, to=[A, B]))
    result = prx.send(**mail(owner, to=[A, B]))
    assert (result.status, result.error_code) == ("pending", "limited")
    assert result.error == "too little is left of 3 recipients/day for all its recipients"


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_a_send_into_a_pause_tells_the_reason_and_the_end(everything: bool, ends: bool) -> None:
    owner = account()
    until = NOW + timedelta(days=2) if ends else None
    prx.pause_outbox(None if everything else owner, reason="stock taking", until=until)
    result = prx.send(**mail(owner), now=NOW)
    assert (result.status, result.error_code) == ("pending", "paused")
    words = "paused by a person until 2026-01-07" if ends else "paused until a person resumes it"
    assert words in result.error
    assert result.error.endswith(": stock taking")
    assert result.error.startswith("everything is ") is everything


def test_a_known_key_tells_what_its_row_says_and_no_pause() -> None:
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
    assert sum(len(one.recipients) for one in shared.delivered) == 4
    (window,) = RateWindow.objects.all()
    assert sum(window.counts) == 4, "what was not sent has cost nothing"


def test_a_message_with_more_recipients_than_the_limit_is_refused_at_the_call() -> None:
    owner = account(rate_limits="2 recipients/day")
    with pytest.raises(InvalidMessage) as refused:
        message(owner, to=[A, B, C])
    assert refused.value.code == "invalid_option"
    assert not OutboxMessage.objects.exists()


def test_released_messages_give_their_permits_back() -> None:
    owner = account(rate_limits="6/hour")
    for _ in range(6):
        message(owner)
    shared.fail_next("auth", "535 5.7.8 no")
    prx.drain(now=NOW)
    assert sum(sum(one.counts) for one in RateWindow.objects.all()) == 0
    assert prx.drain(now=NOW + 30 * SECOND).sent == 6


def test_a_drain_takes_no_more_than_it_was_asked_for() -> None:
    owner = account()
    for _ in range(9):
        message(owner)
    assert prx.drain(now=NOW, limit=4).claimed == 4
    shared.fail_next("auth", "535 5.7.8 no")
    assert prx.drain(now=NOW, limit=0).claimed == 0
    assert account_state(owner).pause_count == 0, "it logged in only to send nothing"
    assert len(shared.delivered) == 4


def test_a_drain_of_one_account_leaves_the_others_alone() -> None:
    first, second = account("first"), account("second")
    message(first), message(second)
    assert prx.drain(now=NOW, accounts="first").sent == 1
    assert prx.drain(now=NOW, accounts=[second]).sent == 1


def test_an_account_that_is_switched_off_sends_nothing() -> None:
    owner = account()
    row = message(owner)
    owner.is_active = False
    owner.save()
    assert prx.drain(now=NOW).claimed == 0
    assert fresh(row).status == "pending"


# Age


def test_what_expired_is_given_up_at_claim_and_not_sent(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "GIVE_UP_AFTER": "2h", "MAX_BACKOFF": "1h"}
    owner = account(rate_limits="5/hour")
    expired, old, good = message(owner, expires_at=NOW + SECOND), message(owner), message(owner)
    OutboxMessage.objects.filter(pk=old.pk).update(due_since=NOW - timedelta(hours=3))
    report = prx.drain(now=NOW + 2 * SECOND)
    assert (report.expired, report.sent) == (2, 1)
    assert {fresh(row).last_error_code for row in (expired, old)} == {"expired"}
    assert fresh(good).status == "sent"
    assert sum(RateWindow.objects.get().counts) == 1, "no permit was spent on them"


def test_a_message_that_expired_is_not_logged_as_one_in_doubt(caplog: pytest.LogCaptureFixture) -> None:
    """An operator who is alarmed by ``outcome unknown`` would be woken by what nobody ever sent."""
    message(account(), expires_at=NOW + SECOND)
    prx.drain(now=NOW + 2 * SECOND)
    (record,) = [one for one in caplog.records if one.name == "prx_email_django"]
    assert (record.levelno, record.outcome, record.error_code) == (logging.WARNING, "at rest", "expired")


@pytest.mark.parametrize("mode", [None, "network"])
def test_a_send_does_not_deliver_what_has_expired(mode: str | None) -> None:
    owner = account(max_connections=1, rate_limits="1/day")
    result = prx.send(**mail(owner), now=NOW, expires_at=NOW - SECOND, failure_mode=mode)
    assert (result.status, result.error_code, result.next_attempt_at) == ("failed", "expired", None)
    row = OutboxMessage.objects.get()
    assert (row.is_at_rest, row.retries, row.attempts, row.claim_expires_at) == (True, 0, 0, None)
    assert not DeliveryAttempt.objects.exists()
    assert not shared.delivered
    assert prx.send(**mail(owner), now=NOW).status == "sent", "neither the connection nor a permit was kept"


def test_what_cannot_be_rendered_fails_alone() -> None:
    owner = account()
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"x" * 100)
    broken, good = message(owner, attachment=part), message(owner)
    broken.attachments.get().content.chunks.update(data=b"altered")
    report = prx.drain(now=NOW)
    assert (report.sent, report.failed) == (1, 1)
    assert (fresh(broken).is_at_rest, fresh(broken).last_error_code) == (True, "attachment")
    assert fresh(good).status == "sent"


def test_backoff_is_the_published_table_through_the_whole_machine() -> None:
    row = message(account())
    now, waits = NOW, []
    for _ in range(8):
        shared.fail_next("mail", "451 4.3.0 later")
        prx.drain(now=now)
        due = fresh(row).next_attempt_at
        assert due is not None
        waits.append((due - now).total_seconds())
        now = due
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert math.log2(waits[-1] / 5) == fresh(row).retries == 8


def test_an_unsent_message_whose_recipients_were_all_answered_is_not_sent_again() -> None:
    """A late acceptance came between the claim and its reading of the recipients."""
    row = message(account())
    row.recipients.update(result="accepted")
    make_due(row)
    prx.drain(now=NOW)
    assert fresh(row).status == "sent"
    assert shared.delivered == []
