"""Starting and ending the mail server from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent.parent


class CatcherDied(Exception):
    """It did not start; its log says why."""


class Catcher:
    """The mail server, from ``with`` to the end of its block.

    ``tls`` and ``starttls`` are ports: 0 for a free one, None for none.  ``ports`` says which they are, by name, and
    ``token`` is that of the token server.
    """

    def __init__(self, var: Path, *, tls: int | None = None, starttls: int | None = None) -> None:
        self.log = var / "catcher.log"
        wanted = {"--tls": tls, "--starttls": starttls}
        options = [f"{name}={port}" for name, port in wanted.items() if port is not None]
        self._command = [sys.executable, "-m", "example_project.catcher", f"--var={var}", *options]
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        with self.log.open("a") as log:
            # A session of its own: Ctrl-C is for who started it, who then ends it.
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101  (it is a pipe)
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
        """Of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._process.terminate()
        self._process.communicate()
