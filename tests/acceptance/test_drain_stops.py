"""A drain that is stopped: the messages in flight are finished, all others and every slot and permit are released."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage, RateWindow
from prx_email_django.worker.drain import Drain
from tests.acceptance.drainer import Drainer
from tests.acceptance.workers import assert_all_sent, eventually, finish, untouched
from tests.support.factories import account_on, backlog, mail
from tests.support.fake_clock import MovableClock
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


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
            assert stalled.reached.wait(PATIENCE)
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
        # A message that was being sent has an unknown outcome.
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
            assert stalled.reached.wait(PATIENCE)
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
        writes = sql.startswith("UPDATE") and ConnectionSlot._meta.db_table in sql
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


def test_a_time_budget_ends_the_wait_for_a_server_that_never_greets() -> None:
    with SmtpServer() as server:
        stalled = server.on("greeting", stall=True)
        rows = backlog(account_on(server), 3)
        begun = monotonic()
        report = prx.drain(time_budget=0.5)
        assert monotonic() - begun < 30
        assert (report.claimed, report.sent) == (0, 0)
        assert untouched(rows)
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        server.release(stalled)


def test_a_drain_that_is_stopped_at_any_instant_returns() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 400)
        for calls in (*range(1, 24), 30, 40, 60):
            answers = iter([False] * calls)
            begun = monotonic()
            prx.drain(stop=lambda answers=answers: next(answers, True))
            assert monotonic() - begun < 60
            assert not OutboxMessage.objects.filter(status="sending").exists()
            assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        prx.drain()
        assert sorted(server.recipients) == sorted(f"p{number}@example.org" for number in range(400))
        assert DeliveryAttempt.objects.exclude(outcome="sent").count() == 0


def test_stopped_and_limited_drains_leak_no_permit() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3, rate_limits="500/hour, 1000 recipients/hour")
        backlog(account, 120, cc="copy@example.org")
        for calls in (2, 3, 4, 5, 6, 8, 10, 12):
            answers = iter([False] * calls)
            prx.drain(stop=lambda answers=answers: next(answers, True))
        spent = {window.limit_key: sum(window.counts) for window in RateWindow.objects.all()}
        written = len(server.lines("MAIL"))
        assert spent == {"messages/3600": written, "recipients/3600": 2 * written}
