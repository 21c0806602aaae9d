"""A rate limit that is misread, or a window that loses counts, makes a provider lock the account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.rates import BUCKETS, RateLimit, parse_rate_limits, recipients_ceiling, rolled


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", ()),
        ("30/minute", (RateLimit(30, 60),)),
        ("30 / Minute", (RateLimit(30, 60),)),
        ("1 message/hour", (RateLimit(1, 3600),)),
        ("30/minute, 10000 recipients/day", (RateLimit(30, 60), RateLimit(10_000, 86_400, "recipients"))),
        ("5/minute,60/hour,", (RateLimit(5, 60), RateLimit(60, 3600))),
    ],
)
def test_what_a_person_writes_is_what_is_kept(text: str, limits: tuple[RateLimit, ...]) -> None:
    assert parse_rate_limits(text) == limits


@pytest.mark.parametrize(
    "text", ["0/minute", "30", "30/week", "-1/hour", "30/minute 5/hour", "1/hour, 2/hour", "x/day", "30 mails/day"]
)
def test_a_limit_that_cannot_be_read_is_refused_and_never_ignored(text: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        parse_rate_limits(text)


@given(st.integers(1, 10**6), st.sampled_from([60, 3600, 86_400]), st.sampled_from(["messages", "recipients"]))
def test_a_limit_is_written_as_it_is_read(count: int, period: int, what: str) -> None:
    limit = RateLimit(count, period, what)
    assert parse_rate_limits(str(limit)) == (limit,)


def test_the_smallest_recipient_limit_bounds_one_message() -> None:
    assert recipients_ceiling("30/minute") is None
    assert recipients_ceiling("500 recipients/day, 100 recipients/hour, 5/minute") == 100


FARTHEST = RateLimit(1, 1).farthest
TAKEN = st.tuples(st.integers(0, 60), st.integers(0, FARTHEST - BUCKETS), st.integers(0, 30), st.floats(0, 1))


@given(st.lists(TAKEN, max_size=60), st.integers(1, 50))
def test_no_span_of_a_period_ever_sees_more_than_the_limit(
    steps: list[tuple[int, int, int, float]], limit: int
) -> None:
    """Workers whose permits are good for different times: each permit may be used in any bucket of its life."""
    spent: dict[int, int] = {}
    newest, counts, bucket = 0, [0] * BUCKETS, 1000
    for moved, ahead, wanted, used in steps:
        bucket += moved
        newest, counts = rolled(newest, counts, bucket, ahead=ahead, farthest=FARTHEST)
        granted = max(0, min(wanted, limit - sum(counts)))
        counts[newest - bucket - ahead] += granted
        sent_in = bucket + round(used * ahead)
        spent[sent_in] = spent.get(sent_in, 0) + granted
    for first in spent:
        # A period touches at most twenty-one buckets of a twentieth.
        assert sum(spent.get(first + n, 0) for n in range(BUCKETS)) <= limit


@given(st.integers(1, BUCKETS - 1), st.integers(1, 30))
def test_a_worker_whose_clock_is_behind_sees_what_others_have_spent(behind: int, spent: int) -> None:
    newest, counts = rolled(1000, [spent] + [0] * (BUCKETS - 1), 1000 - behind)
    assert (newest, sum(counts)) == (1000, spent)


def test_a_full_burst_is_allowed_again_after_a_period() -> None:
    newest, counts = rolled(1000, [30] + [0] * (BUCKETS - 1), 1000 + BUCKETS - 1)
    assert sum(counts) == 30, "the last twentieth still counts"
    assert sum(rolled(newest, counts, newest + 1)[1]) == 0
