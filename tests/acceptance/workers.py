"""Real worker processes on the database of the test, and checks of what workers have sent and left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Self

from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, ConnectionSlot, DeliveryAttempt, OutboxMessage
from tests.support.factories import account_on
from tests.support.output import Output
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

SETTINGS = "tests.acceptance.worker_settings"
LATER = timedelta(hours=1)


def environment(
    *, prx_email: Mapping[str, Any] | None = None, q_cluster: Mapping[str, Any] | None = None, **more: str
) -> dict[str, str]:
    """Environment of a worker; ``tests.settings`` has already put the name of the database into this one."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PRX_EMAIL": json.dumps(dict(prx_email or {})),
        "Q_CLUSTER": json.dumps(dict(q_cluster or {})),
        **more,
    }


@contextmanager
def _quit_signal_of_a_terminal() -> Iterator[None]:
    """Let processes that begin here get SIGQUIT: a shell starts those in the background with SIGQUIT ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGQUIT, before)


class Worker:
    """A ``manage.py`` command that runs at the same time as the test."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._out = Output()
        command = [sys.executable, "-m", "django", *arguments]
        with _quit_signal_of_a_terminal():
            self.process = subprocess.Popen(
                command, env=dict(env), stdout=self._out.writer, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._out.handed_over()

    @property
    def output(self) -> str:
        """Everything that the command has printed until now."""
        return self._out.text

    def terminate(self) -> None:
        """Send SIGTERM to the main process only, as systemd does with KillMode=mixed."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the main process only."""
        self.process.kill()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process; return its exit code."""
        code = self.process.wait(timeout)
        self._out.complete()
        return code

    def close(self) -> None:
        """End every process of the worker's session that still runs."""
        if self.process.poll() is None:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            sys.stderr.write(self.output)
        self.close()


@contextmanager
def outbox(tls: str | None = None, **fields: Any) -> Iterator[tuple[SmtpServer, Account]]:
    """Start an SMTP server and create an account that uses it."""
    with SmtpServer(tls=tls) as server:
        yield server, account_on(server, **fields)


def eventually(condition: Callable[[], object], *, timeout: float = PATIENCE) -> bool:
    """Poll a condition in the database or another process; return whether it became true within ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def message_id(data: bytes) -> bytes:
    """The Message-ID line of a message's header."""
    return next(line for line in data.splitlines() if line.lower().startswith(b"message-id:"))


def finish(now: datetime | None = None) -> datetime:
    """Drain again, each time an hour later, until no message waits; return the time of the last drain."""
    now = now or timezone.now() + LATER
    for _ in range(12):
        prx.drain(now=now)
        if not OutboxMessage.objects.filter(next_attempt_at__isnull=False).exists():
            return now
        now += LATER
    raise AssertionError(list(OutboxMessage.objects.exclude(status="sent").values("id", "status", "last_error_code")))


def assert_all_sent(count: int, *, at: datetime | None = None) -> None:
    """All messages are sent, and no slot is taken; ``at``: by then the leases of killed workers have ended."""
    assert OutboxMessage.objects.filter(status="sent").count() == count
    taken = ConnectionSlot.objects.filter(token__isnull=False)
    assert not (taken if at is None else taken.filter(expires_at__gt=at)).exists()


def assert_each_once(server: SmtpServer, count: int) -> None:
    """Each message of a backlog was sent once, at the first attempt, and no slot is taken."""
    assert Counter(server.recipients) == Counter({f"p{number}@example.org": 1 for number in range(count)})
    assert OutboxMessage.objects.filter(status="sent", attempts=0, retries=0).count() == count
    assert DeliveryAttempt.objects.filter(outcome="sent", number=1).count() == count
    assert DeliveryAttempt.objects.count() == count
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def assert_all_released() -> None:
    """No slot is taken and no message is claimed."""
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
    assert not OutboxMessage.objects.filter(status="sending").exists()


def untouched(rows: list[OutboxMessage]) -> bool:
    """Whether these messages are as ``enqueue`` wrote them."""
    found = OutboxMessage.objects.filter(pk__in=[row.pk for row in rows])
    return all(
        (row.status, row.retries, row.attempts, row.last_error, row.next_attempt_at)
        == ("pending", 0, 0, "", row.due_since)
        for row in found
    )
