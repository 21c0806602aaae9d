"""``send`` returns in time, because its caller waits; but it never interrupts a body that is being sent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, thread_time
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage, RateWindow
from prx_email_django.signals import message_failed
from prx_email_django.worker.outgoing import ClaimedMessage
from tests.support.factories import account, mail
from tests.support.fake_clock import MovableClock
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Sending

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def outbox(tls: str | None = None, **fields: Any) -> Iterator[tuple[SmtpServer, Account]]:
    with SmtpServer(tls=tls) as server:
        values = {"name": "main", "email": "app@example.org", "host": "localhost", "port": server.port}
        security = {None: "none", "starttls": "starttls", "implicit": "tls"}[tls]
        yield server, Account.objects.create(**{**values, "security": security, "auth_method": "none", **fields})


def assert_all_released() -> None:
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
    assert not OutboxMessage.objects.filter(status="sending").exists()


@pytest.mark.parametrize("pipelining", ["off", "auto", "full"])
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data"])
def test_a_send_fails_with_timeout_at_its_deadline_in_any_phase_before_the_body(
    settings: Any, stage: str, pipelining: str
) -> None:
    settings.PRX_EMAIL = {"SEND_DEADLINE": 0.5}
    with outbox(pipelining=pipelining) as (server, account):
        stalled = server.on(stage, stall=True)
        begun = monotonic()
        result = prx.send(**mail(account))
        assert monotonic() - begun < 30, "without a deadline it would wait for the reply"
        assert (result.status, result.error_code, result.retries) == ("failed", "timeout", 1), result
        assert result.next_attempt_at is not None
        assert_all_released()
        row = OutboxMessage.objects.get()
        assert (row.attempts, row.message_number) == (1, None), "the outcome of a failure before the body is known"
        server.clear()
        server.release(stalled)
        settings.PRX_EMAIL = {}
        assert prx.retry_outbox(row.pk, force=True).status == "sent"
        assert len(server.messages) == 1


def test_a_tls_handshake_that_hangs_ends_with_the_deadline(settings: Any) -> None:
    settings.PRX_EMAIL = {"SEND_DEADLINE": 0.5}
    with outbox(tls="starttls") as (server, account):
        settings.PRX_EMAIL = {"SEND_DEADLINE": 0.5, "TLS_CA_FILE": server.ca_file}
        stalled = server.on("starttls", stall=True)
        result = prx.send(**mail(account))
        assert (result.status, result.error_code) == ("failed", "timeout"), result
        assert_all_released()
        server.release(stalled)


@pytest.mark.parametrize("pipelining", ["off", "full"])
def test_a_send_waits_beyond_the_deadline_for_a_body_that_is_being_sent(
    sends_clock: MovableClock, pipelining: str
) -> None:
    with outbox(pipelining=pipelining) as (server, account):
        stalled = server.on("final", stall=True)
        sending = Sending(**mail(account))
        assert stalled.reached.wait(60)
        sends_clock.seconds = 40
        sending.join(1.0)
        assert sending.is_alive(), "to interrupt a body makes copies"
        server.release(stalled)
        assert sending.outcome().status == "sent"
        assert_all_released()


@pytest.mark.parametrize("decided_by", ["mail", "rcpt"])
def test_a_send_does_not_wait_for_replies_that_cannot_change_its_outcome(
    sends_clock: MovableClock, decided_by: str
) -> None:
    """The reply to the final dot has ten minutes, and each further reply to a refused envelope a minute."""
    decided = threading.Event()

    def decide(**_: Any) -> None:
        decided.set()

    message_failed.connect(decide)
    with SmtpServer(data_without_recipients=True) as server:
        owner = account(host=server.host, port=server.port)
        if decided_by == "mail":
            server.on("mail", reply="550 5.7.1 not you", accept=True)
        else:
            server.refuse("ann@example.org", "550 5.7.1 not you")
        stalled = server.on("rcpt" if decided_by == "mail" else "dot", stall=True)
        sending = Sending(**mail(owner))
        assert stalled.reached.wait(60) and decided.wait(60)
        sends_clock.seconds = 40
        result = sending.outcome()
        assert (result.status, result.next_attempt_at) == ("failed", None), result
        assert result.error == "550 5.7.1 not you"
        assert_all_released()
        server.release(stalled)


def test_waiting_beyond_the_deadline_uses_no_processor_time(sends_clock: MovableClock) -> None:
    with outbox() as (server, account):
        stalled = server.on("final", stall=True)
        spent: list[float] = []

        def measured() -> None:
            begun = thread_time()
            prx.send(**mail(account))
            spent.append(thread_time() - begun)
            connections.close_all()

        thread = threading.Thread(target=measured, daemon=True)
        thread.start()
        assert stalled.reached.wait(60)
        sends_clock.seconds = 40
        thread.join(2.0)
        server.release(stalled)
        thread.join(60)
        assert spent[0] < 0.8, spent


def test_connections_that_miss_the_deadline_count_as_the_accounts_failures(settings: Any) -> None:
    settings.PRX_EMAIL = {"SEND_DEADLINE": 0.2}
    with outbox() as (server, account):
        stalled = server.on("greeting", stall=True)
        for _ in range(3):
            assert prx.send(**mail(account)).error_code == "timeout"
        result = prx.send(**mail(account))
        assert (result.status, result.error_code) == ("pending", "paused"), result
        server.release(stalled)


def test_without_a_slot_the_message_stays_pending_and_due() -> None:
    with outbox(max_connections=1) as (server, account):
        stalled = server.on("final", stall=True, times=1)
        first = Sending(**mail(account, to="first@example.org"))
        assert stalled.reached.wait(60)
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


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_server_that_hangs_up_before_the_body_is_a_known_failure(stage: str) -> None:
    with outbox() as (server, account):
        server.on(stage, drop=True)
        result = prx.send(**mail(account))
        assert (result.status, result.error_code, result.retries) == ("failed", "network", 1), result
        assert AccountState.objects.get().connection_failures == 1
        assert_all_released()


def test_a_server_that_greets_and_hangs_up_fails_a_send_at_once() -> None:
    with outbox() as (server, account):
        server.on("mail", drop=True)
        begun = monotonic()
        result = prx.send(**mail(account))
        assert (result.status, result.error_code) == ("failed", "network")
        assert monotonic() - begun < 20, "send waited for the deadline"


@pytest.mark.parametrize(("stage", "state"), [("greeting", ("pending", "")), ("final", ("failed", "unknown_outcome"))])
def test_a_send_that_is_ended_by_system_exit_releases_claim_and_slot(stage: str, state: tuple[str, str]) -> None:
    """django-q2 ends a task in this way: a signal handler raises SystemExit in the main thread."""

    def end(_signal: int, _frame: object) -> None:
        raise SystemExit("timed out")

    with outbox() as (server, account):
        stalled = server.on(stage, stall=True)
        threading.Thread(
            target=lambda: (stalled.reached.wait(60), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True
        ).start()
        before = signal.signal(signal.SIGUSR1, end)
        try:
            with pytest.raises(SystemExit):
                prx.send(**mail(account))
        finally:
            signal.signal(signal.SIGUSR1, before)
        row = OutboxMessage.objects.get()
        assert (row.status, row.last_error_code) == state
        assert_all_released()
        server.release(stalled)
