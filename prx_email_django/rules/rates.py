"""Rate limits of an account, as text: ``"30/minute, 10000 recipients/day"``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from prx_email_django.rules.obstacles import ReachedLimit
from prx_email_django.rules.words import words as _

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
#: A period is counted in twentieths: the current bucket and the twenty before it together never exceed the limit.
BUCKETS = 21
#: A permit is good for at most so many seconds, or until its bucket ends where that is later.
LONGEST_LIFE = 10.0

#: The first wait after the server said that the account sends too fast, and the longest, in seconds.
FIRST_WAIT, LONGEST_WAIT = 1, 30

_LIMIT = re.compile(
    r"(?P<count>\d+)\s*(?P<what>messages?|recipients?)?\s*/\s*(?P<unit>second|minute|hour|day)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``count`` messages or recipients in every span of ``period`` seconds."""

    count: int
    period: int
    what: str = "messages"

    @property
    def key(self) -> str:
        """The key of the limit's row: without ``count``, so that a changed limit keeps what was spent."""
        return f"{self.what}/{self.period}"

    @property
    def bucket_seconds(self) -> float:
        """Length of one bucket, in seconds."""
        return self.period / (BUCKETS - 1)

    @property
    def farthest(self) -> int:
        """So many buckets ahead of the present no permit is counted; a count farther ahead is of a wrong clock."""
        return BUCKETS + int(LONGEST_LIFE // self.bucket_seconds)

    @property
    def is_short(self) -> bool:
        """Whether a bucket is so short that a claim and a rendering may take longer."""
        return self.period == PERIODS["second"]

    def __str__(self) -> str:
        unit = next(name for name, seconds in PERIODS.items() if seconds == self.period)
        what = "" if self.what == "messages" else f" {self.what}"
        return f"{self.count}{what}/{unit}"


def parse_rate_limits(text: str) -> tuple[RateLimit, ...]:
    """The limits that the text names, separated by commas; none for an empty text.

    Raises:
        ValueError: a part is not ``N/unit`` or ``N recipients/unit``, or N is 0, or a limit is named twice.
    """
    limits: dict[str, RateLimit] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _LIMIT.fullmatch(part)
        if match is None or int(match["count"]) < 1:
            raise ValueError(
                _("“%(part)s” must be a rate limit, for example “30/minute” or “10000 recipients/day”.", part=part)
            )
        what = "recipients" if (match["what"] or "").lower().startswith("recipient") else "messages"
        limit = RateLimit(int(match["count"]), PERIODS[match["unit"].lower()], what)
        if limit.key in limits:
            raise ValueError(
                _("“%(part)s”: only one limit of %(what)s is possible for each unit.", part=part, what=what)
            )
        limits[limit.key] = limit
    return tuple(limits.values())


def rates_are_readable(text: str) -> bool:
    """Whether the text names limits, or none."""
    try:
        parse_rate_limits(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def recipients_ceiling(text: str) -> int | None:
    """The largest number of recipients of one message under these limits; None: no limit.

    Text that is no limit (written past the validation) has none: the message waits, and the account says why.
    """
    limits = parse_rate_limits(text) if rates_are_readable(text) else ()
    return min((limit.count for limit in limits if limit.what == "recipients"), default=None)


def reached(limit: RateLimit, *, bucket: int, counts: Sequence[int], now: datetime) -> ReachedLimit | None:
    """Whether a rate limit is used up.

    ``bucket`` is the number of the newest bucket that was written, ``counts`` what was spent, newest first.
    """
    current = _current(limit, bucket, now)
    for moved in range(limit.farthest + BUCKETS + 1):
        if sum(_counting(bucket, counts, current + moved)) < limit.count:
            free_at = datetime.fromtimestamp((current + moved) * limit.bucket_seconds, UTC)
            return ReachedLimit(str(limit), free_at, limit.is_short) if moved else None
    raise AssertionError  # pragma: no cover  (a limit is at least 1, and an empty window has spent nothing)


def spent_now(limit: RateLimit, *, bucket: int, counts: Sequence[int], now: datetime) -> int:
    """How much of a rate limit is used up; arguments as for ``reached``."""
    return sum(_counting(bucket, counts, _current(limit, bucket, now)))


def _current(limit: RateLimit, newest: int, now: datetime) -> int:
    """The number of the present bucket."""
    return max(int(now.timestamp() // limit.bucket_seconds), newest - limit.farthest)


def _counting(newest: int, counts: Sequence[int], current: int) -> Sequence[int]:
    """What counts at ``current``: what was spent of it, of the twenty buckets before it, and of any ahead of it."""
    return counts[: max(0, newest - current + BUCKETS)]


def rolled(
    newest: int, counts: Sequence[int], bucket: int, *, ahead: int = 0, farthest: int = BUCKETS
) -> tuple[int, list[int]]:
    """Move the window on so that the bucket ``ahead`` of ``bucket`` is in it.

    Returns its newest bucket, and the counts that limit who takes a permit in ``bucket``, newest first.  If ``bucket``
    is older than the whole window (``farthest``), the window starts at ``bucket``, whose count is the sum.
    """
    if newest - bucket >= farthest:
        return bucket + ahead, [0] * ahead + [sum(counts)] + [0] * (BUCKETS - 1)
    last = max(newest, bucket + ahead)
    length = last - bucket + BUCKETS
    moved = [*([0] * min(last - newest, length)), *counts, *([0] * length)][:length]
    return last, moved


def next_wait(last: int) -> int:
    """Seconds to wait after a reply that the account sends too fast; ``last``: the wait before, 0 after a success."""
    return min(max(FIRST_WAIT, 2 * last), LONGEST_WAIT)
