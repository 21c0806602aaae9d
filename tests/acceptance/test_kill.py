"""A killed drain loses no message; possible copies are few and have the same Message-ID."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime, timedelta
from email import message_from_bytes
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.worker.drain import Drain
from tests.acceptance.drainer import Drainer
from tests.acceptance.workers import eventually
from tests.support.factories import account_on, backlog, mail
from tests.support.fake_clock import MovableClock
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)

LATER = timedelta(hours=1)


def finish(now: datetime | None = None) -> datetime:
    """Drain again, each time an hour later, until no message waits; return the time of the last drain."""
    now = now or timezone.now() + LATER
    for _ in range(12):
        prx.drain(now=now)
        if not OutboxMessage.objects.filter(next_attempt_at__isnull=False).exists():
            return now
        now += LATER
    raise AssertionError(list(OutboxMessage.objects.exclude(status="sent").values("id", "status", "last_error_code")))


def copies(server: SmtpServer) -> dict[str, int]:
    """Number of copies for each recipient that got more than one."""
    return {address: count - 1 for address, count in Counter(server.recipients).items() if count > 1}


def assert_known_copies(server: SmtpServer, bound: int) -> None:
    """Copies are few, only of messages whose outcome was unknown, and all copies of a message have one Message-ID."""
    twice = copies(server)
    assert sum(twice.values()) <= bound, twice
    for address in twice:
        row = OutboxMessage.objects.get(recipients__address=address)
        assert row.attempts > row.retries, f"{address}: a copy of a message whose outcome was never unknown"
    headers: dict[str, set[str]] = {}
    for received in server.messages:
        headers.setdefault(received.recipients[0], set()).add(message_from_bytes(received.data)["Message-ID"])
    assert all(len(ids) == 1 for ids in headers.values()), headers


def assert_all_sent(count: int) -> None:
    assert OutboxMessage.objects.filter(status="sent").count() == count
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data", "final"])
@pytest.mark.parametrize("pipelining", ["off", "full"])
def test_a_kill_at_any_phase_loses_nothing(stage: str, pipelining: str) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, pipelining=pipelining)
        backlog(account, 12)
        stalled = server.on(stage, stall=True, nth=None if stage in {"greeting", "ehlo"} else 4)
        with Drainer() as drainer:
            assert stalled.reached.wait(60)
            drainer.kill()
        server.clear()
        server.release(stalled)
        assert server.wait_closed()
        finish()
        assert_all_sent(12)
        assert set(server.recipients) == {f"p{number}@example.org" for number in range(12)}
        assert_known_copies(server, bound=10)


def test_a_kill_in_the_middle_of_a_body_leaves_no_half_message() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        # Larger than the buffers of the system: the killed process still has the rest.
        large = prx.AttachmentInput("large.pdf", "application/pdf", content=b"%PDF" + bytes(15_000_000))
        backlog(account, 2, attachment=large)
        stalled = server.on("body", stall=True, after=200_000, times=1)
        with Drainer() as drainer:
            assert stalled.reached.wait(60)
            drainer.kill()
        server.release(stalled)
        assert server.wait_closed()
        assert not server.messages
        finish()
        assert_all_sent(2)
        assert not copies(server)


def test_a_kill_between_the_servers_250_and_the_commit_makes_bounded_copies() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        backlog(account, 60)
        stalled = server.on("final", stall=True, times=1)
        with Drainer() as drainer:
            assert stalled.reached.wait(60)
            with transaction.atomic():
                # The drain cannot write these rows now: what the server accepts is not recorded.
                list(OutboxMessage.objects.select_for_update())
                server.release(stalled)
                assert server.wait_for(8)
                before = len(server.messages)
                assert not server.wait_for(11, timeout=0.5), "too many messages were accepted and not recorded"
                drainer.kill()
        server.clear()
        assert server.wait_closed()
        finish()
        assert_all_sent(60)
        assert before >= 8
        assert_known_copies(server, bound=10)


def test_random_kills_lose_nothing_and_copy_little() -> None:
    """``limit`` leaves messages for every drain, also when a drain is killed late."""
    chance = random.Random()
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 900)
        now = timezone.now()
        kills = 0
        while kills < 6:
            before = len(server.messages)
            with Drainer(drain={"now": now.isoformat(), "limit": 140}) as drainer:
                assert server.wait_for(before + 1)
                threading.Event().wait(chance.uniform(0, 0.12))
                drainer.kill()
            kills += 1
            now += LATER
            assert server.wait_closed()
        finish(now)
        assert_all_sent(900)
        assert len(set(server.recipients)) == 900
        assert_known_copies(server, bound=15 * kills)


def test_a_message_that_must_not_be_copied_is_never_copied() -> None:
    chance = random.Random()
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 150, on_unknown="hold")
        now = timezone.now()
        for _ in range(4):
            before = len(server.messages)
            with Drainer(drain={"now": now.isoformat(), "limit": 35}) as drainer:
                assert server.wait_for(before + 1)
                threading.Event().wait(chance.uniform(0, 0.05))
                drainer.kill()
            now += LATER
            assert server.wait_closed()
        finish(now)
        assert not copies(server)
        resting = OutboxMessage.objects.filter(status="failed", next_attempt_at__isnull=True)
        assert all(code == "lost_claim" for code in resting.values_list("last_error_code", flat=True))
        assert OutboxMessage.objects.filter(status="sent").count() == 150 - resting.count()
        assert resting.count() <= 4 * 15, "a crash leaves few messages that may have been delivered"


def counters(rows: Iterable[OutboxMessage]) -> dict[int, tuple[Any, ...]]:
    columns = ("status", "retries", "attempts", "last_error", "last_error_code", "next_attempt_at", "message_number")
    return {row.pk: tuple(getattr(row, name) for name in columns) for row in rows}


class Budgeted(Draining):
    """A drain whose time budget ends when the test calls ``stop``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = MovableClock()
        monkeypatch.setattr(sys.modules[Drain.__module__], "monotonic", self._clock)
        super().__init__(time_budget=600)

    def stop(self) -> None:
        self._clock.seconds = 600


@pytest.mark.parametrize("way", ["SIGTERM", "budget"])
def test_a_stopped_drain_finishes_the_messages_in_flight_and_releases_the_others_unchanged(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        now = timezone.now()
        failed = [prx.send(**mail(account), now=now, failure_mode="provider") for _ in range(5)]
        fresh = backlog(account, 40)
        OutboxMessage.objects.filter(pk__in=[result.outbox_id for result in failed]).update(next_attempt_at=now)
        before = counters(OutboxMessage.objects.all())
        stalled = server.on("final", stall=True)
        claimed = OutboxMessage.objects.filter(status="sending")
        with ExitStack() as stack:
            drain = Budgeted(monkeypatch) if way == "budget" else stack.enter_context(Drainer())
            assert stalled.reached.wait(60)
            assert claimed.count() > 4
            drain.stop() if isinstance(drain, Budgeted) else drain.terminate()
            assert eventually(lambda: claimed.count() <= 4), (
                "messages that no connection has taken are released at once"
            )
            server.release(stalled)
            reported = drain.outcome().sent if isinstance(drain, Budgeted) else drain.report()["sent"]
        sent = set(OutboxMessage.objects.filter(status="sent").values_list("pk", flat=True))
        assert reported == len(sent) == len(server.messages)
        assert 1 <= len(sent) <= 4, "only messages in flight were finished"
        left = OutboxMessage.objects.exclude(pk__in=sent)
        assert counters(left) == {pk: values for pk, values in before.items() if pk not in sent}
        assert len(left) == len(failed) + len(fresh) - len(sent)
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("after", [0.05, 0.15, 0.25, 0.4])
def test_a_task_that_is_ended_by_system_exit_records_the_results_that_it_has(after: float) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 4000)
        with Drainer(alarm=after) as drainer:
            code = drainer.exit_code()
        assert server.wait_closed()
        assert code == 1
        sent = OutboxMessage.objects.filter(status="sent").count()
        unknown = OutboxMessage.objects.filter(last_error_code="unknown_outcome").count()
        # A message that was being sent has an unknown outcome; a claim that was just being read waits for its lease.
        assert sent <= len(server.messages) <= sent + unknown
        assert unknown <= 6
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        assert OutboxMessage.objects.filter(status="pending").exists()
        assert DeliveryAttempt.objects.filter(outcome="sent").count() == sent


def test_system_exit_with_a_stalled_server_releases_messages_that_no_connection_has_taken() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, pipelining="off")
        backlog(account, 10)
        stalled = server.on("final", stall=True)
        with Drainer(alarm=600.0) as drainer:
            assert stalled.reached.wait(60)
            os.kill(drainer.process.pid, signal.SIGALRM)
            assert drainer.exit_code() == 1
        server.release(stalled)
        counts = Counter(OutboxMessage.objects.values_list("status", "last_error_code"))
        assert counts == {("pending", ""): 9, ("failed", "unknown_outcome"): 1}
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


class ExitOnce:
    """Raises SystemExit once, in the main thread, at a moment in the life of a slot, as a signal handler does."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.raised = False

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        writes = sql.startswith(("INSERT", "UPDATE")) and ConnectionSlot._meta.db_table in sql
        if self.raised or not writes:
            return execute(sql, params, many, context)
        if self.moment == "before it is released":
            self.raised = OutboxMessage.objects.filter(status="sent").exists()
            if self.raised:
                raise SystemExit("timed out")
            return execute(sql, params, many, context)
        self.raised = True
        if self.moment == "once it is taken":
            execute(sql, params, many, context)
            assert ConnectionSlot.objects.filter(token__isnull=False).exists()
        raise SystemExit("timed out")


@pytest.mark.parametrize("moment", ["before it is taken", "once it is taken", "before it is released"])
@pytest.mark.parametrize("verb", ["drain", "send", "retry_outbox"])
def test_system_exit_at_any_moment_of_a_slot_leaves_none_taken(verb: str, moment: str) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        rows = [] if verb == "send" else backlog(account, 1)
        calls: dict[str, Callable[[], object]] = {
            "drain": prx.drain,
            "send": lambda: prx.send(**mail(account)),
            "retry_outbox": lambda: prx.retry_outbox(rows[0].pk),
        }
        wrapper = ExitOnce(moment)
        with connection.execute_wrapper(wrapper), pytest.raises(SystemExit):
            calls[verb]()
        assert wrapper.raised
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        # A send without a slot has written nothing.
        count = 0 if verb == "send" and moment != "before it is released" else 1
        finish()
        assert_all_sent(count)
        assert len(server.messages) == count
