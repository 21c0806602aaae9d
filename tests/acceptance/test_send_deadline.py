"""``send`` returns in time, because its caller waits; but it never interrupts a body that is being sent."""

from __future__ import annotations

import os
import signal
import threading
from time import monotonic, thread_time
from typing import Any

import pytest
from django.db import connections

import prx_email_django as prx
from prx_email_django.models import AccountState, OutboxMessage
from prx_email_django.signals import message_failed
from tests.acceptance.workers import assert_all_released, outbox
from tests.support.factories import account_on, mail
from tests.support.fake_clock import MovableClock
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Sending

pytestmark = pytest.mark.django_db(transaction=True)


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
        assert stalled.reached.wait(PATIENCE)
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
        owner = account_on(server)
        if decided_by == "mail":
            server.on("mail", reply="550 5.7.1 not you", accept=True)
        else:
            server.refuse("ann@example.org", "550 5.7.1 not you")
        stalled = server.on("rcpt" if decided_by == "mail" else "dot", stall=True)
        sending = Sending(**mail(owner))
        assert stalled.reached.wait(PATIENCE) and decided.wait(PATIENCE)
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
        assert stalled.reached.wait(PATIENCE)
        sends_clock.seconds = 40
        thread.join(2.0)
        server.release(stalled)
        thread.join(PATIENCE)
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
            target=lambda: (stalled.reached.wait(PATIENCE), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True
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
