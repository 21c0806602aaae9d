"""Leases of a worker that is slow, frozen or cut off: its results are recorded, and no message is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import ConnectionSlot, OutboxMessage
from prx_email_django.store import lease
from prx_email_django.store.lease import Lease
from tests.acceptance.drainer import Drainer
from tests.acceptance.workers import assert_each_once, eventually
from tests.support.factories import account_on, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_script import Rule
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


def expiries() -> list[datetime]:
    """When the leases of the claimed messages end."""
    return list(OutboxMessage.objects.filter(status="sending").values_list("claim_expires_at", flat=True))


def test_a_lease_is_renewed_while_the_server_takes_its_time(settings: Any) -> None:
    """The lease outlasts the delays of a busy machine; after its first end another drain recovers nothing."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        backlog(account, 3)
        stalled = server.on("final", stall=True, times=1)
        with Drainer(settings={"LEASE": 15}) as drainer:
            assert stalled.reached.wait(PATIENCE)
            settings.PRX_EMAIL = {"LEASE": 15}
            first = expiries()
            assert eventually(lambda: min(expiries(), default=max(first)) > max(first)), "no lease is renewed"
            report = prx.drain(now=max(first) + timedelta(seconds=0.1))
            assert (report.recovered, report.sent) == (0, 0)
            server.release(stalled)
            assert drainer.report()["sent"] == 3
        assert_each_once(server, 3)


def freeze(drainer: Drainer) -> None:
    """Stop the process outside of its transactions: within one it would keep its locks, and everybody waiting."""

    def is_free() -> bool:
        os.kill(drainer.process.pid, signal.SIGSTOP)
        if not connection.features.has_select_for_update_skip_locked:
            return True
        for rows in (OutboxMessage.objects.filter(status="sending"), ConnectionSlot.objects.exclude(token=None)):
            with transaction.atomic():
                if len(rows.select_for_update(skip_locked=True)) < rows.count():
                    os.kill(drainer.process.pid, signal.SIGCONT)
                    return False
        return True

    assert eventually(is_free)


def test_a_worker_that_slept_past_its_lease_writes_nothing_and_its_results_still_count(settings: Any) -> None:
    """SIGSTOP stands for a machine that is frozen: another worker recovers, then the first worker continues."""
    settings.PRX_EMAIL = {"LEASE": 1.0, "BASE_BACKOFF": 0.2}
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, pipelining="off")
        backlog(account, 12)
        stalled = server.on("final", stall=True, times=1)
        waiting = server.on("mail", stall=True, nth=6)
        with Drainer(settings={"LEASE": 1.0}) as drainer:
            assert stalled.reached.wait(PATIENCE) and waiting.reached.wait(PATIENCE)
            sent = OutboxMessage.objects.filter(status="sent")
            assert eventually(lambda: sent.count() == len(server.messages))
            freeze(drainer)
            before = len(server.messages)
            threading.Event().wait(1.2)
            recovered = prx.drain(now=timezone.now() + timedelta(seconds=70)).recovered
            assert recovered >= 1
            during = len(server.messages)
            os.kill(drainer.process.pid, signal.SIGCONT)
            server.release(stalled)
            server.release(waiting)
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


def test_nothing_is_written_when_the_clock_has_jumped_past_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept: only CLOCK_BOOTTIME shows it to the worker."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, pipelining="off")
        backlog(account, 3)
        stalled = server.on("mail", stall=True, nth=2)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        real = lease.uptime
        slept: list[Lease] = []

        def has_time_left(self: Lease, now: float | None = None) -> bool:
            if not slept or slept[0] is self:
                slept[:] = [self]
                return False
            return self.deadline - real() >= self.length / 3

        monkeypatch.setattr(Lease, "has_time_left", has_time_left)
        server.release(stalled)
        report = draining.outcome()
        assert slept, "the lease was checked before the body"
        assert_each_once(server, 3)
        assert report.released >= 1
        assert len(server.lines("DATA")) == 3, "the second body was not begun under the lost lease"


def test_a_late_acceptance_is_recorded_although_another_worker_recovered_the_message(settings: Any) -> None:
    settings.PRX_EMAIL = {"LEASE": 600}
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        (row,) = backlog(account, 1)
        stalled = server.on("final", stall=True, times=1)
        with Drainer(settings={"LEASE": 600}) as drainer:
            assert stalled.reached.wait(PATIENCE)
            report = prx.drain(now=timezone.now() + timedelta(hours=1))
            assert report.recovered == 1
            row.refresh_from_db()
            assert (row.status, row.last_error_code) == ("failed", "lost_claim")
            server.release(stalled)
            drainer.report()
        row.refresh_from_db()
        assert (row.status, row.next_attempt_at) == ("sent", None)
        assert [(attempt.number, attempt.outcome) for attempt in row.delivery_attempts.all()] == [(1, "sent")]
        assert prx.drain(now=timezone.now() + timedelta(hours=3)).claimed == 0
        assert len(server.messages) == 1


@pytest.mark.parametrize("accounts", [1, 2])
def test_a_lost_database_connection_loses_no_message_and_copies_few(accounts: int) -> None:
    if connection.vendor == "sqlite":
        cut = None  # SQLite has no server whose connection could be lost
    else:
        cut = {
            "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()",
            "mysql": "SELECT CONCAT('KILL ', id) FROM information_schema.processlist"
            " WHERE id <> CONNECTION_ID() AND db = DATABASE()",
        }[connection.vendor]
    with SmtpServer() as server:
        account = account_on(server, max_connections=2)
        backlog(account, 40)
        greetings: list[Rule] = []
        if accounts == 2:
            greetings = [server.on("greeting", stall=True, connection=number) for number in (2, 3)]
            idle = account_on(server, name="second", max_connections=1)
            prx.enqueue(account=idle, to="second@example.org", subject="n", body_text="text")
        stalled = server.on("final", stall=True, times=1)
        with Drainer() as drainer:
            assert stalled.reached.wait(PATIENCE)
            if cut is None:
                drainer.kill()
            else:
                with connection.cursor() as cursor:
                    cursor.execute(cut)
                    if connection.vendor == "mysql":
                        for (statement,) in cursor.fetchall():
                            cursor.execute(statement)
                for rule in (stalled, *greetings):
                    server.release(rule)
                assert drainer.exit_code() == 0
        server.clear()
        server.release(stalled)
        assert server.wait_closed()
        now = timezone.now()
        while OutboxMessage.objects.exclude(status__in=("sent",)).exists():
            now += timedelta(hours=1)
            prx.drain(now=now)
        twice = {address for address, count in Counter(server.recipients).items() if count > 1}
        assert len(twice) <= (10 if cut is None else 0), "only messages that a killed process was sending"
        for address in twice:
            row = OutboxMessage.objects.get(recipients__address=address)
            assert row.attempts > row.retries, address
        assert OutboxMessage.objects.filter(status="sent").count() == 39 + accounts
