"""Real worker processes on the database of the test: each in a session of its own, ended by its pid."""

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
    """Environment of a worker; ``tests.settings`` has already put the name of the database into this one."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PRX_EMAIL": json.dumps(dict(prx_email or {})),
        "Q_CLUSTER": json.dumps(dict(q_cluster or {})),
        **more,
    }


class Worker:
    """A ``manage.py`` command that runs at the same time as the test."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        command = [sys.executable, "-m", "django", *arguments]
        self.process = subprocess.Popen(
            command, env=dict(env), stdout=self._out, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    @property
    def output(self) -> str:
        """Everything that the command has printed until now."""
        self._out.seek(0)
        return self._out.read()

    def terminate(self) -> None:
        """Send SIGTERM to the main process only, as systemd does with KillMode=mixed."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the main process only."""
        self.process.kill()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process; return its exit code."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """End every process of the worker's session that still runs."""
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
    """Start an SMTP server and create an account that uses it."""
    with SmtpServer() as server:
        values = {"name": "main", "email": "app@example.org", "host": server.host, "port": server.port}
        yield server, Account.objects.create(**{**values, "security": "none", "auth_method": "none", **fields})


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
