"""``flush_outbox --loop`` as a separate process: start, stop, kill, and several loops in parallel."""

from __future__ import annotations

import faulthandler
import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

import prx_email_django as prx
from prx_email_django.management._loop import Stop
from prx_email_django.models import ConnectionSlot, OutboxMessage
from prx_email_django.store import db as base
from tests.acceptance.workers import Worker, environment, eventually, message_id, outbox
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)


def loop(*arguments: str, **settings: Any) -> Worker:
    return Worker("flush_outbox", "--loop", "--json", *arguments, env=environment(prx_email=settings))


def fields(number: int = 0) -> dict[str, str]:
    return {"to": f"p{number}@example.org", "subject": f"n {number}", "body_text": "text"}


def lose_lease(message: OutboxMessage) -> None:
    """Expire the lease.  A real lease that is short enough for a test could expire on a busy machine."""
    OutboxMessage.objects.filter(pk=message.pk).update(claim_expires_at=base.database_now() - timedelta(seconds=1))


def summary(worker: Worker) -> dict[str, Any]:
    """Return the summary that the worker printed last."""
    report: dict[str, Any] = json.loads(worker.output.strip().splitlines()[-1])
    return report


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_mail_is_sent_within_seconds_and_the_stop_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    beat = tmp_path / "beat"
    with outbox() as (server, account), loop("--heartbeat", str(beat)) as worker:
        assert eventually(beat.exists)
        prx.enqueue(account=account, **fields())
        assert server.wait_for(1)
        beat.unlink()
        assert eventually(beat.exists)
        worker.process.send_signal(number)
        assert worker.wait() == 0
        assert summary(worker)["sent"] == 1
        assert server.wait_closed()
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_stopped_worker_finishes_started_messages_and_releases_the_others() -> None:
    with outbox(max_connections=1) as (server, account):
        stalled = server.on("final", stall=True, nth=1)
        prx.enqueue_many([fields(number) for number in range(50)], account=account)
        with loop() as worker:
            assert stalled.reached.wait(PATIENCE)
            worker.terminate()
            server.release(stalled)
            assert worker.wait() == 0
            report = summary(worker)
        assert 1 <= len(server.messages) < 50
        assert report["sent"] == len(server.messages) == OutboxMessage.objects.filter(status="sent").count()
    untouched = OutboxMessage.objects.filter(status="pending", attempts=0, last_error_code="", retries=0)
    assert untouched.count() == 50 - report["sent"]


@pytest.mark.parametrize("again", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_releases_what_was_not_started_and_a_second_signal_changes_nothing(again: signal.Signals) -> None:
    """Tried: a SIGHUP ended the process at once, and left five messages claimed."""
    with outbox(max_connections=1) as (server, account):
        stalled = server.on("final", stall=True, nth=1)
        prx.enqueue_many([fields(number) for number in range(50)], account=account)
        with Worker("flush_outbox", "--json", env=environment()) as worker:
            assert stalled.reached.wait(PATIENCE)
            worker.process.send_signal(signal.SIGHUP)
            assert eventually(lambda: OutboxMessage.objects.filter(status="sending").count() == 1), "the rest is back"
            worker.process.send_signal(again)
            server.release(stalled)
            assert worker.wait() == 0, worker.output
            assert summary(worker)["sent"] == len(server.messages) == 1
    assert OutboxMessage.objects.filter(status="sent").count() == 1
    assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 49


def test_signals_that_the_host_uses_stay_its_own(tmp_path: Path) -> None:
    """``faulthandler`` shows where a process hangs; Python itself does not know what it has registered."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    with (tmp_path / "stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR2, file=stacks)
        try:
            stop = Stop()
            with stop.on_signals():
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGUSR2)
        finally:
            faulthandler.unregister(signal.SIGUSR2)
            signal.signal(signal.SIGUSR1, before)
    assert not stop.is_requested
    assert seen == [signal.SIGUSR1]
    assert "test_loop" in (tmp_path / "stacks").read_text()


def test_a_loop_under_nohup_outlives_its_terminal() -> None:
    with outbox() as (server, account):
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            worker = loop()
        finally:
            signal.signal(signal.SIGHUP, ignored)
        with worker:
            prx.enqueue(account=account, **fields())
            assert server.wait_for(1)
            worker.process.send_signal(signal.SIGHUP)
            prx.enqueue(account=account, **fields(1))
            assert server.wait_for(2), worker.output
            worker.terminate()
            assert worker.wait() == 0


def test_a_closed_terminal_disturbs_no_delivery() -> None:
    """The progress bar cannot be written any more; the message in flight keeps its outcome."""
    ours, theirs = pty.openpty()
    with outbox(max_connections=1) as (server, account):
        stalled = server.on("final", stall=True, nth=1)
        prx.enqueue_many([fields(number) for number in range(20)], account=account)
        command = [sys.executable, "-m", "django", "flush_outbox"]
        with subprocess.Popen(command, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            assert stalled.reached.wait(PATIENCE)
            os.close(ours)
            process.send_signal(signal.SIGHUP)
            assert eventually(lambda: OutboxMessage.objects.filter(status="sending").count() == 1)
            server.release(stalled)
            process.wait(PATIENCE)
        assert len(server.messages) == OutboxMessage.objects.filter(status="sent").count() == 1
    assert OutboxMessage.objects.filter(status="pending", attempts=0).count() == 19


def test_loops_side_by_side_send_each_message_once(tmp_path: Path) -> None:
    beats = [tmp_path / "first", tmp_path / "second"]
    with outbox(max_connections=4) as (server, account):
        with loop("--heartbeat", str(beats[0])) as first, loop("--heartbeat", str(beats[1])) as second:
            assert all(eventually(beat.exists) for beat in beats)
            prx.enqueue_many([fields(number) for number in range(400)], account=account)
            assert server.wait_for(400)
            assert eventually(lambda: OutboxMessage.objects.filter(status="sent").count() == 400)
            for worker in (first, second):
                worker.terminate()
            assert [first.wait(), second.wait()] == [0, 0]
            assert summary(first)["sent"] + summary(second)["sent"] == 400
        assert set(Counter(server.recipients).values()) == {1}
        assert server.max_open_connections <= 4


def test_another_loop_takes_over_from_one_that_was_killed() -> None:
    settings = {"BASE_BACKOFF": 0.5}
    with outbox(max_connections=2) as (server, account):
        stalled = server.on("final", stall=True, nth=1)
        message = prx.enqueue(account=account, **fields())
        with loop(**settings) as victim:
            assert stalled.reached.wait(PATIENCE)
            victim.kill()
            victim.wait()
        server.release(stalled)
        lose_lease(message)
        with loop(**settings) as successor:
            assert eventually(lambda: OutboxMessage.objects.filter(pk=message.pk, status="sent").exists())
            successor.terminate()
            assert successor.wait() == 0
        assert len({message_id(received.data) for received in server.messages}) == 1
    message.refresh_from_db()
    assert (message.attempts, message.retries) == (1, 0)


def test_a_copied_database_ends_the_worker_with_an_error() -> None:
    with outbox() as (server, account):
        prx.enqueue(account=account, **fields())
        with loop(INSTANCE="production") as first:
            assert server.wait_for(1)
            first.terminate()
            assert first.wait() == 0
        prx.enqueue(account=account, **fields(1))
        with loop(INSTANCE="staging") as copy:
            assert copy.wait() == 1
            assert "outbox_adopt" in copy.output
        assert len(server.messages) == 1


def cut_all_connections() -> None:
    """Close all connections like a restart of the database server; SQLite has no connections to close."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        elif connection.vendor == "mysql":
            cursor.execute(
                "SELECT id FROM information_schema.PROCESSLIST WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
            for (number,) in cursor.fetchall():
                cursor.execute("KILL CONNECTION %s", [number])


def test_a_loop_outlives_a_restart_of_the_database(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with outbox() as (server, account), loop("--heartbeat", str(beat)) as worker:
        assert eventually(beat.exists)
        prx.enqueue(account=account, **fields())
        assert server.wait_for(1)
        cut_all_connections()
        prx.enqueue(account=account, **fields(1))
        assert server.wait_for(2), worker.output
        worker.terminate()
        assert worker.wait() == 0
