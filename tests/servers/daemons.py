"""Starting servers below a folder of their own, and ending exactly those."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

#: Seconds for a server to come up, and to go.
TIMEOUT = 60.0


class Failed(Exception):
    """A server did not do what it should; the text has the end of its log."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that every user may enter, as servers change theirs."""
    path = Path(tempfile.mkdtemp(prefix="prx_mail_"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        # A delivery that has just ended may still be tidying up in there.
        wait_until(lambda: _removed(path), what=f"{path} to be removed", log=path / "log")


def _removed(path: Path) -> bool:
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


@contextlib.contextmanager
def running(arguments: Sequence[str | Path], *, ready: Callable[[], bool], log: Path) -> Iterator[None]:
    """A server in the foreground, from being ready to its end.

    Raises:
        Failed: it did not come up.
    """
    with log.open("ab") as out:
        # At the head of its own group, as Postfix's master wants to be, who ends his children by it.
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: ready() or process.poll() is not None, what=f"{arguments[0]} to start", log=log)
        if process.poll() is not None:
            raise Failed(f"{arguments[0]} ended at once:\n{tail(log)}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT)


def wait_until(done: Callable[[], bool], *, what: str, log: Path, timeout: float = TIMEOUT) -> None:
    """Look until it is so: there is no event across processes that could be awaited.

    Raises:
        Failed: it did not come in time.
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise Failed(f"waited in vain for {what}:\n{tail(log)}")
        time.sleep(0.02)


def tail(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else ""


def listens(port: int) -> bool:
    """Whether somebody listens on loopback."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
