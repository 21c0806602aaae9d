"""Time: what the caller says it is, what the database says, and what goes on while the machine sleeps.

A given ``now`` stands still for due times, backoff, pauses and every ``*_at``.  Without one, now is the database's
clock, read once and carried on monotonically, so that workers whose clocks differ agree.  Leases are written by the
database, from the later of (``now`` + time elapsed in the call) and its own clock at that statement.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def uptime() -> float:
    """Seconds on a clock that goes on while the machine sleeps, else the wall clock: leases are judged by it."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.time()


class Clock:
    """The time of one call."""

    def __init__(self, *, given: datetime | None, database_now: datetime) -> None:
        self.given = given
        self._start = given or database_now
        self._read_at = uptime()

    @property
    def elapsed(self) -> timedelta:
        """Time since the call began."""
        return timedelta(seconds=uptime() - self._read_at)

    @property
    def running(self) -> datetime:
        """``now`` + time elapsed: recovery and rate windows are judged by it."""
        return (self._start + self.elapsed).astimezone(UTC)

    @property
    def now(self) -> datetime:
        """The instant for due times and every ``*_at``: stands still where it was given."""
        return self.given.astimezone(UTC) if self.given is not None else self.running
