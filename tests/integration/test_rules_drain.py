"""Drains and single sends over the memory transport: unknown outcomes, recipients, pauses and expiry."""

from __future__ import annotations

import gc
import logging
import math
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.compose import message as compose_message
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage, RateWindow
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.memory import shared
from prx_email_django.worker.loop import WorkerLoop
from tests.support.factories import (
    MEMORY,
    NOW,
    SECOND,
    account,
    backlog,
    fresh,
    mail,
    make_due,
    message,
    outcome,
    results,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("memory_transport")]

A, B, C = "a@x.org", "b@x.org", "c@x.org"


def message_ids() -> list[str]:
    return [delivery.message["Message-ID"] for delivery in shared.delivered]


# Statements


@pytest.mark.django_db(transaction=True)
def test_a_full_drain_costs_at_most_a_fifth_of_a_statement_a_message() -> None:
    backlog(account(max_connections=8), 3000)
    with CaptureQueriesContext(connections[outbox_alias()]) as queries:
        report = prx.drain()
    assert report.sent == len(shared.delivered) == 3000
    counted = [query["sql"] for query in queries if query["sql"].split()[0] not in {"BEGIN", "COMMIT"}]
    # The others are asked for each connection and by the second, of which a busy machine needs many.
    tables = ("outboxmessage", "deliveryattempt", "recipient")
    of_messages = [sql for sql in counted if any(f"prx_email_django_{table}" in sql for table in tables)]
    each, others = len(of_messages) / 3000, len(counted) - len(of_messages)
    print(f"{connections[outbox_alias()].vendor}: {each:.3f} statements a message, {others} others")  # noqa: T201
    kinds = Counter(" ".join(query["sql"].replace("`", '"').split()[:4])[:60] for query in queries)
    assert each <= 0.2, f"{len(of_messages)} statements for 3000 messages: {kinds.most_common(12)}"
    assert others <= 60 + 10 * report.seconds, f"{others} statements in {report.seconds:.1f} s: {kinds.most_common(12)}"


def test_a_claim_and_a_group_cost_the_same_for_any_number_of_messages(django_assert_max_num_queries: Any) -> None:
    owner = account()
    backlog(owner, 60)
    clock = store.db.clock_for(None)
    with django_assert_max_num_queries(8):
        claims = store.claims.claim(owner.pk, limit=50, hold_limit=3, clock=clock).claims
    assert len(claims) == 50
    accepted = [(claim, outcome(Ending.ACCEPTED, claim)) for claim in claims]
    group = [
        store.attempts.FinishedAttempt(claim, said, said.recipients, started_at=clock.now, finished_at=clock.now)
        for claim, said in accepted
    ]
    with django_assert_max_num_queries(4):
        store.finalize.finalize(group, clock=clock)
    assert OutboxMessage.objects.filter(status="sent").count() == 50


def test_connections_that_come_and_go_in_good_order_force_no_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each end and each beginning had everything recorded first that had come back, and the thread waited for it."""
    backlog(account(max_connections=4, max_messages_per_connection=5), 400)
    forced: list[bool] = []
    real = WorkerLoop.record

    def record(self: WorkerLoop, *, everything: bool = False) -> None:
        forced.append(everything)
        real(self, everything=everything)

    monkeypatch.setattr(WorkerLoop, "record", record)
    assert prx.drain().sent == len(shared.delivered) == 400
    assert sum(forced) <= 24, "of 160 ends and beginnings, those at the very end"


# Unknown outcomes


def test_a_copy_after_an_unknown_outcome_has_the_same_message_id_and_date() -> None:
    row = message(account())
    shared.fail_next("body", accept=True)
    assert prx.drain(now=NOW).deferred == 1
    assert fresh(row).last_error_code == "unknown_outcome"
    later = fresh(row).next_attempt_at
    assert prx.drain(now=later).sent == 1
    assert message_ids() == [f"<outbox-{row.pk}-0@prx-email.local>"] * 2
    assert len({delivery.message["Date"] for delivery in shared.delivered}) == 1
    assert (fresh(row).retries, fresh(row).attempts) == (0, 1)


def test_a_retry_after_a_known_failure_has_a_new_message_id() -> None:
    row = message(account())
    shared.fail_next("mail", "451 4.3.0 later")
    prx.drain(now=NOW)
    prx.drain(now=NOW + 10 * SECOND)
    assert message_ids() == [f"<outbox-{row.pk}-1@prx-email.local>"]


def test_a_message_with_hold_is_sent_at_most_once() -> None:
    row = message(account(), on_unknown="hold")
    shared.fail_next("body", accept=True)
    assert prx.drain(now=NOW).failed == 1
    assert prx.drain(now=NOW + timedelta(days=4)).claimed == 0
    assert fresh(row).is_at_rest
    assert len(shared.delivered) == 1
    assert prx.confirm_outbox([row.pk], now=NOW).changed == 1
    assert fresh(row).status == "sent"


def test_a_persons_retry_after_an_unknown_outcome_changes_the_date_and_keeps_the_message_id() -> None:
    row = message(account(), on_unknown="hold")
    shared.fail_next("body", accept=True)
    prx.drain(now=NOW)
    result = prx.retry_outbox(row.pk, now=NOW + timedelta(days=1))
    assert result.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    assert len(set(message_ids())) == 1
    assert len({delivery.message["Date"] for delivery in shared.delivered}) == 2


# Recipients


def test_deferred_recipients_are_tried_alone_and_in_the_same_thread() -> None:
    shared.defer(B)
    shared.refuse(C)
    row = message(account(), to=[A, B, C])
    assert prx.drain(now=NOW).deferred == 1
    shared.reset()
    assert prx.drain(now=NOW + 10 * SECOND).sent == 1
    assert [delivery.recipients for delivery in shared.delivered] == [(B,)]
    assert message_ids() == [f"<outbox-{row.pk}-0@prx-email.local>"]
    assert results(row)[C] == "refused"


def test_a_recipient_beyond_the_servers_limit_costs_one_failure_and_no_endless_loop() -> None:
    shared.defer(C, "452 4.5.3 too many recipients")
    row = message(account(), to=[A, B, C])
    report = prx.drain(now=NOW)
    assert (report.sent, report.deferred, report.failed) == (0, 1, 0)
    assert shared.delivered[0].recipients == (A, B)
    assert fresh(row).retries == 1
    assert results(row) == {A: "accepted", B: "accepted", C: ""}


def test_redirected_mail_does_not_reach_its_real_recipients_and_keeps_their_results(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "REDIRECT_TO": "dev@me.test", "REDIRECT_EXCEPT": ["*@qa.test"]}
    row = message(account(), to=[A, "t@qa.test"], cc=B, bcc=C)
    assert prx.drain(now=NOW).sent == 1
    assert sorted(shared.delivered[0].recipients) == ["dev@me.test", "t@qa.test"]
    assert set(results(row)) == {A, B, C, "t@qa.test"}
    original = shared.delivered[0].message["X-Original-To"]
    assert sorted(original.split(", ")) == [A, B, C]


# Pauses


def test_a_refused_password_costs_none_of_ten_messages_an_attempt() -> None:
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
    assert min(count for count in claimed if count) == 1


@pytest.mark.parametrize("scope", ["account", "everything"])
def test_a_pause_stops_drain_and_send_but_not_a_retry_by_a_person(scope: str) -> None:
    owner = account()
    row = message(owner)
    prx.pause_outbox(owner if scope == "account" else None, reason="holiday")
    assert prx.drain(now=NOW).claimed == 0
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code) == ("pending", "paused")
    assert shared.opened == []
    assert prx.retry_outbox(row.pk, now=NOW).status == "sent"
    assert prx.drain().claimed == 0, "a success does not end a pause that a person set"
    prx.resume_outbox(owner if scope == "account" else None)
    assert prx.drain().sent == 1


def test_a_successful_retry_by_a_person_ends_a_workers_pause() -> None:
    owner = account()
    row = message(owner)
    shared.fail_next("auth", "535 5.7.8 no")
    prx.drain(now=NOW)
    assert owner.pause_reason
    assert prx.retry_outbox(row.pk, now=NOW).status == "sent"
    assert owner.pause_reason == ""


@pytest.mark.parametrize("mode", ["network", "provider", "provider_permanent"])
def test_a_simulated_failure_takes_no_slot_or_permit_and_counts_no_connection_failure(mode: str) -> None:
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


def test_a_dead_account_does_not_delay_another() -> None:
    dead, healthy = account("a dead account"), account("healthy")
    message(dead)
    row = message(healthy)
    shared.fail_next("connect")
    prx.drain(now=NOW)
    prx.drain(now=NOW)
    assert fresh(row).status == "sent"


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


# Expiry


def test_an_expired_message_is_given_up_at_the_claim_and_not_sent(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "GIVE_UP_AFTER": "2h", "MAX_BACKOFF": "1h"}
    owner = account(rate_limits="5/hour")
    expired, old, good = message(owner, expires_at=NOW + SECOND), message(owner), message(owner)
    OutboxMessage.objects.filter(pk=old.pk).update(due_since=NOW - timedelta(hours=3))
    report = prx.drain(now=NOW + 2 * SECOND)
    assert (report.expired, report.sent) == (2, 1)
    assert {fresh(row).last_error_code for row in (expired, old)} == {"expired"}
    assert fresh(good).status == "sent"
    assert sum(RateWindow.objects.get().counts) == 1, "the expired messages use no permits"


def test_an_expired_message_is_not_logged_as_an_unknown_outcome(caplog: pytest.LogCaptureFixture) -> None:
    """An alarm for unknown outcomes must not be raised by a message that was never sent."""
    message(account(), expires_at=NOW + SECOND)
    prx.drain(now=NOW + 2 * SECOND)
    (record,) = [record for record in caplog.records if record.name == "prx_email_django"]
    assert (record.levelno, record.outcome, record.error_code) == (logging.WARNING, "at rest", "expired")


@pytest.mark.parametrize("mode", [None, "network"])
def test_a_send_does_not_deliver_what_has_expired(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The call refuses such an instant: this shows that the claim does not rely on it.
    monkeypatch.setattr(compose_message, "check_not_expired", lambda *_, **__: None)
    owner = account(max_connections=1, rate_limits="1/day")
    result = prx.send(**mail(owner), now=NOW, expires_at=NOW - SECOND, failure_mode=mode)
    assert (result.status, result.error_code, result.next_attempt_at) == ("failed", "expired", None)
    row = OutboxMessage.objects.get()
    assert (row.is_at_rest, row.retries, row.attempts, row.claim_expires_at) == (True, 0, 0, None)
    assert not DeliveryAttempt.objects.exists()
    assert not shared.delivered
    assert prx.send(**mail(owner), now=NOW).status == "sent", "neither the connection nor a permit was kept"


def test_a_message_that_cannot_be_rendered_fails_alone() -> None:
    owner = account()
    part = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"x" * 100)
    broken, good = message(owner, attachment=part), message(owner)
    broken.attachments.get().content.chunks.update(data=b"altered")
    report = prx.drain(now=NOW)
    assert (report.sent, report.failed) == (1, 1)
    assert (fresh(broken).is_at_rest, fresh(broken).last_error_code) == (True, "attachment")
    assert fresh(good).status == "sent"


def test_the_backoff_of_a_drain_is_the_published_table() -> None:
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
    """A late acceptance was recorded after the claim and before the claim read the recipients."""
    row = message(account())
    row.recipients.update(result="accepted")
    make_due(row)
    prx.drain(now=NOW)
    assert fresh(row).status == "sent"
    assert shared.delivered == []


@pytest.mark.django_db(transaction=True)
def test_an_attachment_that_cannot_be_read_now_does_not_put_its_message_at_rest() -> None:
    """Content is read while the message is rendered: the database may be away just then."""
    owner = account()
    file = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"content")
    row = message(owner, attachments=[file])
    failures = 1

    def away_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal failures
        if "contentchunk" in sql and failures:
            failures -= 1
            raise OperationalError("server closed the connection unexpectedly")
        return execute(sql, params, many, context)

    with connections[outbox_alias()].execute_wrapper(away_once):
        assert prx.drain(now=NOW).sent == 1
    assert not failures
    assert fresh(row).status == "sent"


@pytest.mark.django_db
def test_full_collections_leave_out_what_the_host_held_before_a_drain_and_only_as_long_as_it_lasts() -> None:
    message(account())
    frozen: list[int] = []
    gc.unfreeze()
    prx.drain(now=NOW, progress=lambda report: frozen.append(gc.get_freeze_count()))
    assert frozen and min(frozen) > 1000, "the objects of this process"
    assert gc.get_freeze_count() == 0


@pytest.mark.django_db
@pytest.mark.parametrize(("hosts", "during"), [((700, 10, 10), 10_000), ((50_000, 20, 5), 50_000), ((0, 0, 0), 0)])
def test_the_collector_of_cycles_looks_at_new_objects_less_often_during_a_drain(
    hosts: tuple[int, int, int], during: int
) -> None:
    message(account())
    before, seen = gc.get_threshold(), set[int]()
    gc.set_threshold(*hosts)
    try:
        prx.drain(now=NOW, progress=lambda report: seen.add(gc.get_threshold()[0]))
        assert (seen, gc.get_threshold()) == ({during}, hosts)
    finally:
        gc.set_threshold(*before)


@pytest.mark.django_db
def test_what_the_host_has_frozen_stays_frozen() -> None:
    message(account())
    gc.freeze()
    try:
        prx.drain(now=NOW)
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
