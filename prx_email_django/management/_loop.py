"""The run of ``flush_outbox``: stop signals, time budget, and heartbeat file for a liveness probe."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import reduce
from pathlib import Path
from time import monotonic
from types import FrameType

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from prx_email_django.results import DrainReport
from prx_email_django.store.outbox import wake_requested

#: Seconds between two drains of ``--loop``, and between two updates of the heartbeat file.
POLL = 1.0
#: Seconds between two looks at whether a drain was asked for: of an idle loop, and for some seconds after it has sent.
WATCH, WATCH_CLOSELY = 0.05, 0.02
#: Seconds for which a loop watches closely: those for which it keeps a connection.
CLOSELY_FOR = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: A terminal or session that closes; not on Windows.
_HANGUP = getattr(signal, "SIGHUP", None)
#: Signals that would end the process at once: Ctrl-backslash and the stop signal of some images, and what a rotation of
#: logs sends to other programs.  Not on Windows.
_OTHERS = [getattr(signal, name) for name in ("SIGQUIT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Stop:
    """Says whether the run should end, because of a signal or the time budget.  Each call updates the heartbeat file.

    A drain calls it many times a second, so the heartbeat continues while a server is slow and stops when the process
    hangs.
    """

    def __init__(self, *, seconds: float | None = None, heartbeat: Path | None = None) -> None:
        #: Set by signal handlers.  Not an ``Event``: the interrupted thread might hold the lock of it.
        self.is_requested = False
        self._deadline = None if seconds is None else monotonic() + seconds
        self._heartbeat = heartbeat
        self._beat_at = 0.0

    def __call__(self) -> bool:
        """Return True if started messages should be finished and the others released."""
        self.beat()
        return self.is_requested or self.remaining() == 0

    def remaining(self) -> float | None:
        """Return the remaining seconds of the time budget; None if there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def request(self) -> None:
        """Request the end of the run."""
        self.is_requested = True

    def wait(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the run should end."""
        until = monotonic() + seconds
        while not self() and (left := until - monotonic()) > 0:
            time.sleep(min(left, WATCH))

    def beat(self) -> None:
        """Update the heartbeat file, at most once a second.

        Raises:
            CommandError: the file cannot be written, so a probe would restart the worker.
        """
        if self._heartbeat is None or monotonic() - self._beat_at < POLL:
            return
        self._beat_at = monotonic()
        try:
            self._heartbeat.touch()
        except OSError as error:
            raise CommandError(_("The heartbeat file cannot be written: %(error)s") % {"error": error}) from error

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGHUP request the end of the run; a second SIGTERM or SIGINT ends it at once.

        A second SIGHUP changes nothing: a terminal that closes may send two, and systemd's ``SendSIGHUP`` sends one
        directly after SIGTERM.  A SIGHUP that is ignored (``nohup``) stays ignored.

        SIGQUIT, SIGUSR1 and SIGUSR2 request the end too, where the host does nothing with them.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows signal handlers in the main thread only
            return
        numbers = [*_SIGNALS]
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            numbers.append(_HANGUP)
        numbers += [number for number in _OTHERS if not _is_used(number)]
        before = {number: signal.getsignal(number) for number in numbers}

        def handle(number: int, frame: FrameType | None) -> None:
            self.request()
            if number in _SIGNALS:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)

        for number in numbers:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_used(number: int) -> bool:
    """Whether the process does something with the signal; Linux knows it also of ``faulthandler.register``."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return True
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return any(int(mask, 16) >> (number - 1) & 1 for mask in caught)


def wait_for_wake_up(
    stop: Stop, seconds: float, *, every: float = WATCH, tick: Callable[[], None] = lambda: None
) -> None:
    """Wait for ``seconds``, or until the run should end or a commit asks for a drain: a look ``every`` so many seconds.

    ``tick`` is called in between.
    """
    until = monotonic() + seconds
    while not stop() and not wake_requested() and (left := until - monotonic()) > 0:
        tick()
        stop.wait(min(left, every))


class Counted:
    """The last report of one drain.

    That of a drain that broke off grows until its results are written, perhaps while other drains run.
    """

    def __init__(self) -> None:
        self.report = DrainReport()

    def note(self, report: DrainReport) -> None:
        """The ``progress`` of the drain."""
        self.report = report


class Total:
    """What all drains of one run have done together."""

    def __init__(self) -> None:
        self._complete = DrainReport()
        #: Drains that have not ended well.
        self._others: list[Counted] = []

    def begin(self) -> Counted:
        """Count one more drain, from now on."""
        self._others.append(Counted())
        return self._others[-1]

    def complete(self, drain: Counted) -> None:
        """The drain's report does not change any more."""
        if drain in self._others:
            self._others.remove(drain)
            self._complete = add_reports(self._complete, drain.report)

    def report(self) -> DrainReport:
        """The sums of all fields, as of now."""
        return reduce(add_reports, [drain.report for drain in self._others], self._complete)

    def taken(self) -> int:
        """How many messages ``--limit`` has to count."""
        report = self.report()
        return report.claimed - report.released


def add_reports(first: DrainReport, second: DrainReport) -> DrainReport:
    """Return the sums of all fields."""
    return DrainReport(
        **{field.name: getattr(first, field.name) + getattr(second, field.name) for field in fields(DrainReport)}
    )
