"""Starts and stops the mail server from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent.parent


class CatcherDied(Exception):
    """The mail server did not start; its log says why."""


class Catcher:
    """The mail server as a context manager.

    ``tls``, ``starttls`` and ``clear`` are ports: 0 for any free port, None for no listener.  ``ports`` contains the
    actual ports by name; ``token`` is the port of the token server.
    """

    def __init__(
        self, var: Path, *, tls: int | None = None, starttls: int | None = None, clear: int | None = None
    ) -> None:
        self.log = var / "catcher.log"
        wanted = {"--tls": tls, "--starttls": starttls, "--clear": clear}
        options = [f"{name}={port}" for name, port in wanted.items() if port is not None]
        self._command = [sys.executable, "-m", "example_project.catcher", f"--var={var}", *options]
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        with self.log.open("a") as log:
            # Its own session: Ctrl-C reaches only the parent process, which then stops the mail server.
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101  (stdout is a pipe)
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise CatcherDied(f"the mail server did not start; see {self.log}")
        self.ports = json.loads(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Stop the mail server and wait for its end."""
        self._process.terminate()
        self._process.communicate()
