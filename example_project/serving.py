"""Starts the web server, the mail server and the loop that sends, and stops all three by their process ids."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import django
from django.conf import settings

from example_project.catcher.authority import make_authority
from example_project.catcher.mode import Mode, ModeFile
from example_project.catcher.process import Catcher, CatcherDied
from example_project.folder import InUse, occupied
from example_project.output import console, print_pairs
from example_project.ports import free_port, is_free

USUAL_PORT = 8000
#: Where Mailpit and MailHog listen, and the preset `local` expects a server.
CATCHER_PORT = 1025
#: Seconds until the web server must answer, and until a stopped process is killed.
START_LIMIT, STOP_LIMIT = 30.0, 15.0
#: The exit code of a process, None while it runs.
Poll = Callable[[], int | None]
#: Seconds between two checks of the processes.
POLL = 0.5


class ProcessFailed(Exception):
    """A process ended unexpectedly, or did not start."""


def main() -> int:
    """Run until a signal; return 0 if no process failed."""
    options = _options()
    stop = _stop_on_signals()
    var: Path = settings.VAR
    try:
        with ExitStack() as stack:
            stack.enter_context(occupied(var))
            make_authority(var)
            ModeFile(var).write(Mode.WELL)
            catcher = stack.enter_context(Catcher(var, tls=0, starttls=0, clear=free_port(prefer=CATCHER_PORT)))
            _prepare({**catcher.ports, "reports": catcher.ports["starttls"]})
            port = options.port or free_port(prefer=None if options.port == 0 else USUAL_PORT)
            manage = [sys.executable, str(settings.ROOT / "manage.py")]
            runserver = [*manage, "runserver", "--noreload", f"127.0.0.1:{port}"]
            web = stack.enter_context(_running(runserver, var / "web.log"))
            loop = stack.enter_context(_running([*manage, "flush_outbox", "--loop"], var / "loop.log"))
            processes = {"web": web.poll, "catcher": catcher.poll, "loop": loop.poll}
            _await_page(port, processes, stop)
            _print_addresses(port, catcher.ports, {"web": web.pid, "catcher": catcher.pid, "loop": loop.pid})
            while not stop:
                _check(processes)
                time.sleep(POLL)
            console.print("Stopping …")
    except (InUse, CatcherDied, ProcessFailed) as problem:
        print(f"serve: {problem}", file=sys.stderr)
        return 1
    console.print("Stopped.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serve", description="Runs the example until Ctrl-C.")
    parser.add_argument(
        "--port", type=int, help=f"port of the web page; 0: any free port; default: {USUAL_PORT} if free"
    )
    return parser.parse_args()


def _stop_on_signals() -> list[int]:
    """Return a list to which SIGINT and SIGTERM add their numbers: a handler must not wait for a lock."""
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stop.append(number))
    return stop


def _prepare(ports: Mapping[str, int]) -> None:
    django.setup()
    from django.db import connections

    from example_project.prepare import prepare

    prepare(ports)
    connections.close_all()


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in its own session, so that Ctrl-C reaches only this process, which then stops the other."""
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
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _check(processes: Mapping[str, Poll]) -> None:
    for name, poll in processes.items():
        if poll() is not None:
            raise ProcessFailed(f"{name} ended unexpectedly; see {settings.VAR / name}.log")


def _await_page(port: int, processes: Mapping[str, Poll], stop: Sequence[int]) -> None:
    """Wait until the web server answers.  Raises ``ProcessFailed`` if a process ends or ``START_LIMIT`` is over."""
    deadline = time.monotonic() + START_LIMIT
    while is_free(port) and not stop:
        time.sleep(0.1)
        _check(processes)
        if time.monotonic() > deadline:
            raise ProcessFailed(f"the web page does not answer; see {settings.VAR / 'web.log'}")


def _print_addresses(port: int, ports: Mapping[str, int], pids: Mapping[str, int]) -> None:
    from example_project.prepare import ADMIN, ADMIN_PASSWORD

    console.print("The example is running. No message leaves this machine.")
    console.print()
    print_pairs(
        {
            "shop": f"http://127.0.0.1:{port}/  (order a book)",
            "operator": f"http://127.0.0.1:{port}/operator/  (let the provider fail, and see what happens)",
            "inbox": f"http://127.0.0.1:{port}/inbox/",
            "admin": f"http://127.0.0.1:{port}/admin/  (user {ADMIN}, password {ADMIN_PASSWORD})",
            "mail server": f"127.0.0.1, ports {ports['tls']} (TLS), {ports['starttls']} (STARTTLS), "
            f"{ports['clear']} (clear text, no login)",
            "logs": f"{settings.VAR}: outbox.log, web.log, loop.log, catcher.log",
            "processes": ", ".join(f"{name} {pid}" for name, pid in pids.items()),
        }
    )
    console.print()
    console.print("Ctrl-C stops everything.")
