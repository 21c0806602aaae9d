"""What keeps ``flush_outbox`` running: signals that ask it to end, a heartbeat for a probe, a sum of its drains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from time import monotonic
from types import FrameType

from django.core.management.base import CommandError

from prx_email_django.results import DrainReport

#: Seconds between two looks at the queue, and between two touches of the heartbeat file.
POLL = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the run should end: a signal came, or its time is over; asking touches the heartbeat.

    A drain asks many times a second while it works, so that the heartbeat goes on while a server is slow, and stands
    still when the process does.
    """

    def __init__(self, *, seconds: float | None = None, heartbeat: Path | None = None) -> None:
        self._asked = threading.Event()
        self._deadline = None if seconds is None else monotonic() + seconds
        self._heartbeat = heartbeat
        self._beat_at = 0.0

    def __call__(self) -> bool:
        """True: finish what is in flight and give the rest back."""
        self.beat()
        return self._asked.is_set() or self.remaining() == 0

    def remaining(self) -> float | None:
        """Seconds that are left; None: no end is set."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def ask(self) -> None:
        """End the run soon."""
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the run should end."""
        until = monotonic() + seconds
        while not self() and (left := until - monotonic()) > 0:
            self._asked.wait(min(left, POLL, *(() if self._deadline is None else (self._deadline - monotonic(),))))

    def beat(self) -> None:
        """Touch the heartbeat file, at most once a second.

        Raises:
            CommandError: it cannot be written; a probe would take the worker for dead.
        """
        if self._heartbeat is None or monotonic() - self._beat_at < POLL:
            return
        self._beat_at = monotonic()
        try:
            self._heartbeat.touch()
        except OSError as error:
            raise CommandError(f"The heartbeat file cannot be touched: {error}") from error

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for the end; a second one ends at once, as if nobody listened."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def listen(number: int, frame: FrameType | None) -> None:
            self.ask()
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL if one is signal.SIGTERM else signal.default_int_handler)

        for number in _SIGNALS:
            signal.signal(number, listen)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def added(one: DrainReport, other: DrainReport) -> DrainReport:
    """Two reports as one."""
    return DrainReport(**{field.name: getattr(one, field.name) + getattr(other, field.name) for field in fields(one)})
