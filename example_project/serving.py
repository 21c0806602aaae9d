"""Keeps the web page, the mail server and the cluster up, and ends all three, by their process ids."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import django
from django.conf import settings

from example_project.catcher.authority import make_authority
from example_project.catcher.process import Catcher, CatcherDied
from example_project.folder import InUse, occupied
from example_project.ports import free_port, is_free
from example_project.tour.table import pairs, say

USUAL_PORT = 8000
#: Seconds: for the page to answer its first call, and for a process to end before it is killed.
START_LIMIT, STOP_LIMIT = 30.0, 15.0
#: The exit code of a process, None while it runs.
Poll = Callable[[], int | None]
#: Seconds between two looks at the processes.
POLL = 0.5


class Ended(Exception):
    """A process has ended that should not have."""


def main() -> int:
    """0 where a person has ended it."""
    options = _options()
    stop = _stop_on_signals()
    var: Path = settings.VAR
    try:
        with ExitStack() as stack:
            stack.enter_context(occupied(var))
            make_authority(var)
            catcher = stack.enter_context(Catcher(var, tls=0, starttls=0))
            _prepare({**catcher.ports, "reports": catcher.ports["starttls"]})
            port = options.port or free_port(prefer=None if options.port == 0 else USUAL_PORT)
            manage = [sys.executable, str(settings.ROOT / "manage.py")]
            runserver = [*manage, "runserver", "--noreload", f"127.0.0.1:{port}"]
            web = stack.enter_context(_running(runserver, var / "web.log"))
            cluster = stack.enter_context(_running([*manage, "qcluster"], var / "qcluster.log"))
            everyone = {"web": web.poll, "catcher": catcher.poll, "qcluster": cluster.poll}
            _await_page(port, everyone, stop)
            _tell(port, catcher.ports, {"web": web.pid, "catcher": catcher.pid, "qcluster": cluster.pid})
            while not stop.wait(POLL):
                _check(everyone)
            say("stopping …")
    except (InUse, CatcherDied, Ended) as problem:
        print(f"serve: {problem}", file=sys.stderr)
        return 1
    say("stopped")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serve", description="The example, until Ctrl-C.")
    parser.add_argument(
        "--port", type=int, help=f"of the web page; 0: a free one; left out: {USUAL_PORT} if it is free"
    )
    return parser.parse_args()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _prepare(ports: Mapping[str, int]) -> None:
    django.setup()
    from django.db import connections

    from example_project.prepare import prepare

    prepare(ports)
    connections.close_all()


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that Ctrl-C reaches only us, who then end it gently."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=settings.ROOT.parent,
        )
    try:
        yield process
    finally:
        # The main process alone: a cluster whose whole group is told to end may hang.
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _check(everyone: Mapping[str, Poll]) -> None:
    for name, poll in everyone.items():
        if poll() is not None:
            raise Ended(f"{name} has ended by itself; see {settings.VAR / name}.log")


def _await_page(port: int, everyone: Mapping[str, Poll], stop: threading.Event) -> None:
    """Until the page's port answers.  Raises ``Ended`` where a process does before, or half a minute is over."""
    deadline = time.monotonic() + START_LIMIT
    while is_free(port) and not stop.wait(0.1):
        _check(everyone)
        if time.monotonic() > deadline:
            raise Ended(f"the web page does not answer; see {settings.VAR / 'web.log'}")


def _tell(port: int, ports: Mapping[str, int], pids: Mapping[str, int]) -> None:
    from example_project.prepare import ADMIN, ADMIN_PASSWORD

    say("The example is up. No mail leaves this machine.")
    say()
    pairs(
        [
            ("shop", f"http://127.0.0.1:{port}/"),
            ("inbox", f"http://127.0.0.1:{port}/inbox/"),
            ("admin", f"http://127.0.0.1:{port}/admin/  (user {ADMIN}, password {ADMIN_PASSWORD})"),
            ("catcher", f"127.0.0.1:{ports['tls']} (TLS), 127.0.0.1:{ports['starttls']} (STARTTLS)"),
            ("logs", f"{settings.VAR}: outbox.log, web.log, qcluster.log, catcher.log"),
            ("processes", ", ".join(f"{name} {pid}" for name, pid in pids.items())),
        ]
    )
    say()
    say("Ctrl-C ends all of it.")
