"""An account whose connection claimed nothing waits longer each time, for the same message only."""

from __future__ import annotations

import pytest

from prx_email_django.worker import claim_source
from prx_email_django.worker.claim_source import LONGEST_REST, EmptyHanded


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(claim_source, "monotonic", lambda: now[0])
    return now


def rest(empty: EmptyHanded, clock: list[float], first: int) -> float:
    """Lose the race for a message; return for how long the account waits then."""
    empty.expect(1, first)
    empty.note(1, claimed=False)
    begun = clock[0]
    while empty.waits(1):
        clock[0] += 0.25
    return clock[0] - begun


def test_the_wait_for_one_message_doubles_up_to_a_bound(clock: list[float]) -> None:
    empty = EmptyHanded()
    assert [rest(empty, clock, 7) for _ in range(7)] == [1, 2, 4, 8, 16, LONGEST_REST, LONGEST_REST]


def test_another_message_is_not_waited_for_and_begins_anew(clock: list[float]) -> None:
    empty = EmptyHanded()
    assert [rest(empty, clock, 7) for _ in range(3)] == [1, 2, 4]
    empty.expect(1, 7)
    empty.note(1, claimed=False)
    assert empty.waits(1) and empty.waits(1), "asking changes nothing"
    empty.expect(1, 8)
    assert not empty.waits(1), "another message comes first"
    assert rest(empty, clock, 8) == 1
    empty.note(1, claimed=True)
    assert rest(empty, clock, 8) == 1
