"""Postfix with its own configuration, queue and port; it accepts every message and discards it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.environment import Missing, free_port
from tests.servers.postfix_instance import postfix_instance

#: Seconds within which the queue must be empty after a measurement.
PATIENCE = 60.0
MAIN = """
mynetworks = 127.0.0.0/8
default_transport = discard
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
discard unix - - n - - discard
"""


class Postfix:
    """The server; ``messages`` counts what it has accepted."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._log = folder / "maillog"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run Postfix during the block.

        Raises:
            Missing: it is not installed, or the user is not root.
        """
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        postfix, postconf = shutil.which("postfix", path=path), shutil.which("postconf", path=path)
        if postfix is None or postconf is None or os.geteuid():
            raise Missing("Postfix is missing, or you are not root: apt-get install postfix")
        self._folder.chmod(0o755)
        master = MASTER.format(port=self.port)
        with postfix_instance(self._folder, commands=(postfix, postconf), main=MAIN, master=master, ports=[self.port]):
            yield

    def messages(self, expected: int) -> int:
        """Messages that were discarded so far; waits until there are ``expected``."""
        deadline = time.monotonic() + PATIENCE
        while (count := self._discarded()) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        return count

    def _discarded(self) -> int:
        return self._log.read_bytes().count(b" status=sent ") if self._log.exists() else 0
