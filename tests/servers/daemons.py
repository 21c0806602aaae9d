"""Starts servers in a temporary folder, and ends exactly these servers."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.patience import PATIENCE


class Failed(Exception):
    """A server did not start or did not deliver in time; the text has the end of its log."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, since servers change their user."""
    path = Path(tempfile.mkdtemp(prefix="prx_mail_"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        # A delivery that has just ended may still remove files in it.
        wait_until(lambda: _removed(path), what=f"{path} to be removed", log=path / "log")


def _removed(path: Path) -> bool:
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


@contextlib.contextmanager
def running(arguments: Sequence[str | Path], *, ready: Callable[[], bool], log: Path) -> Iterator[None]:
    """Run a server in the foreground; enter the block when it is ready, and stop it afterwards.

    Raises:
        Failed: it did not start.
    """
    with log.open("ab") as out:
        # In a process group of its own: Postfix's master ends its children by the group.
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: ready() or process.poll() is not None, what=f"{arguments[0]} to start", log=log)
        if process.poll() is not None:
            raise Failed(f"{arguments[0]} ended at once:\n{tail(log)}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def wait_until(done: Callable[[], bool], *, what: str, log: Path, timeout: float = PATIENCE) -> None:
    """Poll until the condition is true: there is no event of another process that could be awaited.

    Raises:
        Failed: it did not become true in time.
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise Failed(f"timeout while waiting for {what}:\n{tail(log)}")
        time.sleep(0.02)


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else ""


def listens(port: int) -> bool:
    """Whether a server listens on this port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Unused ports of loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for server in sockets:
            server.bind(("127.0.0.1", 0))
        return [int(server.getsockname()[1]) for server in sockets]
