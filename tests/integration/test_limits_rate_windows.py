"""A rate limit allows at most N in any period, over all workers; messages that were not sent use none of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F

import prx_email_django as prx
from prx_email_django.limits.rate_windows import TRIES, give_back, take_permits, take_recipients
from prx_email_django.models import OutboxMessage, RateWindow
from tests.support.factories import NOW, SECOND, account, at, backlog, in_threads

pytestmark = pytest.mark.django_db


def test_without_a_limit_everything_is_permitted_and_nothing_written(django_assert_num_queries: object) -> None:
    owner = account()
    with django_assert_num_queries(0):  # type: ignore[operator]
        permits = take_permits(owner, 500, clock=at())
        assert (permits.count, permits.ends_at) == (500, float("inf"))
        give_back(permits, 500, clock=at())


def test_a_full_burst_is_allowed_and_then_nothing_for_the_period() -> None:
    owner = account(rate_limits="30/minute")
    assert take_permits(owner, 50, clock=at()).count == 30
    for seconds in (0, 10, 30, 59, 62):
        assert take_permits(owner, 1, clock=at(NOW + seconds * SECOND)).count == 0, seconds
    assert take_permits(owner, 50, clock=at(NOW + 63 * SECOND)).count == 30


def test_no_span_of_the_period_has_more_than_the_limit() -> None:
    owner = account(rate_limits="10/minute")
    taken: list[datetime] = []
    for seconds in itertools.accumulate([0, 4, 9, 20, 1, 30, 2, 2, 25, 40, 61, 5, 50]):
        moment = NOW + seconds * SECOND
        taken += [moment] * take_permits(owner, 4, clock=at(moment)).count
    for first in taken:
        assert sum(first <= moment <= first + timedelta(seconds=60) for moment in taken) <= 10
    assert len(taken) > 30, "the permits that the limit allows are given"


def test_a_permit_ends_with_its_bucket() -> None:
    permits = take_permits(account(rate_limits="30/minute"), 1, clock=at(NOW + SECOND))
    assert permits.ends_at == (NOW + 3 * SECOND).timestamp()


def test_permits_with_a_longer_life_count_until_it_ends() -> None:
    owner = account(rate_limits="10/second")
    permits = take_permits(owner, 6, clock=at(), life=0.4)
    assert permits.ends_at == pytest.approx((NOW + 0.45 * SECOND).timestamp())
    assert take_permits(owner, 10, clock=at()).count == 4, "a worker in no hurry counts them too"
    for seconds in (0.5, 1.0):
        assert take_permits(owner, 10, clock=at(NOW + seconds * SECOND)).count == 0, seconds
    assert take_permits(owner, 10, clock=at(NOW + 1.06 * SECOND)).count == 4, "they were used at once"
    assert take_permits(owner, 10, clock=at(NOW + 1.44 * SECOND)).count == 0, "they may have been used as late as this"
    assert take_permits(owner, 10, clock=at(NOW + 1.46 * SECOND)).count == 6


def test_permits_of_a_longer_life_are_released_to_the_bucket_that_counts_them() -> None:
    owner = account(rate_limits="10/second")
    permits = take_permits(owner, 10, clock=at(), life=3)
    give_back(permits, 7, clock=at(NOW + SECOND))
    assert take_permits(owner, 10, clock=at(NOW + SECOND)).count == 7


def test_no_life_is_longer_than_the_longest() -> None:
    owner = account(rate_limits="10/second, 10/minute")
    permits = take_permits(owner, 10, clock=at(), life=3600)
    assert permits.ends_at <= (NOW + 10.1 * SECOND).timestamp()
    assert take_permits(owner, 10, clock=at(NOW + 70 * SECOND)).count == 0
    assert take_permits(owner, 10, clock=at(NOW + 73 * SECOND)).count == 10


def test_unused_permits_are_released_to_their_bucket() -> None:
    owner = account(rate_limits="10/minute")
    permits = take_permits(owner, 10, clock=at())
    give_back(permits, 4, clock=at(NOW + 30 * SECOND))
    assert take_permits(owner, 10, clock=at(NOW + 30 * SECOND)).count == 4
    give_back(permits, 100, clock=at(NOW + 31 * SECOND))
    assert take_permits(owner, 99, clock=at(NOW + 31 * SECOND)).count == 6, "never more than were taken"


def test_permits_of_a_bucket_that_has_ended_are_not_released() -> None:
    owner = account(rate_limits="10/minute")
    old = take_permits(owner, 10, clock=at())
    assert take_permits(owner, 10, clock=at(NOW + 90 * SECOND)).count == 10
    give_back(old, 10, clock=at(NOW + 91 * SECOND))
    assert take_permits(owner, 10, clock=at(NOW + 91 * SECOND)).count == 0


def test_the_tightest_of_several_limits_decides_and_the_others_lose_nothing() -> None:
    owner = account(rate_limits="20/minute, 5/hour")
    assert take_permits(owner, 30, clock=at()).count == 5
    assert take_permits(owner, 30, clock=at()).count == 0
    spent = {row.limit_key: sum(row.counts) for row in RateWindow.objects.all()}
    assert spent == {"messages/60": 5, "messages/3600": 5}


def test_recipients_are_counted_and_only_whole_messages_pass() -> None:
    owner = account(rate_limits="10 recipients/hour")
    permits, fitting = take_recipients(owner, [4, 5, 3], clock=at())
    assert (permits.count, fitting) == (9, 2)
    assert take_recipients(owner, [3], clock=at())[1] == 0
    assert take_recipients(owner, [1, 1], clock=at())[1] == 1
    assert take_permits(owner, 7, clock=at()).count == 7, "messages have no limit here"


def test_a_worker_whose_clock_is_behind_does_not_exceed_a_limit() -> None:
    owner = account(rate_limits="10/hour")
    assert take_permits(owner, 10, clock=at(NOW + timedelta(minutes=5))).count == 10
    assert take_permits(owner, 1, clock=at()).count == 0


def test_a_changed_limit_keeps_the_permits_that_were_used() -> None:
    owner = account(rate_limits="10/minute")
    assert take_permits(owner, 8, clock=at()).count == 8
    owner.rate_limits = "12/minute"
    assert take_permits(owner, 12, clock=at()).count == 4
    owner.rate_limits = "5/minute"
    assert take_permits(owner, 5, clock=at()).count == 0


@pytest.mark.django_db(transaction=True)
def test_workers_that_take_at_the_same_moment_share_one_limit() -> None:
    owner = account(rate_limits="40/hour")

    def work() -> int:
        return sum(take_permits(owner, 3, clock=at()).count for _ in range(6))

    counts = in_threads(*[work] * 4)
    assert sum(counts) <= 40
    assert sum(counts) == sum(RateWindow.objects.get().counts), "every permit is in the row"


class OvertakenWrites:
    """Lets another worker be faster at the first so many writes of a rate window."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if sql.startswith("UPDATE") and RateWindow._meta.db_table in sql and self.times > 0:
            times, self.times = self.times - 1, 0
            RateWindow.objects.update(version=F("version") + 1)
            self.times = times
        return execute(sql, params, many, context)


@pytest.mark.usefixtures("memory_transport")
@pytest.mark.parametrize(
    "limits", ["1000/day", "1000 recipients/day", "14/second", "1000/minute, 1000 recipients/hour"]
)
def test_a_drain_whose_permits_were_taken_by_others_each_time_slows_down_and_goes_on(limits: str) -> None:
    owner = account(rate_limits=limits)
    backlog(owner, 12)
    overtaken = OvertakenWrites(TRIES + 5)
    with connection.execute_wrapper(overtaken):
        report = prx.drain()
    assert (report.sent, overtaken.times) == (12, 0)
    assert OutboxMessage.objects.filter(attempts=0, status="sent").count() == 12


@pytest.mark.usefixtures("memory_transport")
def test_a_lost_race_for_permits_is_no_limit_that_is_reached() -> None:
    """What could not be taken was counted as if it were: a limit of which nothing is spent was reached for a day."""
    owner = account(rate_limits="5/day")
    with connection.execute_wrapper(OvertakenWrites(TRIES)):
        permits = take_permits(owner, 5, clock=at(None))
    assert (permits.count, permits.obstacle) == (0, None)
