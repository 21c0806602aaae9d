"""Rate windows: a limit of N in a period P, as buckets of P/20 in one row, changed by compare-and-set.

The current bucket, the twenty before it and any ahead of it together never exceed N, so neither does any span of P,
provided that what a permit was taken for reaches the server before the bucket that counts it ends.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from django.db import Error, IntegrityError

from prx_email_django.models import Account, RateWindow
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.rates import (
    BUCKETS,
    LONGEST_LIFE,
    RateLimit,
    parse_rate_limits,
    reached,
    recipients_ceiling,
    rolled,
)
from prx_email_django.store.absence import may_pass
from prx_email_django.store.db import atomic, database_now, in_transaction, retried, retried_after_conflict

#: Tries of one compare-and-set; after these the call takes no permits now, since other workers are taking them.
TRIES = 20


@dataclass(frozen=True, slots=True)
class Permits:
    """``count`` permits of every limit of one kind; ``buckets`` says where they were taken, by limit key."""

    account_id: int
    count: int
    #: What is counted: ``messages`` | ``recipients``.
    what: str
    buckets: dict[str, int]
    #: Seconds since the epoch (of the call's running clock) at which the first of the buckets ends; inf: no limit.
    ends_at: float = math.inf
    #: Why fewer were granted than wanted.
    obstacle: Obstacle | None = None

    def part(self, count: int) -> Permits:
        """``count`` of these permits, for one message."""
        return replace(self, count=count)


def joined(permits: Iterable[Permits]) -> list[Permits]:
    """Permits of the same buckets as one, so that they are given back by one statement."""
    together: dict[tuple[object, ...], Permits] = {}
    for permit in permits:
        key = (permit.account_id, permit.what, *permit.buckets.items())
        others = together.get(key)
        together[key] = permit if others is None else others.part(others.count + permit.count)
    return list(together.values())


@retried
def has_permits(account: Account, *, recipients: Callable[[], int], clock: Clock) -> bool:
    """Whether every limit of the account would let its next message go now; takes nothing.

    ``recipients`` returns how many that message has; it is called only if recipients are limited.
    """
    limits = parse_rate_limits(account.rate_limits)
    if not limits:
        return True
    ceiling = recipients_ceiling(account.rate_limits)
    spent = {window.limit_key: window for window in RateWindow.objects.filter(account=account)}
    for limit in limits:
        window = spent.get(limit.key)
        if window is None:
            continue
        bucket = int(clock.running.timestamp() // limit.bucket_seconds)
        wanted = 1
        if limit.what == "recipients" and ceiling is not None:
            # One that exceeds a whole limit is judged when it is claimed, and needs no room for that.
            wanted = count if (count := recipients()) <= ceiling else 1
        if sum(rolled(window.bucket, window.counts, bucket, farthest=limit.farthest)[1]) + wanted > limit.count:
            return False
    return True


def take_permits(account: Account, wanted: int, *, clock: Clock, life: float = 0.0) -> Permits:
    """Take up to ``wanted`` permits for a claim (``worker.permits``): as many as every limit allows now.

    ``life``: seconds for which they must be good, at most ``LONGEST_LIFE``; without it they may end at once.  They are
    counted in the last bucket of their life, and all that is ahead counts: so at most N go in any period, whenever a
    permit is used.  A long life is paid for by the rate: N in a period and a life.
    """
    return _take(account, "messages", wanted, clock=clock, life=life)


def take_recipients(account: Account, counts: Sequence[int], *, clock: Clock, life: float = 0.0) -> tuple[Permits, int]:
    """Take permits for the recipients of as many of these messages, in order, as every limit allows.

    Returns the permits and the number of messages that they are enough for.

    ``counts`` are the envelope recipients of each message; ``life`` as for ``take_permits``.
    """
    if not any(limit.what == "recipients" for limit in parse_rate_limits(account.rate_limits)):
        return Permits(account.pk, sum(counts), "recipients", {}), len(counts)
    permits = _take(account, "recipients", sum(counts), clock=clock, life=life)
    left, fitting = permits.count, 0
    for count in counts:
        if count > left:
            break
        left -= count
        fitting += 1
    give_back(permits, left, clock=clock)
    obstacle = permits.obstacle
    if fitting < len(counts) and permits.count > 0:
        obstacle = Obstacle.too_little_left(account.rate_limits, obstacle.reached if obstacle else None)
    return replace(permits, count=permits.count - left, obstacle=obstacle), fitting


def give_back(permits: Permits, count: int, *, clock: Clock) -> None:
    """Return permits that were not used; permits of a bucket that has left the window are void."""
    if count > 0:
        for key, bucket in permits.buckets.items():
            _give_back(permits.account_id, key, bucket, count)


def _take(account: Account, what: str, wanted: int, *, clock: Clock, life: float) -> Permits:
    granted, ends_at = wanted, math.inf
    taken: list[tuple[RateLimit, int, int]] = []
    obstacle: Obstacle | None = None
    for limit in parse_rate_limits(account.rate_limits):
        if limit.what != what or granted <= 0:
            continue
        asked_at = clock.running  # what was used up then may be free when a slow database has said so
        seconds = asked_at.timestamp()
        current = int(seconds // limit.bucket_seconds)
        last = int((seconds + min(life, LONGEST_LIFE)) // limit.bucket_seconds)
        spent = _take_one(account.pk, limit, current, granted, ahead=last - current)
        if spent.granted < granted:
            found = reached(limit, bucket=spent.newest, counts=spent.counts, now=asked_at)
            obstacle = Obstacle(ObstacleKind.RATE, reached=found) if found else obstacle
        granted = spent.granted
        taken.append((limit, spent.bucket, granted))
        ends_at = min(ends_at, (last + 1) * limit.bucket_seconds)
    for limit, bucket, count in taken:
        if count > granted:
            _give_back(account.pk, limit.key, bucket, count - granted)
    return Permits(account.pk, granted, what, {limit.key: bucket for limit, bucket, _ in taken}, ends_at, obstacle)


class _Spent(NamedTuple):
    """What one compare-and-set granted from which bucket, and the window after it."""

    bucket: int
    granted: int
    newest: int
    counts: Sequence[int]


@retried
def _take_one(account_id: int, limit: RateLimit, bucket: int, wanted: int, *, ahead: int) -> _Spent:
    newest, counts = bucket, [0] * BUCKETS
    for _ in range(TRIES):
        window = _window(account_id, limit.key)
        if window.bucket - bucket >= limit.farthest:
            # A ``now`` in the past must not move the window back: the next real time would forget what was spent.
            present = int(database_now().timestamp() // limit.bucket_seconds)
            bucket = max(bucket, min(window.bucket, present))
        newest, counts = rolled(window.bucket, window.counts, bucket, ahead=ahead, farthest=limit.farthest)
        granted = min(wanted, limit.count - sum(counts))
        if granted <= 0:
            return _Spent(bucket, 0, newest, counts)
        # A worker whose clock is behind spends from the bucket that it believes to be current.
        last = bucket + ahead
        spent = list(counts)
        spent[newest - last] += granted
        if _write(window, newest, spent):
            return _Spent(last, granted, newest, spent)
        time.sleep(random.uniform(0, 0.005))  # noqa: S311
    return _Spent(bucket, 0, newest, counts)


def _give_back(account_id: int, key: str, bucket: int, count: int) -> None:
    """Return permits to a bucket; while the database is away they lapse with their bucket.

    Not tried again: returned twice, they would let more through than the limit.
    """
    try:
        _return_to_bucket(account_id, key, bucket, count)
    except Error as error:
        if not may_pass(error) or in_transaction():
            raise


@retried_after_conflict
def _return_to_bucket(account_id: int, key: str, bucket: int, count: int) -> None:
    for _ in range(TRIES):
        window = _window(account_id, key)
        index = window.bucket - bucket
        if not 0 <= index < len(window.counts):
            return
        counts = list(window.counts)
        counts[index] = max(0, counts[index] - count)
        if _write(window, window.bucket, counts):
            return
        time.sleep(random.uniform(0, 0.005))  # noqa: S311


def _window(account_id: int, key: str) -> RateWindow:
    rows = RateWindow.objects.filter(account_id=account_id, limit_key=key)
    window = rows.first()
    if window is not None:
        return window
    try:
        with atomic():
            return RateWindow.objects.create(account_id=account_id, limit_key=key)
    except IntegrityError:
        return rows.get()


def _write(window: RateWindow, bucket: int, counts: Sequence[int]) -> bool:
    fields = {"bucket": bucket, "counts": list(counts), "version": window.version + 1}
    return bool(RateWindow.objects.filter(pk=window.pk, version=window.version).update(**fields))
