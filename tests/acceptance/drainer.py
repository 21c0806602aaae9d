"""A drain in a separate process, on the database of the test: a test can kill it, stop it, or run several at once.

    python -m tests.acceptance.drainer '{"settings": {"LEASE": 3}, "drain": {"limit": 5}}'

The process prints ``ready`` when Django is up, and the report as JSON when the drain has returned.  SIGTERM ends the
drain in the same way as the time budget.  Options besides ``settings`` and ``drain``:

- ``alarm``: after so many seconds SystemExit is raised in the main thread, as django-q2 ends a task.
- ``collect``: false switches the garbage collector off and makes the allocator return memory at once, so that the
  measured memory depends neither on the moment of a collection nor on memory that the allocator keeps.
- ``wait_for_line``: the drain begins when a line arrives on standard input, so that several drains begin together.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tests.support.output import Output
from tests.support.patience import PATIENCE


class Drainer:
    """Starts the process and controls it from the test."""

    def __init__(self, *, env: Mapping[str, str] | None = None, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.acceptance.drainer", json.dumps(options, default=str)]
        self._errors = Output()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors.writer,
            text=True,
            env={**_environment(steady=not options.get("collect", True)), **(env or {})},
            start_new_session=True,
        )
        self._errors.handed_over()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "the drainer did not start"

    @property
    def errors(self) -> str:
        """What the process has logged until now: warnings and errors."""
        return self._errors.text

    def begin(self) -> None:
        """Let a drain with ``wait_for_line`` begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end of the process."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def report(self) -> dict[str, Any]:
        """Wait for the end of the process; return the report that it printed."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        lines = out.strip().splitlines()
        assert lines, f"the drainer ended with {self.process.returncode} and without a report"
        report: dict[str, Any] = json.loads(lines[-1])
        return report

    def exit_code(self) -> int:
        """Wait for the end of the process; return its exit code."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        sys.stderr.write(self.errors)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def _environment(*, steady: bool) -> dict[str, str]:
    """Environment of the process; ``steady`` makes the allocator return freed memory to the system at once.

    Otherwise glibc keeps large blocks in heaps after the first ones were freed, and the size of these heaps depends on
    the order in which threads run: 40 MB more on a busy machine.
    """
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072"} if steady else {}
    return {**os.environ, **allocator, "DJANGO_SETTINGS_MODULE": "tests.settings"}


@contextmanager
def drainers(count: int, **options: Any) -> Iterator[list[Drainer]]:
    """Run ``count`` drains at the same time: all processes are ready before the first drain begins."""
    started = [Drainer(**options, wait_for_line=True) for _ in range(count)]
    try:
        for drainer in started:
            drainer.begin()
        yield started
    finally:
        for drainer in started:
            drainer.__exit__()


def _raise_exit(_signal: int, _frame: object) -> None:
    raise SystemExit("timed out")


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Set the alarm again: Python drops an exception raised inside a ``__del__``, and the drain would not end."""
    if isinstance(dropped.exc_value, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(dropped)


def _memory() -> int:
    """Peak memory of this process until now, in KiB.

    Linux does not use ``ru_maxrss`` here: there it starts at the memory that the parent had at the fork, and hides as
    much of the child's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(peak)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(options: dict[str, Any]) -> None:
    """Run one drain in this process, with the options that the test gave."""
    import django

    from tests import settings

    faulthandler.dump_traceback_later(PATIENCE - 10)  # a drain that hangs shows where

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
