"""An account that pauses too late hammers a server; a pause that is read wrongly holds or sends everything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prx_email_django.rules import pauses
from prx_email_django.rules.outcomes import Trouble

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("reason", "until", "expected"),
    [
        ("", None, False),
        ("", NOW + SECOND, False),
        ("maintenance", None, True),
        ("maintenance", NOW + SECOND, True),
        ("maintenance", NOW, False),
        ("maintenance", NOW - SECOND, False),
    ],
)
def test_a_pause_ends_at_its_instant_or_only_when_a_person_resumes(
    reason: str, until: datetime | None, expected: bool
) -> None:
    assert pauses.is_in_force(reason, until, now=NOW) is expected


def test_pauses_grow_from_half_a_minute_to_an_hour() -> None:
    seconds = [pauses.pause_length(before).total_seconds() for before in range(9)]
    assert seconds == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert pauses.pause_length(10**6) == timedelta(hours=1)


def test_only_the_third_failed_connection_in_a_row_pauses() -> None:
    assert [pauses.pauses_account(Trouble.CONNECTION, n) for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert all(pauses.pauses_account(trouble, 0) for trouble in (Trouble.AUTH, Trouble.TLS, Trouble.QUOTA))
    assert not pauses.pauses_account(Trouble.NONE, 99)
