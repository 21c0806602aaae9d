"""One drain in a process of its own, on the database of the test: to be killed, stopped, or run beside others.

    python -m tests.acceptance.drainer '{"settings": {"LEASE": 3}, "drain": {"limit": 5}}'

Prints ``ready`` when Django is up, and the report as JSON when the drain has returned.  SIGTERM ends the drain as the
time budget does.  ``alarm`` (seconds): SystemExit is raised in the main thread then, as django-q2 ends a task.
``collect`` false: without the garbage collector, and with an allocator that keeps nothing, so that what is measured
hangs neither on when the one comes by nor on what the other keeps.
``wait_for_line``: begins only when a line has come on the standard input, so that many begin at once.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

PATIENCE = 60.0


class Drainer:
    """The process, as the test sees it."""

    def __init__(self, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.acceptance.drainer", json.dumps(options, default=str)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(steady=not options.get("collect", True)),
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "the drainer did not start"

    def begin(self) -> None:
        """Let a drain with ``wait_for_line`` begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def report(self) -> dict[str, Any]:
        """What it printed, once it has ended."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        lines = out.strip().splitlines()
        assert lines, f"the drainer ended with {self.process.returncode} and without a report"
        told: dict[str, Any] = json.loads(lines[-1])
        return told

    def exit_code(self) -> int:
        """Wait for its end."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def _environment(*, steady: bool) -> dict[str, str]:
    """``steady``: what is freed goes back to the system at once.

    Else glibc keeps large blocks, once some were freed, in heaps that grow with the order in which threads happen to
    run: 40 MB more where the machine is busy.
    """
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072"} if steady else {}
    return {**os.environ, **allocator, "DJANGO_SETTINGS_MODULE": "tests.settings"}


@contextmanager
def drainers(count: int, **options: Any) -> Iterator[list[Drainer]]:
    """So many at once: all are up before the first begins."""
    started = [Drainer(**options, wait_for_line=True) for _ in range(count)]
    try:
        for one in started:
            one.begin()
        yield started
    finally:
        for one in started:
            one.__exit__()


def _raise_exit(_signal: int, _frame: object) -> None:
    raise SystemExit("timed out")


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised inside a ``__del__``: strike again a moment later, so that the drain does end."""
    if isinstance(dropped.exc_value, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(dropped)


def _memory() -> int:
    """Peak memory of this process so far, in KiB.

    Linux's ``ru_maxrss`` begins with what the parent had when it forked, and so hides that much: not used there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(peak)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(options: dict[str, Any]) -> None:
    """In the process."""
    import django

    from tests import settings

    faulthandler.dump_traceback_later(PATIENCE - 10)  # a drain that hangs says where

    settings.PRX_EMAIL.update(options.get("settings", {}))
    django.setup()
    from prx_email_django import drain

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    arguments = {**options.get("drain", {}), "stop": stopped.is_set}
    if arguments.get("now"):
        arguments["now"] = datetime.fromisoformat(arguments["now"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if options.get("wait_for_line"):
        sys.stdin.readline()
    if options.get("alarm"):
        signal.signal(signal.SIGALRM, _raise_exit)
        sys.unraisablehook = _raise_again
        signal.setitimer(signal.ITIMER_REAL, options["alarm"])
    if not options.get("collect", True):
        gc.disable()
    before = _memory()
    report = drain(**arguments)
    sys.stdout.write(json.dumps({**dataclasses.asdict(report), "kib_before": before, "kib_peak": _memory()}) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
