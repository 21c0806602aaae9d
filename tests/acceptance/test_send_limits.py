"""``send`` without a slot, without a permit, during a pause, with a known key, and with more recipients than fit."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.api import sending
from prx_email_django.errors import RetryRejected
from prx_email_django.models import AccountState, ConnectionSlot, OutboxMessage, RateWindow
from prx_email_django.worker.outgoing import ClaimedMessage
from tests.acceptance.workers import assert_all_released, outbox
from tests.support.factories import mail
from tests.support.patience import PATIENCE
from tests.support.threads import Sending

pytestmark = pytest.mark.django_db(transaction=True)


def test_without_a_slot_the_message_stays_pending_and_due() -> None:
    with outbox(max_connections=1) as (server, account):
        stalled = server.on("final", stall=True, times=1)
        first = Sending(**mail(account, to="first@example.org"))
        assert stalled.reached.wait(PATIENCE)
        result = prx.send(**mail(account))
        assert (result.status, result.error_code, result.retries) == ("pending", "limited", 0), result
        assert result.next_attempt_at is not None
        row = OutboxMessage.objects.get(pk=result.outbox_id)
        assert (row.claim_token, row.attempts) == (None, 0)
        again = prx.retry_outbox(row.pk)
        assert (again.status, again.error_code) == ("pending", "limited")
        server.release(stalled)
        assert first.outcome().status == "sent"
        assert prx.drain().sent == 1
        assert_all_released()


def test_a_message_that_is_deleted_while_its_retry_waits_for_nothing_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requeue = sending.requeue

    def requeued_and_deleted(*args: Any, **options: Any) -> Any:
        report = requeue(*args, **options)
        OutboxMessage.objects.filter(status="pending").delete()
        return report

    with outbox(rate_limits="1/hour") as (_, account):
        assert prx.send(**mail(account)).status == "sent"
        limited = prx.send(**mail(account))
        monkeypatch.setattr(sending, "requeue", requeued_and_deleted)
        with pytest.raises(RetryRejected) as raised:
            prx.retry_outbox(limited.outbox_id)
    assert raised.value.code == "not_found"


def test_without_a_permit_the_message_stays_pending_and_the_limit_holds() -> None:
    with outbox(rate_limits="2/hour") as (server, account):
        results = [prx.send(**mail(account)) for _ in range(4)]
        assert [(result.status, result.error_code) for result in results] == [
            ("sent", ""),
            ("sent", ""),
            ("pending", "limited"),
            ("pending", "limited"),
        ]
        assert len(server.lines("MAIL")) == 2
        retried = prx.retry_outbox(results[2].outbox_id)
        assert (retried.status, retried.error_code, retried.retries) == ("pending", "limited", 0)
        assert_all_released()


def test_a_failure_before_mail_releases_its_permit() -> None:
    with outbox(rate_limits="2/hour") as (server, account):
        server.on("greeting", reply="421 4.3.2 not now", times=1)
        assert prx.send(**mail(account)).error_code == "provider"
        assert [prx.send(**mail(account)).status for _ in range(2)] == ["sent", "sent"]
        assert sum(RateWindow.objects.get().counts) == 2


def test_a_permit_that_ends_before_mail_is_taken_again_and_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def ended_once(self: ClaimedMessage) -> bool:
        calls.append(True)
        return len(calls) > 1

    monkeypatch.setattr(ClaimedMessage, "has_permits", ended_once)
    with outbox(rate_limits="1/hour") as (server, account):
        result = prx.send(**mail(account))
        assert (result.status, result.retries) == ("sent", 0), result
        assert sum(RateWindow.objects.get().counts) == 1
        assert len(server.messages) == 1


def test_a_pause_stops_send_but_not_a_retry_by_a_person() -> None:
    with outbox() as (server, account):
        AccountState.objects.update_or_create(
            account=account,
            defaults={
                "paused_by": "worker",
                "pause_reason": "connection failed",
                "paused_until": timezone.now() + timezone.timedelta(hours=1),
                "pause_count": 2,
            },
        )
        result = prx.send(**mail(account))
        assert (result.status, result.error_code) == ("pending", "paused")
        assert not server.connections
        assert prx.retry_outbox(result.outbox_id).status == "sent"
        assert account.pause_reason == "", "a success ends a pause that a worker set"
        prx.pause_outbox(account, reason="holiday")
        paused = prx.send(**mail(account))
        assert (paused.status, paused.error_code) == ("pending", "paused")
        assert prx.retry_outbox(paused.outbox_id).status == "sent"
        assert account.pause_reason == "holiday", "but not a pause that a person set"


def test_a_known_idempotency_key_starts_no_attempt() -> None:
    with outbox() as (server, account):
        first = prx.send(**mail(account, idempotency_key="order-1"))
        again = prx.send(**mail(account, idempotency_key="order-1"))
        assert (again.outbox_id, again.status, again.error_code) == (first.outbox_id, "sent", "")
        failed = prx.send(**mail(account, idempotency_key="order-2"), failure_mode="provider")
        same = prx.send(**mail(account, idempotency_key="order-2"))
        assert (same.outbox_id, same.status, same.error_code) == (failed.outbox_id, "failed", "provider")
        assert len(server.messages) == 1
        assert_all_released()


def test_one_key_in_eight_threads_sends_one_message() -> None:
    with outbox(max_connections=8) as (server, account):
        sendings = [Sending(**mail(account, idempotency_key="order-1")) for _ in range(8)]
        results = [sending.outcome() for sending in sendings]
        assert len({result.outbox_id for result in results}) == 1
        assert len(server.messages) == 1
        assert OutboxMessage.objects.count() == 1
        assert_all_released()


def test_eight_threads_never_exceed_three_connections() -> None:
    with outbox(max_connections=3) as (server, account):
        server.on("final", delay=0.2)
        sendings = [Sending(**mail(account, to=f"p{number}@example.org")) for number in range(8)]
        results = [sending.outcome() for sending in sendings]
        assert server.max_open_connections <= 3
        codes = {(result.status, result.error_code) for result in results}
        assert codes <= {("sent", ""), ("pending", "limited")}, results
        assert prx.drain().sent == sum(result.status == "pending" for result in results)
        assert sorted(server.recipients) == [f"p{number}@example.org" for number in range(8)]
        assert_all_released()


def test_recipients_beyond_the_servers_limit_are_served_in_the_same_send() -> None:
    with outbox() as (server, account):
        everybody = [f"p{number}@example.org" for number in range(7)]
        for nth in (3, 4, 5, 6, 7, 10, 11, 12):
            server.on("rcpt", nth=nth, reply="452 4.5.3 too many recipients")
        result = prx.send(**mail(account, to=everybody))
        assert (result.status, result.retries) == ("sent", 0), result
        assert sorted(server.recipients) == sorted(everybody)
        assert len(server.messages) == 3
        assert len({received.data for received in server.messages}) == 1, "one Message-ID, one message"
        assert OutboxMessage.objects.get().attempts == 0
        assert_all_released()


def test_the_other_recipients_are_served_over_a_new_connection_when_the_first_is_used_up() -> None:
    with outbox(max_messages_per_connection=1, max_connections=1) as (server, account):
        server.on("rcpt", nth=2, reply="452 4.5.3 too many recipients")
        result = prx.send(**mail(account, to=["ann@example.org", "bob@example.org"]))
        assert (result.status, result.retries) == ("sent", 0), result
        assert server.connections == 2
        assert server.max_open_connections == 1


def test_a_retry_after_a_partial_acceptance_addresses_only_the_open_recipients() -> None:
    with outbox() as (server, account):
        deferred = server.defer("bob@example.org")
        server.refuse("eve@example.org")
        result = prx.send(**mail(account, to=["ann@example.org", "bob@example.org"], bcc="eve@example.org"))
        assert (result.status, result.retries) == ("failed", 1), result
        assert result.provider_message_id == f"<outbox-{result.outbox_id}-0@prx-email.local>"
        deferred.times = 0
        assert prx.retry_outbox(result.outbox_id, force=True).status == "sent"
        assert [received.recipients for received in server.messages] == [("ann@example.org",), ("bob@example.org",)]
        row = OutboxMessage.objects.get()
        assert set(row.refused_recipients) == {"eve@example.org"}


def test_a_simulated_failure_needs_no_slot_and_ignores_a_pause() -> None:
    with outbox(max_connections=1) as (server, account):
        prx.pause_outbox(account, reason="holiday")
        for mode in ("network", "provider", "provider_permanent"):
            result = prx.send(**mail(account), failure_mode=mode)
            assert (result.status, result.retries) == ("failed", 1)
        assert not server.connections
        assert account.pause_reason == "holiday"
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
