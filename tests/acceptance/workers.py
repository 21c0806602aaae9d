"""Real worker processes on the database of the test: started in a session of their own, ended by their pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

from prx_email_django.models import Account
from tests.support.smtp_server import SmtpServer

SETTINGS = "tests.acceptance.worker_settings"
PATIENCE = 60.0


def environment(
    *, prx_email: Mapping[str, Any] | None = None, q_cluster: Mapping[str, Any] | None = None, **more: str
) -> dict[str, str]:
    """What a worker is told; the database comes from ``tests.settings``, which has put it into the environment."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PRX_EMAIL": json.dumps(dict(prx_email or {})),
        "Q_CLUSTER": json.dumps(dict(q_cluster or {})),
        **more,
    }


class Worker:
    """One ``manage.py`` command that runs beside the test."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        command = [sys.executable, "-m", "django", *arguments]
        self.process = subprocess.Popen(
            command, env=dict(env), stdout=self._out, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        self._out.seek(0)
        return self._out.read()

    def terminate(self) -> None:
        """SIGTERM to the main process alone, as systemd does with KillMode=mixed."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the main process alone."""
        self.process.kill()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """End whatever of it is left: its session is its own."""
        if self.process.poll() is None:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            sys.stderr.write(self.output)
        self.close()


@contextmanager
def outbox(**fields: Any) -> Iterator[tuple[SmtpServer, Account]]:
    """A server and an account on it."""
    with SmtpServer() as server:
        values = {"name": "main", "email": "app@example.org", "host": server.host, "port": server.port}
        yield server, Account.objects.create(**{**values, "security": "none", "auth_method": "none", **fields})


def eventually(condition: Callable[[], object], *, timeout: float = PATIENCE) -> bool:
    """Whether a condition in the database, or in another process, comes true in time: nobody tells of it."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def message_id(octets: bytes) -> bytes:
    """The line of a message's header."""
    return next(line for line in octets.splitlines() if line.lower().startswith(b"message-id:"))
