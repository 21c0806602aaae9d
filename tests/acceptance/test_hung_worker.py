"""A worker that waits for a slow server, one that is stopped, and one that was idle: each is shown as what it is."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.utils import timezone

from prx_email_django.contrib.health import health
from prx_email_django.contrib.metrics import metrics
from prx_email_django.models import OutboxMessage, Worker
from prx_email_django.models.activity import WorkerState
from tests.acceptance.drainer import Drainer
from tests.acceptance.workers import Worker as Process
from tests.acceptance.workers import environment, eventually, outbox
from tests.integration import admin_rows as rows
from tests.support.factories import account_on, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)
LONG = timedelta(minutes=20)


def shown() -> dict[str, Any]:
    """What the dashboard, the commands, the health view and the metrics say."""
    status, check, request = StringIO(), StringIO(), RequestFactory().get("/")
    call_command("outbox_status", stdout=status)
    try:
        call_command("outbox_status", "--check", stdout=check, stderr=check)
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    return {
        "page": _client().get(f"{rows.ADMIN}outbox/").content.decode(),
        "status": status.getvalue(),
        "check": code,
        "health": health(request).status_code,
        "metrics": metrics(request).content.decode(),
    }


def _client() -> Client:
    client = Client()
    client.force_login(User.objects.get_or_create(username="ada", is_staff=True, is_superuser=True)[0])
    return client


def let_time_pass() -> None:
    """As if the process had been stopped for twenty minutes: it writes nothing meanwhile."""
    Worker.objects.update(last_seen_at=timezone.now() - LONG)
    OutboxMessage.objects.filter(status="sending").update(claim_expires_at=timezone.now() - LONG)


def test_a_worker_that_waits_for_a_server_is_alive_and_a_stopped_one_hangs_since_it_was_seen() -> None:
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=1, pipelining="off"), 1)
        stalled = server.on("final", stall=True)
        with Drainer(settings={"LEASE": 30}) as drainer:
            assert stalled.reached.wait(PATIENCE)
            seen = Worker.objects.get()
            assert seen.state == WorkerState.WORKING
            assert eventually(lambda: Worker.objects.get().last_seen_at > seen.last_seen_at)
            found = shown()
            assert (found["check"], found["health"]) == (0, 200)
            assert "hangs or was killed" not in found["page"] + found["status"]
            assert "outbox_workers_hung 0.0" in found["metrics"]

            os.kill(drainer.process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, drainer.process.pid, os.WSTOPPED | os.WNOWAIT)
            let_time_pass()
            found = shown()
            told = f"The worker {seen.name} hangs or was killed: it did not end, and has not been seen for 20 min."
            assert told in found["page"]
            assert told in found["status"]
            assert (found["check"], found["health"]) == (1, 503)
            assert "outbox_workers_hung 1.0" in found["metrics"]
            drainer.kill()


def test_an_idle_worker_that_is_gone_has_ended() -> None:
    with SmtpServer() as server:
        backlog(account_on(server), 1)
        with Drainer() as drainer:
            assert drainer.process.wait(PATIENCE) == 0
    let_time_pass()
    found = shown()
    assert Worker.objects.get().state == WorkerState.IDLE
    assert "hangs or was killed" not in found["page"] + found["status"]
    assert "outbox_workers_hung 0.0" in found["metrics"]
    assert (found["check"], found["health"]) == (0, 200)


@pytest.mark.parametrize(("number", "is_lost"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_an_idle_loop_that_was_killed_is_missing_and_one_that_was_asked_to_end_is_not(
    number: signal.Signals, is_lost: bool
) -> None:
    with outbox(), Process("flush_outbox", "--loop", "--json", env=environment(prx_email={})) as loop:
        assert eventually(lambda: Worker.objects.filter(state=WorkerState.IDLE).exists())
        loop.process.send_signal(number)
        loop.process.wait(PATIENCE)
        let_time_pass()
        seen = Worker.objects.get()
        assert seen.state == (WorkerState.IDLE if is_lost else WorkerState.ENDED)
        found = shown()
        told = f"The worker {seen.name} hangs or was killed: it did not end, and has not been seen for 20 min."
        assert (told in found["page"], told in found["status"]) == (is_lost, is_lost)
        # It had no message: nothing is late.
        assert (found["check"], found["health"]) == (0, 200)
        # Its supervisor starts another one, which takes its place.
        now = timezone.now()
        Worker.objects.create(name="other:1", kind="loop", started_at=now, last_seen_at=now)
        assert told not in shown()["page"]
