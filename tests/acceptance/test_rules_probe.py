"""After a pause one message is tried first, over all workers: a server in trouble must not meet all workers at once."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

import prx_email_django as prx
from prx_email_django.limits import slots
from prx_email_django.limits.pauses import account_state, note_failure
from prx_email_django.limits.slots import Slot
from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.pauses import is_paused
from prx_email_django.store import db as base
from prx_email_django.worker import held_slots
from prx_email_django.worker.prefetch import ClaimPrefetch
from tests.support.factories import SECOND, account_on, at, backlog, in_threads, mail
from tests.support.patience import PATIENCE
from tests.support.slots import acquire_slot
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

COUNT = 30


def account_whose_pause_is_over(server: SmtpServer, **fields: Any) -> Account:
    """An account that a worker paused for thirty seconds, until a second ago; it has enough mail for several drains."""
    owner = account_on(server, **{"max_connections": 5, **fields})
    backlog(owner, COUNT)
    state, now = account_state(owner), base.database_now()
    AccountState.objects.filter(pk=state.pk).update(
        paused_by="worker",
        paused_at=now - 31 * SECOND,
        paused_until=now - SECOND,
        pause_reason="as the test says",
        pause_code="auth",
        pause_count=1,
    )
    return owner


class Draining(threading.Thread):
    """A drain in another thread; all begin together, and ``ended`` counts the drains that have returned."""

    def __init__(self, together: threading.Barrier, ended: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.together, self.ended = together, ended
        self.report: prx.DrainReport | None = None
        self.start()

    def run(self) -> None:
        self.together.wait(PATIENCE)
        try:
            self.report = prx.drain()
        finally:
            connections.close_all()
            self.ended.release()


def drains(count: int) -> list[Draining]:
    together, ended = threading.Barrier(count), threading.Semaphore(0)
    return [Draining(together, ended) for _ in range(count)]


def assert_all_sent_once(server: SmtpServer) -> None:
    assert Counter(server.recipients) == Counter({f"p{number}@example.org": 1 for number in range(COUNT)})
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("stage", ["greeting", "mail", "final"])
def test_three_drains_at_once_probe_with_one_message(stage: str) -> None:
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        stalled = server.on(stage, stall=True, times=1)
        running = drains(3)
        assert stalled.reached.wait(PATIENCE)
        assert all(running[0].ended.acquire(timeout=PATIENCE) for _ in range(2)), (
            "no other message may be sent now: these drains return at once"
        )
        assert (server.connections, len(server.lines("MAIL"))) == (1, 0 if stage == "greeting" else 1)
        assert OutboxMessage.objects.filter(status="sending").count() == (0 if stage == "greeting" else 1)
        server.release(stalled)
        for draining in running:
            draining.join(PATIENCE)
        prx.drain()
        assert_all_sent_once(server)
        assert (owner.pause_reason, account_state(owner).pause_count) == ("", 0)


def test_a_probe_that_fails_pauses_again_and_no_other_drain_connects() -> None:
    """Even when the drains run at the same time: the pause is written before the slot is released."""
    with SmtpServer(users={"ann": "right"}) as server:
        owner = account_whose_pause_is_over(server, auth_method="password", user="ann", password="wrong")
        for draining in drains(6):
            draining.join(PATIENCE)
            assert draining.report is not None and draining.report.claimed == 0
        assert len(server.auth_attempts) == 1
        assert account_state(owner).pause_count == 2
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "idle", "mail", "final"])
def test_a_pause_is_written_before_the_slot_of_the_probe_is_released(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third lost connection in a row pauses: a worker that waits for this slot must see the pause."""
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        AccountState.objects.update(connection_failures=2)
        if stage == "idle":  # the server greets, and hangs up before a message is assigned
            monkeypatch.setattr(ClaimPrefetch, "claim_more", lambda self, connections: bool(server.hang_up()) or True)
        else:
            server.on(stage, drop=True)
        real = held_slots.release_slots
        paused: list[bool] = []

        def release(released: list[Slot]) -> None:
            paused.append(is_paused(account_state(owner), now=base.database_now()))
            real(released)

        monkeypatch.setattr(held_slots, "release_slots", release)
        prx.drain()
        assert paused
        assert all(paused)
        assert account_state(owner).pause_count == 2


def test_a_drain_that_gets_the_slot_of_a_failed_probe_releases_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain read the state before the failure, and then waited for the row of the slot."""
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        real = slots.acquire_slots

        def later(*args: Any, **kwargs: Any) -> list[Slot]:
            assert note_failure(owner, Trouble.AUTH, "as the test says", clock=at(None)) is not None
            return real(*args, **kwargs)

        monkeypatch.setattr(slots, "acquire_slots", later)
        assert prx.drain().claimed == 0
        assert server.connections == 0
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_send_does_not_become_a_second_probe() -> None:
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        stalled = server.on("final", stall=True, times=1)
        (draining,) = drains(1)
        assert stalled.reached.wait(PATIENCE)
        result = prx.send(**mail(owner))
        assert (result.status, result.error_code) == ("pending", "limited")
        assert result.error == "one message is being tried first, after a pause"
        assert server.connections == 1
        server.release(stalled)
        draining.join(PATIENCE)
        prx.drain()
        assert len(server.messages) == COUNT + 1


def test_a_send_can_be_the_probe_and_a_retry_by_a_person_does_not_wait_for_it() -> None:
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        row = OutboxMessage.objects.earliest("pk")
        stalled = server.on("final", stall=True, times=1)
        results: list[prx.SendResult] = []

        def send() -> None:
            try:
                results.append(prx.send(**mail(owner)))
            finally:
                connections.close_all()

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        assert stalled.reached.wait(PATIENCE)
        assert in_threads(prx.drain)[0].claimed == 0
        assert account_state(owner).pause_count == 1
        assert prx.retry_outbox(row.pk).status == "sent", "a retry by a person ignores pauses"
        server.release(stalled)
        sending.join(PATIENCE)
        assert [result.status for result in results] == ["sent"]
        assert prx.drain().sent == COUNT - 1


def test_a_lost_probe_delays_the_next_at_most_until_its_slot_expires() -> None:
    with SmtpServer() as server:
        owner = account_whose_pause_is_over(server)
        lost = acquire_slot(owner, noted=set(), clock=at(None), first_only=True)
        assert lost is not None and lost.number == 1
        assert prx.drain().claimed == 0
        assert server.connections == 0
        ConnectionSlot.objects.update(expires_at=base.database_now() - timedelta(seconds=1))
        assert prx.drain().sent == COUNT
        assert_all_sent_once(server)


def test_message_that_the_server_never_saw_ends_no_pause() -> None:
    """The message is too large for the server and never written: nothing shows that the quota is free again."""
    with SmtpServer(size=2000) as server:
        owner = account_on(server)
        state, now = account_state(owner), base.database_now()
        AccountState.objects.filter(pk=state.pk).update(
            paused_by="worker",
            paused_until=now - SECOND,
            pause_reason="quota used up",
            pause_code="quota",
            pause_count=4,
        )
        prx.enqueue(**mail(owner, body_text="too large " * 1000))
        assert prx.drain().failed == 1 and server.lines("MAIL") == []
        assert account_state(owner).pause_count == 4, "otherwise the next pause would last only half a minute again"
