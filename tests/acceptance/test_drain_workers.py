"""Many workers on one queue: each message goes out once, and what an account allows is never exceeded."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, ConnectionSlot, DeliveryAttempt, OutboxMessage, RateWindow
from prx_email_django.rules import clock as clocks
from prx_email_django.store import claims
from prx_email_django.store.claims import Lease
from tests.acceptance.drainer import Drainer, drainers
from tests.acceptance.workers import eventually
from tests.support.fake_clock import FrozenClock
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


def account_on(server: SmtpServer, **fields: Any) -> Account:
    values = {"name": "main", "email": "app@example.org", "host": server.host, "port": server.port}
    return Account.objects.create(**{**values, "security": "none", "auth_method": "none", **fields})


def enqueue(account: Account, count: int, **fields: Any) -> list[OutboxMessage]:
    some = [{"to": f"p{number}@example.org", "subject": "n", "body_text": "text", **fields} for number in range(count)]
    return prx.enqueue_many(some, account=account)


def workers() -> int:
    """SQLite has one writer at a time: two show all that four would."""
    return 2 if connection.vendor == "sqlite" else 4


def assert_each_once(server: SmtpServer, count: int) -> None:
    assert Counter(server.recipients) == Counter({f"p{number}@example.org": 1 for number in range(count)})
    assert OutboxMessage.objects.filter(status="sent", attempts=0, retries=0).count() == count
    assert DeliveryAttempt.objects.filter(outcome="sent", number=1).count() == count
    assert DeliveryAttempt.objects.count() == count
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_many_workers_send_each_message_once_over_the_accounts_connections() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        enqueue(account, 600)
        stalled = server.on("final", stall=True, times=3)
        with drainers(workers()) as running:
            assert stalled.reached.wait(60)
            server.release(stalled)
            reports = [one.report() for one in running]
        left = prx.drain()
        assert sum(one["sent"] for one in reports) + left.sent == 600
        assert sum(one["failed"] + one["deferred"] for one in reports) == 0
        assert server.max_open_connections <= 3
        assert_each_once(server, 600)


def test_workers_share_connections_and_the_queue() -> None:
    with SmtpServer() as server:
        server.on("final", delay=0.01)
        account = account_on(server, max_connections=8)
        enqueue(account, 400, priority=3)
        with drainers(workers()) as running:
            reports = [one.report() for one in running]
        prx.drain()
        assert server.max_open_connections <= 8
        assert sum(one["claimed"] for one in reports) >= 400
        assert_each_once(server, 400)


def test_a_rate_limit_holds_over_all_workers() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=8, rate_limits="50/hour")
        enqueue(account, 200)
        with drainers(workers()) as running:
            reports = [one.report() for one in running]
        assert len(server.lines("MAIL")) <= 50
        assert len(server.messages) == sum(one["sent"] for one in reports)
        for _ in range(3):
            prx.drain()
        assert len(server.lines("MAIL")) == 50, "what was not used is given back"
        assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 150
        later = timezone.now() + timedelta(hours=2)
        assert prx.drain(now=later).sent == 50


def test_a_permit_that_ends_before_mail_in_a_drain_is_given_back_and_taken_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two seconds of a bucket are left, and the first message holds the only connection for longer."""
    bucket = 3  # seconds: a twentieth of the minute
    end = datetime(2026, 1, 5, 12, 0, bucket, tzinfo=UTC)
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, rate_limits="20/minute", pipelining="off")
        enqueue(account, 3, now=end - timedelta(seconds=2))
        thinking = server.on("final", stall=True, times=1)
        time_of_drains = FrozenClock()
        monkeypatch.setattr(clocks, "uptime", time_of_drains)
        draining = Draining(now=end - timedelta(seconds=2))
        assert thinking.reached.wait(60)
        time_of_drains.seconds = 2.2
        server.release(thinking)
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
        enqueue(account, 60, cc=["a@example.org", "b@example.org"])
        with drainers(workers()) as running:
            for one in running:
                one.report()
        for _ in range(3):
            prx.drain()
        assert len(server.lines("RCPT")) == 39, "thirteen messages of three"
        assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 47


def test_a_tight_limit_is_never_exceeded_in_any_span() -> None:
    """Real time: at most N MAILs in every span of a minute, and so in this test's ten seconds."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, rate_limits="20/minute")
        enqueue(account, 60)
        until = time() + 6
        with drainers(2) as running:
            for one in running:
                one.report()
        while time() < until:
            prx.drain()
            threading.Event().wait(0.3)
        assert len(server.lines("MAIL")) == 20


# Leases


def expiries() -> list[datetime]:
    """When the claims that are held run out."""
    return list(OutboxMessage.objects.filter(status="sending").values_list("claim_expires_at", flat=True))


def test_a_lease_is_renewed_while_the_server_takes_its_time(settings: Any) -> None:
    """Longer than a busy machine may hold the worker up; another one looks when it would have run out."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        enqueue(account, 3)
        stalled = server.on("final", stall=True, times=1)
        with Drainer(settings={"LEASE": 15}) as drainer:
            assert stalled.reached.wait(60)
            settings.PRX_EMAIL = {"LEASE": 15}
            first = expiries()
            assert eventually(lambda: min(expiries(), default=max(first)) > max(first)), "no lease is renewed"
            report = prx.drain(now=max(first) + timedelta(seconds=0.1))
            assert (report.recovered, report.sent) == (0, 0)
            server.release(stalled)
            assert drainer.report()["sent"] == 3
        assert_each_once(server, 3)


def test_a_worker_that_slept_past_its_lease_writes_nothing_and_its_results_still_count(settings: Any) -> None:
    """SIGSTOP is what a frozen machine looks like: another worker recovers, then the first one wakes."""
    settings.PRX_EMAIL = {"LEASE": 1.0, "BASE_BACKOFF": 0.2}
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, pipelining="off")
        enqueue(account, 12)
        stalled = server.on("final", stall=True, times=1)
        with Drainer(settings={"LEASE": 1.0}) as drainer:
            assert stalled.reached.wait(60)
            assert server.wait_for(1)
            os.kill(drainer.process.pid, signal.SIGSTOP)
            before = len(server.messages)
            threading.Event().wait(1.2)
            recovered = prx.drain(now=timezone.now() + timedelta(seconds=70)).recovered
            assert recovered >= 1
            during = len(server.messages)
            os.kill(drainer.process.pid, signal.SIGCONT)
            server.release(stalled)
            drainer.report()
        assert during >= before
        now = timezone.now() + timedelta(hours=1)
        while OutboxMessage.objects.filter(next_attempt_at__isnull=False).exists():
            prx.drain(now=now)
            now += timedelta(hours=1)
        assert OutboxMessage.objects.filter(status="sent").count() == 12
        twice = {address for address, count in Counter(server.recipients).items() if count > 1}
        assert len(twice) <= 10
        for address in twice:
            row = OutboxMessage.objects.get(recipients__address=address)
            assert row.attempts > row.retries, address


def test_nothing_is_written_when_time_has_jumped_past_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept: CLOCK_BOOTTIME has gone on, and nothing else tells the worker."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, pipelining="off")
        enqueue(account, 3)
        stalled = server.on("mail", stall=True, nth=2)
        result: list[Any] = []

        def drain() -> None:
            result.append(prx.drain())
            connections.close_all()

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        assert stalled.reached.wait(60)
        real = claims.uptime
        slept: list[Lease] = []

        def has_time_left(self: Lease) -> bool:
            if not slept or slept[0] is self:
                slept[:] = [self]
                return False
            return self.deadline - real() >= self.length / 3

        monkeypatch.setattr(Lease, "has_time_left", has_time_left)
        server.release(stalled)
        thread.join(60)
        assert not thread.is_alive()
        assert slept, "the lease was asked before the body"
        assert_each_once(server, 3)
        assert result[0].released >= 1
        assert len(server.lines("DATA")) == 3, "the body of the second was not begun under the lost lease"


def test_a_late_acceptance_is_recorded_though_another_took_the_message(settings: Any) -> None:
    settings.PRX_EMAIL = {"LEASE": 600}
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        (row,) = enqueue(account, 1)
        stalled = server.on("final", stall=True, times=1)
        with Drainer(settings={"LEASE": 600}) as drainer:
            assert stalled.reached.wait(60)
            report = prx.drain(now=timezone.now() + timedelta(hours=1))
            assert report.recovered == 1
            row.refresh_from_db()
            assert (row.status, row.last_error_code) == ("failed", "lost_claim")
            server.release(stalled)
            drainer.report()
        row.refresh_from_db()
        assert (row.status, row.next_attempt_at) == ("sent", None)
        assert [(one.number, one.outcome) for one in row.delivery_attempts.all()] == [(1, "sent")]
        assert prx.drain(now=timezone.now() + timedelta(hours=3)).claimed == 0
        assert len(server.messages) == 1


@pytest.mark.parametrize("accounts", [1, 2])
def test_a_database_that_goes_away_leaves_results_to_be_recorded_or_known_as_lost(accounts: int) -> None:
    if connection.vendor == "sqlite":
        cut = None  # no server that could go away: the file is there or it is not
    else:
        cut = {
            "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()",
            "mysql": "SELECT CONCAT('KILL ', id) FROM information_schema.processlist"
            " WHERE id <> CONNECTION_ID() AND db = DATABASE()",
        }[connection.vendor]
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        enqueue(account, 40)
        if accounts == 2:
            server.on("greeting", stall=True, connection=2)
            server.on("greeting", stall=True, connection=3)
            idle = account_on(server, name="second", max_connections=1)
            prx.enqueue(account=idle, to="second@example.org", subject="n", body_text="text")
        stalled = server.on("final", stall=True, times=1)
        with Drainer() as drainer:
            assert stalled.reached.wait(60)
            if cut is None:
                drainer.kill()
            else:
                with connection.cursor() as cursor:
                    cursor.execute(cut)
                    if connection.vendor == "mysql":
                        for (statement,) in cursor.fetchall():
                            cursor.execute(statement)
                server.release(stalled)
                drainer.exit_code()
        server.clear()
        server.release(stalled)
        assert server.wait_closed()
        now = timezone.now()
        while OutboxMessage.objects.exclude(status__in=("sent",)).exists():
            now += timedelta(hours=1)
            prx.drain(now=now)
        twice = {address for address, count in Counter(server.recipients).items() if count > 1}
        assert len(twice) <= (10 if cut is None else 4), "only what was on its way"
        for address in twice:
            row = OutboxMessage.objects.get(recipients__address=address)
            assert row.attempts > row.retries, address
        assert OutboxMessage.objects.filter(status="sent").count() == 39 + accounts
