"""The time of a call: given by the caller, or read from the database.

A ``now`` that the caller gives stands still for due times, backoff, pauses and every ``*_at``.  Without it, now is the
database's clock, read once per call and carried on by a local clock, so that workers whose clocks differ agree.  The
database writes leases from the later of (``now`` + time elapsed in the call) and its own clock at that statement.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def uptime() -> float:
    """Seconds on a clock that also runs while the machine sleeps, else on the wall clock: leases are judged by it."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.time()


def instant_of(seconds: float) -> datetime:
    """The instant so many seconds after 1970: microseconds of this era are exact in a double."""
    return datetime.fromtimestamp(seconds, UTC)


class Clock:
    """The time of one call of ``drain``, ``send`` and the like."""

    def __init__(self, *, given: datetime | None, database_now: datetime) -> None:
        self.given = None if given is None else given.astimezone(UTC)
        self._start = self.given or database_now.astimezone(UTC)
        self._read_at = uptime()

    @property
    def running(self) -> datetime:
        """The instant at which the call began + time elapsed: recovery and rate windows are judged by it."""
        return self._start + timedelta(seconds=uptime() - self._read_at)

    @property
    def now(self) -> datetime:
        """The instant for due times and every ``*_at``; it stands still if the caller gave it."""
        return self.at(uptime())

    def at(self, moment: float) -> datetime:
        """What ``now`` was at this moment of ``uptime()``."""
        return self._start + timedelta(seconds=moment - self._read_at) if self.given is None else self.given
