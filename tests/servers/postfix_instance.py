"""A Postfix with its own configuration, queue and log in a folder, for the tests and for the benchmark."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers.daemons import listens, running

#: Settings of every instance; lines of the caller follow, and may replace one of these.
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
alias_maps =
alias_database =
local_recipient_maps =
smtpd_forbid_unauth_pipelining = yes
"""

#: Services of every instance.
MASTER = """
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
"""


@contextlib.contextmanager
def postfix_instance(
    folder: Path, *, commands: tuple[str, str], main: str, master: str, ports: Sequence[int]
) -> Iterator[Path]:
    """Run Postfix during the block, until every port listens; yields its log.

    ``commands``: the paths of ``postfix`` and ``postconf``; ``main`` and ``master``: further lines of both files.
    """
    postfix, postconf = commands
    config, log = folder / "postfix", folder / "maillog"
    for path in (config, folder / "queue", folder / "data"):
        path.mkdir(exist_ok=True)
    os.chown(folder / "data", pwd.getpwnam("postfix").pw_uid, pwd.getpwnam("postfix").pw_gid)
    (config / "main.cf").write_text(MAIN.format(folder=folder) + main)
    (config / "master.cf").write_text(MASTER + master)
    subprocess.run([postfix, "-c", config, "check"], check=True)
    with running([_master(postconf), "-c", config, "-d"], ready=lambda: all(map(listens, ports)), log=log):
        yield log


def _master(postconf: str) -> Path:
    """The path of Postfix's master, which stays in the foreground; ``postfix start`` would detach it."""
    found = subprocess.run([postconf, "-dh", "daemon_directory"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip(), "master")
