"""Several workers on one outbox: each message is sent once, and the limits of an account are never exceeded."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from time import time

import pytest
from django.db import connection
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import OutboxMessage, RateWindow
from prx_email_django.rules import clock as clocks
from prx_email_django.worker.claim_source import empty_handed
from tests.acceptance.drainer import drainers
from tests.acceptance.workers import assert_each_once
from tests.support.factories import account_on, backlog
from tests.support.fake_clock import FrozenClock
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)


def workers() -> int:
    """Number of workers: SQLite has one writer at a time, so that two workers show the same as four."""
    return 2 if connection.vendor == "sqlite" else 4


def test_many_workers_send_each_message_once_over_the_accounts_connections() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 600)
        stalled = server.on("final", stall=True, times=3)
        with drainers(workers()) as running:
            assert stalled.reached.wait(PATIENCE)
            server.release(stalled)
            reports = [drainer.report() for drainer in running]
        last = prx.drain()
        assert sum(report["sent"] for report in reports) + last.sent == 600
        assert sum(report["failed"] + report["deferred"] for report in reports) == 0
        assert server.max_open_connections <= 3
        assert_each_once(server, 600)


def test_workers_share_connections_and_the_queue() -> None:
    with SmtpServer() as server:
        server.on("final", delay=0.01)
        account = account_on(server, max_connections=8)
        backlog(account, 400, priority=3)
        with drainers(workers()) as running:
            reports = [drainer.report() for drainer in running]
        prx.drain()
        assert server.max_open_connections <= 8
        assert sum(report["claimed"] for report in reports) >= 400
        assert_each_once(server, 400)


def test_a_rate_limit_holds_over_all_workers() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=8, rate_limits="50/hour")
        backlog(account, 200)
        with drainers(workers()) as running:
            reports = [drainer.report() for drainer in running]
        assert len(server.lines("MAIL")) <= 50
        assert len(server.messages) == sum(report["sent"] for report in reports)
        for _ in range(3):
            prx.drain()
        assert len(server.lines("MAIL")) == 50, "permits that were not used are released"
        assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 150
        later = timezone.now() + timedelta(hours=2)
        assert prx.drain(now=later).sent == 50


def test_a_permit_that_ends_before_mail_in_a_drain_is_released_and_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bucket has two seconds left, and the first message occupies the only connection for longer."""
    bucket = 3  # seconds: a twentieth of the minute
    end = datetime(2026, 1, 5, 12, 0, bucket, tzinfo=UTC)
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, rate_limits="20/minute", pipelining="off")
        backlog(account, 3, now=end - timedelta(seconds=2))
        stalled = server.on("final", stall=True, times=1)
        time_of_drains = FrozenClock()
        monkeypatch.setattr(clocks, "uptime", time_of_drains)
        draining = CallInThread(prx.drain, now=end - timedelta(seconds=2))
        assert stalled.reached.wait(PATIENCE)
        time_of_drains.seconds = 2.2
        server.release(stalled)
        report = draining.outcome()
        assert (report.claimed, report.released, report.sent) == (5, 2, 3)
        assert (report.deferred, report.failed) == (0, 0)
        window = RateWindow.objects.get()
        newest = int(end.timestamp() // bucket)
        assert (window.bucket, window.counts[:2], sum(window.counts)) == (newest, [2, 1], 3)
        assert len(server.lines("MAIL")) == 3
        assert_each_once(server, 3)


def test_a_limit_of_recipients_holds_over_all_workers() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=8, rate_limits="40 recipients/hour")
        backlog(account, 60, cc=["a@example.org", "b@example.org"])
        with drainers(workers()) as running:
            for drainer in running:
                drainer.report()
        for _ in range(3):
            prx.drain()
        assert len(server.lines("RCPT")) == 39, "thirteen messages of three"
        assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 47


def test_a_tight_limit_is_never_exceeded_in_any_span() -> None:
    """In real time: at most 20 MAIL commands in any minute, and therefore in the ten seconds of this test."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, rate_limits="20/minute")
        backlog(account, 60)
        until = time() + 6
        with drainers(2) as running:
            for drainer in running:
                drainer.report()
        while time() < until:
            prx.drain()
            threading.Event().wait(0.3)
        assert len(server.lines("MAIL")) == 20


def test_a_connection_that_claimed_nothing_is_not_opened_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker was faster each time: a login a second for nothing."""
    monkeypatch.setattr(empty_handed, "_waits", {})
    monkeypatch.setattr(empty_handed, "_rests", {})
    with SmtpServer() as server:
        (row,) = backlog(account_on(server), 1)
        greeting = server.on("greeting", stall=True, nth=1)
        slow = CallInThread(prx.drain)
        assert greeting.reached.wait(PATIENCE)
        OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=row.due_since + timedelta(hours=1))
        server.release(greeting)
        assert slow.outcome().claimed == 0
        OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=row.due_since)
        assert prx.drain().claimed == 0
        assert server.connections == 1
        backlog(row.account, 1, priority=5)
        assert prx.drain().sent == 2, "another message comes first: nothing shows that it is held too"


def test_a_drain_whose_caller_gives_the_time_waits_for_no_other_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result must not depend on how long ago a connection claimed nothing, on the machine's clock."""
    monkeypatch.setattr(empty_handed, "_waits", {})
    with SmtpServer() as server:
        (row,) = backlog(account_on(server), 1)
        empty_handed.expect(row.account_id, row.pk)
        empty_handed.note(row.account_id, claimed=False)
        assert prx.drain().claimed == 0
        assert prx.drain(now=row.due_since).sent == 1
