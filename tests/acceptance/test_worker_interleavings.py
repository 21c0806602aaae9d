"""Between two steps of a worker another worker, a person, an interrupt or an error changes what the worker knows."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import pytest
from django.db import OperationalError

import prx_email_django as prx
from prx_email_django.limits import slots
from prx_email_django.limits.pauses import account_state, note_failure
from prx_email_django.models import AccountState, OutboxMessage
from prx_email_django.rules import clock as clocks
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.store import claims, lease
from prx_email_django.store import db as base
from prx_email_django.worker import held_slots, outgoing, permits, queues
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.one_message import OneMessage
from prx_email_django.worker.outgoing import ClaimedMessage
from tests.support.factories import SECOND, account_on, at, backlog, mail
from tests.support.fake_clock import MovableClock
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining, Sending

pytestmark = pytest.mark.django_db(transaction=True)


def statuses() -> list[str]:
    return list(OutboxMessage.objects.order_by("id").values_list("status", flat=True))


# What was read once is read again


def test_after_a_successful_probe_the_drain_opens_its_other_connections() -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=3)
        backlog(owner, 60)
        now = base.database_now()
        AccountState.objects.filter(pk=account_state(owner).pk).update(
            paused_by="worker",
            paused_at=now - 31 * SECOND,
            paused_until=now - SECOND,
            pause_reason="authentication refused",
            pause_code="auth",
            pause_count=1,
        )
        server.on("final", delay=0.02)
        assert prx.drain().sent == 60
        assert server.max_open_connections == 3


def test_a_pause_that_was_written_before_the_slot_was_taken_prevents_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer(users={"ann": "right"}) as server:
        owner = account_on(server, auth_method="password", user="ann", password="wrong")
        backlog(owner, 3)
        real = held_slots.slots_or_obstacle

        def after_a_pause(*args: Any, **options: Any) -> Any:
            note_failure(owner, Trouble.AUTH, "another worker was refused", clock=at(None))
            return real(*args, **options)

        monkeypatch.setattr(held_slots, "slots_or_obstacle", after_a_pause)
        assert prx.drain().claimed == 0
        assert not server.auth_attempts


def test_a_drain_claims_what_is_due_when_its_connection_is_open() -> None:
    """While it connects, its only message goes elsewhere, and another of a higher priority is queued."""
    with SmtpServer() as server:
        owner = account_on(server)
        (row,) = backlog(owner, 1)
        greeting = server.on("greeting", stall=True, times=1)
        draining = Draining()
        assert greeting.reached.wait(PATIENCE)
        OutboxMessage.objects.filter(pk=row.pk).update(status="failed", next_attempt_at=None)
        prx.enqueue(**mail(owner, priority=5, to="high@example.org"))
        server.release(greeting)
        assert draining.outcome().sent == 1
        assert server.recipients == ["high@example.org"]


def test_a_message_of_higher_priority_that_comes_during_the_login_is_sent_first() -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1)
        backlog(owner, 3)
        greeting = server.on("greeting", stall=True, times=1)
        draining = Draining()
        assert greeting.reached.wait(PATIENCE)
        prx.enqueue(**mail(owner, priority=5, to="high@example.org"))
        server.release(greeting)
        assert draining.outcome().sent == 4
        assert server.recipients[0] == "high@example.org"


# What a send returns


@pytest.mark.parametrize("seconds", [130.0, 170.0])
def test_a_send_whose_lease_is_about_to_end_leaves_its_message_to_a_drain(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The machine slept before MAIL: less than a third of the lease is left, so MAIL may not be written."""
    real_uptime, real_may_write = clocks.uptime, ClaimedMessage.may_write
    slept = [0.0]

    def may_write(self: ClaimedMessage) -> bool:
        slept[0] = seconds
        return real_may_write(self)

    for module in (clocks, claims, lease, slots, outgoing):
        monkeypatch.setattr(module, "uptime", lambda: real_uptime() + slept[0])
    monkeypatch.setattr(ClaimedMessage, "may_write", may_write)
    with SmtpServer() as server:
        result = prx.send(**mail(account_on(server)))
    assert (result.status, result.error_code) == ("pending", "limited")
    assert result.error == "the worker was interrupted for too long; a drain will try the message"
    assert statuses() == ["pending"]


def test_a_send_returns_the_state_of_its_row_if_a_drain_took_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=2)
        server.on("rcpt", nth=2, reply="452 4.5.3 too many recipients")
        real = OneMessage.claim

        def after_a_drain(self: OneMessage, **options: Any) -> claims.ClaimBatch:
            if server.messages:
                assert Draining().outcome().sent == 1
            return real(self, **options)

        monkeypatch.setattr(OneMessage, "claim", after_a_drain)
        result = prx.send(**mail(owner, to=["ann@example.org", "bob@example.org"]))
        assert (result.status, result.error_code) == ("sent", "")
        assert statuses() == ["sent"]


def test_the_deadline_holds_for_the_recipients_that_did_not_fit(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result and end of the connection are handled in one step, so that a second connection opens for the rest."""
    settings.PRX_EMAIL = {"SEND_DEADLINE": 1, "SMTP_TIMEOUT": 6}
    real = queues.ResultQueue.wait
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1)
        server.on("rcpt", nth=2, reply="452 4.5.3 too many recipients")
        server.on("final", raw=b"250 2.0.0 ok\r\n", drop=True, accept=True, times=1)
        stalled = server.on("greeting", stall=True, connection=2)

        def wait(self: queues.ResultQueue, timeout: float) -> None:
            real(self, timeout)
            # The calling thread is late: by now the connection has ended too.
            late_until = monotonic() + 0.05
            while server.messages and not stalled.reached.is_set() and monotonic() < late_until:
                pass

        monkeypatch.setattr(queues.ResultQueue, "wait", wait)
        begun = monotonic()
        result = prx.send(**mail(owner, to=["ann@example.org", "bob@example.org"]))
        took = monotonic() - begun
        server.release(stalled)
    assert result.status == "failed"
    assert stalled.reached.is_set(), "the second connection was being opened"
    assert took < 4


def test_a_body_that_begins_while_the_deadline_passes_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, sends_clock: MovableClock
) -> None:
    """The deadline passes between rendering and the moment at which the connection takes the message."""
    real_advance, real_stop, real_take = AccountWorker.advance, AccountWorker.stop, queues.ReadyQueue.take
    is_past = threading.Event()
    with SmtpServer() as server:
        stalled = server.on("final", stall=True)

        def advance(self: AccountWorker) -> None:
            real_advance(self)
            if self.ready.pushed_bytes:
                sends_clock.seconds = 100

        def stop(self: AccountWorker, reason: str) -> None:
            is_past.set()
            stalled.reached.wait(0.5)  # long enough to write a body that nothing prevents
            real_stop(self, reason)

        def take(self: queues.ReadyQueue) -> ClaimedMessage | None:
            if self.ready:
                is_past.wait(PATIENCE)
            return real_take(self)

        monkeypatch.setattr(AccountWorker, "advance", advance)
        monkeypatch.setattr(AccountWorker, "stop", stop)
        monkeypatch.setattr(queues.ReadyQueue, "take", take)
        sending = Sending(**mail(account_on(server)))
        sending.join(PATIENCE)
        server.release(stalled)
        result = sending.outcome()
    assert result.error_code in {"timeout", ""}, "cut while its body was being written: the outcome is unknown"


# An error or an interrupt between two steps


def transform_fails(rendered: bytes, message: OutboxMessage) -> bytes:
    """``TRANSFORM_MIME`` whose error has a text that no column and no encoding can hold."""
    if message.subject == "n 0":
        raise ValueError("bad value \udc80")
    return rendered


def test_an_error_text_that_no_column_can_hold_fails_its_message_only(settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSFORM_MIME": f"{__name__}.transform_fails"}
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=1), 3)
        assert prx.drain().sent == 2
    assert statuses() == ["failed", "sent", "sent"]


@pytest.mark.parametrize("error", [OperationalError("deadlock detected"), KeyboardInterrupt()])
def test_an_error_between_claim_and_permits_releases_the_messages(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """They were not written: after their leases they would count as lost, and those on ``hold`` would rest."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(permits, "take_recipients", fail)
    with SmtpServer() as server:
        owner = account_on(server, max_connections=2, rate_limits="100 recipients/hour")
        backlog(owner, 4, on_unknown="hold")
        with pytest.raises(type(error)):
            prx.drain()
        assert not server.lines("MAIL")
    assert statuses() == ["pending"] * 4


def test_an_account_that_fails_while_it_renders_releases_what_it_had_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ClaimedMessage.render

    def render(self: ClaimedMessage) -> Any:
        if self.claim.message.subject == "n 2":
            raise RuntimeError("anything unexpected")
        return real(self)

    monkeypatch.setattr(ClaimedMessage, "render", render)
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1)
        backlog(owner, 4)
        backlog(account_on(server, "other"), 20, subject="other")
        prx.drain()
        assert not OutboxMessage.objects.filter(account=owner, status="sending").exists()
