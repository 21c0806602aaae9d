"""Postfix with its own configuration, queue and port; it accepts every message and discards it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.environment import Missing, ended, free_port, wait_for_port

#: Seconds within which the queue must be empty after a measurement.
PATIENCE = 60.0
MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
default_transport = discard
smtpd_forbid_unauth_pipelining = yes
"""
MASTER = """
postlog unix-dgram n - n - 1 postlogd
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
discard unix - - n - - discard
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
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
        config = self._configure()
        subprocess.run([postfix, "-c", config, "check"], check=True)
        daemons = subprocess.run([postconf, "-dh", "daemon_directory"], capture_output=True, text=True, check=True)
        # In a session of its own: Postfix's master ends its children by the process group.
        master = [Path(daemons.stdout.strip(), "master"), "-c", config, "-d"]
        process = subprocess.Popen(master, stdin=subprocess.DEVNULL, start_new_session=True)
        with ended(process):
            wait_for_port(self.port, process)
            yield

    def _configure(self) -> Path:
        config = self._folder / "postfix"
        self._folder.chmod(0o755)
        for name in (config, self._folder / "queue", self._folder / "data"):
            name.mkdir()
        os.chown(self._folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
        (config / "main.cf").write_text(MAIN.format(folder=self._folder))
        (config / "master.cf").write_text(MASTER.format(port=self.port))
        return config

    def messages(self, expected: int) -> int:
        """Messages that were discarded so far; waits until there are ``expected``."""
        deadline = time.monotonic() + PATIENCE
        while (count := self._discarded()) < expected and time.monotonic() < deadline:
            time.sleep(0.1)
        return count

    def _discarded(self) -> int:
        return self._log.read_bytes().count(b" status=sent ") if self._log.exists() else 0
