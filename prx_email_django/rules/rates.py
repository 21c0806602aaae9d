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
    current, spent = _window(limit, bucket, counts, now)
    for moved in range(BUCKETS + 1):
        if sum(spent[: BUCKETS - moved]) < limit.count:
            free_at = datetime.fromtimestamp((current + moved) * limit.bucket_seconds, UTC)
            return ReachedLimit(str(limit), free_at) if moved else None
    raise AssertionError  # pragma: no cover  (a limit is at least 1, and an empty window has spent nothing)


def spent_now(limit: RateLimit, *, bucket: int, counts: Sequence[int], now: datetime) -> int:
    """How much of a rate limit is used up; arguments as for ``reached``."""
    return sum(_window(limit, bucket, counts, now)[1][:BUCKETS])


def _window(limit: RateLimit, bucket: int, counts: Sequence[int], now: datetime) -> tuple[int, list[int]]:
    """The number of the present bucket, and what was spent in it and in those before, newest first."""
    current = max(int(now.timestamp() // limit.bucket_seconds), bucket)
    return current, [0] * min(current - bucket, BUCKETS) + list(counts)


def next_wait(last: int) -> int:
    """Seconds to wait after a reply that the account sends too fast; ``last``: the wait before, 0 after a success."""
    return min(max(FIRST_WAIT, 2 * last), LONGEST_WAIT)
