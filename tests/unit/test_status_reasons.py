"""The sentences that say why something waits: each names the cause and when sending continues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone, translation
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.admin.columns import message_state
from prx_email_django.models import OutboxMessage
from prx_email_django.rules.rates import BUCKETS, RateLimit, reached, rolled
from prx_email_django.states import ErrorCode, Status
from prx_email_django.status.reasons import (
    AccountFacts,
    Pause,
    ReachedLimit,
    account_sentence,
    message_sentence,
    pause_in_force,
)

NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=5)
HOUR_AGO = NOW - timedelta(hours=1)
MAIN = AccountFacts(name="main", max_connections=3)


def row(
    status: Status, due: datetime | None = None, *, error_code: str = "", error: str = "", **fields: Any
) -> OutboxMessage:
    """A message that is not in the database."""
    return OutboxMessage(
        **{"due_since": NOW, **fields}, status=status, next_attempt_at=due, last_error_code=error_code, last_error=error
    )


DUE = row(Status.PENDING, NOW)


@pytest.fixture(autouse=True)
def plain_english() -> Iterator[None]:
    with timezone.override(UTC), translation.override("en"):
        yield


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (MAIN, "may send"),
        (replace(MAIN, connection_failures=1), "may send; the last connection failed"),
        (replace(MAIN, connection_failures=2), "may send; the last 2 connections failed"),
        (
            replace(MAIN, is_active=False, awaits_sign_in=True),
            "the account is inactive, until a person signs in or activates it",
        ),
        (replace(MAIN, is_active=False), "the account is inactive, until a person activates it"),
        (
            replace(MAIN, pause=Pause("authentication refused (535 5.7.8)", SOON, by_person=False)),
            "paused until 14:05 UTC: authentication refused (535 5.7.8)",
        ),
        (
            replace(MAIN, pause=Pause("moving", SOON + timedelta(days=1))),
            "paused by a person until 2026-11-25 14:05 UTC: moving",
        ),
        (replace(MAIN, pause=Pause("moving")), "paused until a person resumes it: moving"),
        (replace(MAIN, outbox=Pause("holidays", SOON)), "everything is paused by a person until 14:05 UTC: holidays"),
        (
            replace(
                MAIN, reached=(ReachedLimit("30/minute", NOW + timedelta(seconds=3)), ReachedLimit("90/hour", SOON))
            ),
            "limit 90/hour reached, sending continues at 14:05 UTC",
        ),
        (
            replace(MAIN, reached=(ReachedLimit("30/minute", NOW + timedelta(seconds=3)),)),
            "limit 30/minute reached, sending continues at 14:00:03 UTC",
        ),
        (replace(MAIN, connections=3), "all 3 connections are in use"),
        (replace(MAIN, connections=1, probing=True), "one message is being tried first, after a pause"),
        (replace(MAIN, probing=True), "may send"),
        (replace(MAIN, connections=1, max_connections=1), "its 1 connection is in use"),
    ],
)
def test_an_account_that_sends_nothing_says_why(facts: AccountFacts, sentence: str) -> None:
    assert account_sentence(facts, now=NOW) == sentence


def test_a_short_obstacle_does_not_hide_a_lasting_one() -> None:
    facts = replace(MAIN, connections=3, reached=(ReachedLimit("1/day", SOON),), pause=Pause("x"), outbox=Pause("y"))
    assert account_sentence(replace(facts, is_active=False), now=NOW).startswith("the account is inactive")
    assert "y" in account_sentence(facts, now=NOW)
    assert "x" in account_sentence(replace(facts, outbox=None), now=NOW)
    assert "1/day" in account_sentence(replace(facts, outbox=None, pause=None), now=NOW)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (DUE, "due, waiting for a worker"),
        (row(Status.PENDING, SOON), "to be sent at 14:05 UTC"),
        (
            row(Status.FAILED, SOON, error_code=ErrorCode.PROVIDER, error="451 4.3.0 busy", retries=1, attempts=1),
            "next attempt at 14:05 UTC: refused by the server (451 4.3.0 busy)",
        ),
        (
            row(Status.FAILED, error_code=ErrorCode.PROVIDER, error="550 no", retries=1, attempts=1),
            "at rest: refused by the server (550 no), until a person retries it",
        ),
        (row(Status.FAILED, error_code=ErrorCode.CANCELLED), "at rest: cancelled, until a person retries it"),
        (row(Status.FAILED), "at rest, until a person retries it"),
        (row(Status.PENDING), "no attempt is planned, until a person retries it"),
        (
            row(Status.FAILED, error_code=ErrorCode.LOST_CLAIM, attempts=1),
            "at rest: worker lost, until a person retries it; it may have been delivered",
        ),
        (
            row(Status.FAILED, SOON, error_code=ErrorCode.UNKNOWN_OUTCOME, attempts=1),
            "next attempt at 14:05 UTC: outcome unknown; it may have been delivered",
        ),
        (
            row(Status.FAILED, error_code="new_code", error="?"),
            "at rest: new_code (?), until a person retries it",
        ),
        (row(Status.SENDING, claim_expires_at=SOON), "being sent"),
        (
            row(Status.SENDING, claim_expires_at=NOW),
            "the worker was lost while it was sending: the next drain will try again or put the message at rest",
        ),
        (row(Status.SENT, sent_at=NOW - timedelta(hours=1)), "accepted by the server at 13:00 UTC"),
        (
            row(Status.SENT, sent_at=NOW - timedelta(hours=1), attempts=1, provider_response="250 ok"),
            "accepted by the server at 13:00 UTC",
        ),
        (
            row(Status.SENT, sent_at=HOUR_AGO, attempts=1, confirmed_at=HOUR_AGO),
            "confirmed by a person at 13:00 UTC",
        ),
        (row(Status.SENT, sent_at=HOUR_AGO, attempts=1), "accepted by the server at 13:00 UTC"),
        # Somebody wrote the status by hand after a confirmation, and the message was sent again.
        (row(Status.SENT, sent_at=NOW, attempts=1, confirmed_at=HOUR_AGO), "accepted by the server at 14:00:00 UTC"),
        (
            row(
                Status.SENT,
                sent_at=NOW,
                attempts=1,
                confirmed_at=NOW,
                error_code=ErrorCode.RECIPIENTS_REFUSED,
                error="550 5.1.1 nobody lives here",
            ),
            "confirmed by a person at 14:00:00 UTC, but not for every recipient: 550 5.1.1 nobody lives here",
        ),
        (
            row(Status.SENT, sent_at=NOW, error_code=ErrorCode.RECIPIENTS_REFUSED, error="550 5.1.1 nobody lives here"),
            "accepted by the server at 14:00:00 UTC, but not for every recipient: 550 5.1.1 nobody lives here",
        ),
        (row(Status.PENDING, NOW, expires_at=NOW), "expired: the next drain will put it at rest"),
        (row(Status.PENDING, NOW, due_since=NOW - timedelta(days=6)), "expired: the next drain will put it at rest"),
    ],
)
def test_a_message_says_what_its_state_is(message: OutboxMessage, sentence: str) -> None:
    assert message_sentence(message, MAIN, now=NOW) == sentence


def test_a_due_message_waits_for_what_its_account_waits_for() -> None:
    paused = replace(MAIN, pause=Pause("authentication refused (535 5.7.8)", SOON, by_person=False))
    assert message_sentence(DUE, paused, now=NOW) == (
        "its account is paused until 14:05 UTC: authentication refused (535 5.7.8)"
    )
    switched_off = replace(paused, is_active=False)
    assert message_sentence(DUE, switched_off, now=NOW) == "the account is inactive, until a person activates it"
    later = row(Status.PENDING, NOW + timedelta(hours=1))
    assert message_sentence(later, paused, now=NOW) == "to be sent at 15:00 UTC"


def test_times_are_shown_in_the_zone_of_the_reader() -> None:
    with timezone.override("Asia/Tokyo"):
        assert (
            account_sentence(replace(MAIN, pause=Pause("x", SOON)), now=NOW) == "paused by a person until 23:05 JST: x"
        )


@pytest.mark.parametrize(
    ("reason", "until", "is_paused"),
    [("", None, False), ("x", None, True), ("x", NOW, False), ("x", SOON, True), ("", SOON, False)],
)
def test_a_pause_that_has_ended_is_not_shown(reason: str, until: datetime | None, is_paused: bool) -> None:
    assert (pause_in_force(reason, until, by_person=True, now=NOW) is not None) is is_paused


@given(
    count=st.integers(1, 60),
    spent=st.lists(st.integers(0, 30), max_size=BUCKETS),
    age=st.integers(-3, 2 * BUCKETS),
    seconds=st.integers(0, 59),
)
def test_the_time_shown_is_when_a_permit_is_free(count: int, spent: list[int], age: int, seconds: int) -> None:
    """Compared with the code that takes permits."""
    limit = RateLimit(count, 60)
    now = NOW + timedelta(seconds=seconds)
    bucket = int(now.timestamp() // limit.bucket_seconds) - age

    def free(moment: datetime) -> bool:
        current = int(moment.timestamp() // limit.bucket_seconds)
        counts = rolled(bucket, spent, current, farthest=limit.farthest)[1]
        return sum(counts) < count

    result = reached(limit, bucket=bucket, counts=spent, now=now)
    if result is None:
        assert free(now)
        return
    assert result.limit == f"{count}/minute"
    assert result.free_at > now
    assert free(result.free_at)
    assert not free(result.free_at - timedelta(seconds=limit.bucket_seconds))


@pytest.mark.parametrize(("lease", "is_lost"), [(NOW, True), (SOON, False)])
def test_label_and_sentence_of_a_claim_agree_at_the_instant_at_which_it_ends(lease: datetime, is_lost: bool) -> None:
    """Tried: the sentence said that the worker was lost, and the label beside it that the message is being sent."""
    message = row(Status.SENDING, NOW, claim_expires_at=lease)
    assert (message_state(message, now=NOW)[0] == "lost") is is_lost
    assert ("lost" in message_sentence(message, MAIN, now=NOW)) is is_lost
