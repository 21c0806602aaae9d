"""Rare cases: errors while a connection ends, lowered limits, pauses that end during a drain, costs of deferrals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from django.db import ProgrammingError, connection, connections
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django.limits import slots
from prx_email_django.limits.pauses import account_state
from prx_email_django.limits.rate_windows import take_recipients
from prx_email_django.limits.slots import Slot
from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage, Recipient
from prx_email_django.rules.pauses import is_paused
from prx_email_django.store import db as base
from prx_email_django.store.draft import Draft
from prx_email_django.store.insert import insert_many
from prx_email_django.worker import held_slots
from prx_email_django.worker.prefetch import ClaimPrefetch
from tests.acceptance.workers import eventually
from tests.support.factories import SECOND, account, account_on, at, backlog, mail
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class Hung(Exception):
    """The drain did not return in time."""


def within(seconds: float) -> Any:
    """A ``stop`` function for ``drain``: raises ``Hung`` when the drain has not returned after so many seconds."""
    end = monotonic() + seconds

    def stop() -> bool:
        if monotonic() > end:
            raise Hung
        return False

    return stop


class FaultyFilter(logging.Filter):
    """A logging filter of the project that raises at the log line of a pause; calls ``before_error`` just before."""

    def __init__(self, before_error: Callable[[], None]) -> None:
        super().__init__()
        self.before_error = before_error

    def filter(self, record: logging.LogRecord) -> bool:
        if "paused until" in str(record.msg):
            self.before_error()
            raise ValueError("a mistake in the project's filter")
        return True


@pytest.mark.parametrize("stage", ["auth", "idle"])
def test_a_drain_does_not_wait_for_a_connection_whose_end_could_not_be_logged(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while a pause is logged ends the drain of that account only, and its slot is released."""
    log = logging.getLogger("prx_email_django")
    with SmtpServer(users={"ann": "right"}) as refusing, SmtpServer() as fine:
        password = "wrong" if stage == "auth" else "right"
        first = account_on(refusing, "first", auth_method="password", user="ann", password=password)
        second = account_on(fine, "second")
        backlog(first, 3)
        backlog(second, 3)
        if stage == "idle":  # the server greets, and hangs up before a message is assigned
            account_state(first)
            AccountState.objects.filter(account=first).update(connection_failures=2)
            claim_more = ClaimPrefetch.claim_more
            monkeypatch.setattr(
                ClaimPrefetch,
                "claim_more",
                lambda self, connections: (
                    bool(refusing.hang_up()) or True if self.current.account == first else claim_more(self, connections)
                ),
            )
        # The other account still waits for a reply at the error, however fast either account is.
        busy = fine.on("final", stall=True, nth=1)
        faulty = FaultyFilter(lambda: fine.release(busy))
        log.addFilter(faulty)
        try:
            prx.drain(stop=within(60))
        finally:
            log.removeFilter(faulty)
        assert OutboxMessage.objects.filter(account=second, status="sent").count() == 3
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_message_above_a_lowered_limit_does_not_delay_others_while_part_of_the_limit_is_used() -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        prx.enqueue(**mail(owner, to=[f"r{n}@example.org" for n in range(10)]))
        small = prx.enqueue(**mail(owner))
        Account.objects.filter(pk=owner.pk).update(rate_limits="5 recipients/day")
        owner.refresh_from_db()
        assert take_recipients(owner, [1], clock=at(None))[1] == 1
        prx.drain()
        small.refresh_from_db()
        assert small.status == "sent", "four recipients were left for the day, and this message has one"


def test_a_healthy_drain_ends_a_pause_that_began_and_ended_while_it_ran() -> None:
    """Otherwise its slot would keep every other worker out until the drain ends."""
    with SmtpServer() as server:
        owner = account_on(server, max_connections=2)
        server.on("greeting", reply="421 4.7.0 too many connections", connection=2)
        server.on("final", delay=0.25)  # a drain reads the pause of an account once a second
        first = server.on("final", stall=True, nth=1)
        last = server.on("final", stall=True, nth=15)
        backlog(owner, 20)
        draining = threading.Thread(target=lambda: (prx.drain(), connections.close_all()), daemon=True)
        draining.start()
        try:
            assert first.reached.wait(PATIENCE)
            assert server.wait_connections(2)
            now = base.database_now()
            AccountState.objects.filter(account=owner).update(
                paused_by="worker",
                paused_at=now - 31 * SECOND,
                paused_until=now - SECOND,
                pause_reason="a failure of another worker, while this drain waited for a reply",
                pause_code="connection",
                pause_count=1,
            )
            server.release(first)
            assert last.reached.wait(PATIENCE)
            assert server.open_connections == 1
            assert eventually(lambda: account_state(owner).pause_count == 0), (
                "as soon as the drain has recorded an acceptance"
            )
            result = prx.send(**mail(owner))
            assert result.status == "sent", (result.error_code, result.error, account_state(owner).pause_count)
        finally:
            server.release(first)
            server.release(last)
            draining.join(PATIENCE)


class CountedText(str):
    """Text that counts its comparisons."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedText.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_many_messages_with_keys_are_inserted_without_comparing_each_pair() -> None:
    owner, count = account(), 300
    drafts = [
        Draft(
            account=owner,
            fields={"to": ["a@example.org"], "subject": "s", "body_text": "t"},
            recipients=[("to", "a@example.org")],
            due_at=at().now,
            idempotency_key=CountedText(f"key {number}"),
        )
        for number in range(count)
    ]
    CountedText.compared = 0
    with base.atomic():
        insert_many(drafts, clock=at())
    assert CountedText.compared < 20 * count


def queries_of_a_drain() -> int:
    with CaptureQueriesContext(connection) as captured:
        prx.drain()
    return len(captured)


def test_a_greylisted_backlog_is_also_recorded_in_groups() -> None:
    """Some providers defer most first attempts: the second attempts must not cost eight statements a message."""
    count = 60
    with SmtpServer() as server:
        owner = account_on(server, max_connections=2)
        backlog(owner, count)
        server.on("rcpt", reply="450 4.2.0 greylisted", times=count)
        while OutboxMessage.objects.filter(attempts=0).exists():
            prx.drain()
        assert set(Recipient.objects.values_list("code", flat=True)) == {450}
        OutboxMessage.objects.update(next_attempt_at=base.database_now() - SECOND)
        queries = queries_of_a_drain()
        assert not OutboxMessage.objects.exclude(status="sent").exists()
        assert set(Recipient.objects.values_list("code", "result")) == {(250, "")}, "the last answer is kept"
        assert queries < 4 * count, queries


def test_a_send_that_misses_its_deadline_pauses_before_it_releases_its_slot(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "SEND_DEADLINE": 1}
    with SmtpServer() as server:
        owner = account_on(server)
        account_state(owner)
        AccountState.objects.filter(account=owner).update(connection_failures=2)
        stalled = server.on("greeting", stall=True)
        paused: list[bool] = []
        real = held_slots.release_slots

        def release(released: list[Slot]) -> None:
            paused.append(is_paused(account_state(owner), now=base.database_now()))
            real(released)

        monkeypatch.setattr(held_slots, "release_slots", release)
        assert prx.send(**mail(owner)).status == "failed"
        server.release(stalled)
        assert paused == [True]


@pytest.mark.parametrize("verb", ["drain", "send"])
def test_a_slot_whose_commit_raised_after_it_was_taken_is_released(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit inside a driver's commit has this effect: the clean-up of Django raises ProgrammingError instead."""
    take = slots._take

    def taken_and_raised(*args: Any) -> None:
        assert take(*args)
        raise ProgrammingError("can't change 'autocommit' now")

    with SmtpServer() as server:
        owner = account_on(server)
        backlog(owner, 1)
        monkeypatch.setattr(slots, "_take", taken_and_raised)
        with pytest.raises(ProgrammingError):
            prx.drain() if verb == "drain" else prx.send(**mail(owner))
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
