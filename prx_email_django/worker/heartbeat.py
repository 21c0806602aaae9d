"""Says that this process is alive: one row of ``Worker``, written every few seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial

from django.db import Error

from prx_email_django.models.activity import LOOP, WorkerState
from prx_email_django.rules.clock import Clock
from prx_email_django.store.absence import unwritten
from prx_email_django.store.activity import seen
from prx_email_django.store.db import clock_for, worker_name

#: Between two heartbeats.
BEAT = timedelta(seconds=10)

#: What a plain call of ``drain`` is.
PLAIN = "drain"
_kind: ContextVar[str] = ContextVar("kind", default=PLAIN)
#: Worker's name -> its last heartbeat: a loop begins a drain each second, mostly with nothing to do.
_last: dict[str, datetime] = {}


@contextmanager
def working_as(kind: str) -> Iterator[None]:
    """Give the drains of this block a kind: ``loop``, ``task`` or ``command``; a loop says when it has ended."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)
        if kind == LOOP and worker_name() in _last:
            with suppress(Error):  # while the database is away, the process is shown as lost
                seen(kind=LOOP, state=WorkerState.ENDED, sent=0, at=clock_for(None).running)


def is_loop() -> bool:
    """Whether a drain of this context belongs to a loop."""
    return _kind.get() == LOOP


class Heartbeat:
    """The heartbeat of one drain."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted = 0
        self._state = WorkerState.IDLE

    def beat(self, sent: int) -> bool:
        """Write that the process is working, if a heartbeat is due; ``sent``: messages of this drain until now."""
        if not self._is_due():
            return False
        self._write(WorkerState.WORKING, sent)
        return True

    def end(self, sent: int) -> None:
        """Write that the process is idle; a loop writes it once in a while, or when it has sent something."""
        is_written = sent == self._counted and self._state == WorkerState.IDLE
        if not is_written or not is_loop() or self._is_due():
            self._write(WorkerState.IDLE, sent)

    def _is_due(self) -> bool:
        last = _last.get(worker_name())
        return last is None or not timedelta(0) <= self._clock.running - last < BEAT

    def _write(self, state: WorkerState, sent: int) -> None:
        now = _last[worker_name()] = self._clock.running
        new, self._counted = sent - self._counted, sent
        self._state = state
        unwritten.write([partial(seen, kind=_kind.get(), state=state, sent=new, at=now)])
