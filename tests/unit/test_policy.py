"""Counters, backoff, rest and the Message-ID: wrong here means a message lost, hammered, or copied under two names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules import policy
from prx_email_django.rules.outcomes import Answer, Ending, Outcome, RecipientOutcome
from prx_email_django.rules.policy import MessageCounters, Rules, Verdict
from prx_email_django.states import RecipientResult, Status

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
RULES = Rules(timedelta(seconds=5), timedelta(hours=6), None, 6)
FRESH = MessageCounters(id=7, retries=0, attempts=0, message_number=None, hold=False)
OPEN = {"a@x.org": RecipientResult.IMPLIED}
ACCEPTED = {"a@x.org": RecipientResult.ACCEPTED}
UNKNOWN = {"a@x.org": RecipientResult.UNKNOWN}
PARTIAL = {"a@x.org": RecipientResult.ACCEPTED, "b@x.org": RecipientResult.IMPLIED}


def judge(
    ending: Ending,
    counters: MessageCounters = FRESH,
    results: dict[str, RecipientResult] | None = None,
    rules: Rules = RULES,
    **fields: object,
) -> Verdict:
    if results is None:
        results = {Ending.ACCEPTED: ACCEPTED, Ending.UNKNOWN: UNKNOWN}.get(ending, OPEN)
    said = Outcome(ending, **{"error_code": "provider", "error": "no", **fields})  # type: ignore[arg-type]
    return policy.judge(said, counters, results, now=NOW, rules=rules)


def after(counters: MessageCounters, verdict: Verdict) -> MessageCounters:
    return replace(counters, retries=verdict.retries, attempts=verdict.attempts, message_number=verdict.message_number)


# The backoff


def test_the_published_backoff_table_is_kept_to_the_second() -> None:
    counters = FRESH
    seconds = []
    for _ in range(10):
        verdict = judge(Ending.TEMPORARY, counters)
        assert verdict.next_attempt_at is not None
        seconds.append((verdict.next_attempt_at - NOW).total_seconds())
        counters = after(counters, verdict)
    assert seconds == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120]
    assert (counters.retries, counters.attempts) == (10, 10)


def test_a_backoff_never_grows_past_its_cap_nor_overflows() -> None:
    assert policy.backoff(12, RULES) == timedelta(seconds=20_480)
    assert policy.backoff(13, RULES) == timedelta(hours=6)
    assert policy.backoff(10**9, RULES) == timedelta(hours=6)


@given(st.integers(1, 2**40), st.integers(1, 60))
def test_recovery_spreads_between_once_and_twice_the_backoff(message_id: int, attempts: int) -> None:
    base = policy.backoff(attempts, RULES)
    assert base <= policy.recovery_backoff(message_id, attempts, RULES) <= 2 * base


def test_messages_recovered_together_part_from_each_other() -> None:
    waits = {policy.recovery_backoff(message_id, 1, RULES) for message_id in range(100)}
    assert len(waits) == 100
    assert max(waits) - min(waits) > timedelta(seconds=8)
    assert policy.recovery_backoff(5, 1, RULES) == policy.recovery_backoff(5, 1, RULES), "it must be the same each time"
    assert policy.recovery_backoff(5, 1, RULES) / 10 != policy.recovery_backoff(5, 2, RULES) / 20


# Counters


@pytest.mark.parametrize(
    ("verdict", "retries", "attempts", "status", "waits"),
    [
        (judge(Ending.ACCEPTED), 0, 0, Status.SENT, False),
        (judge(Ending.TEMPORARY), 1, 1, Status.FAILED, True),
        (judge(Ending.PERMANENT), 1, 1, Status.FAILED, False),
        (judge(Ending.UNKNOWN), 0, 1, Status.FAILED, True),
        (policy.lost(FRESH, now=NOW, rules=RULES), 0, 1, Status.FAILED, True),
        (judge(Ending.ACCEPTED, results=PARTIAL), 1, 1, Status.FAILED, True),
    ],
    ids=["accepted", "temporary", "permanent", "unknown", "lost", "partial"],
)
def test_an_outcome_counts_as_what_it_is(
    verdict: Verdict, retries: int, attempts: int, status: Status, waits: bool
) -> None:
    assert (verdict.retries, verdict.attempts, verdict.status) == (retries, attempts, status)
    assert (verdict.next_attempt_at is not None) is waits


def test_attempts_drive_the_backoff_not_retries() -> None:
    verdict = judge(Ending.TEMPORARY, MessageCounters(7, retries=1, attempts=4, message_number=1, hold=False))
    assert verdict.next_attempt_at == NOW + timedelta(seconds=5 * 2**5)


def test_max_retries_counts_known_failures_alone() -> None:
    rules = replace(RULES, max_retries=3)
    at_two = MessageCounters(7, retries=2, attempts=5, message_number=2, hold=False)
    assert judge(Ending.UNKNOWN, at_two, rules=rules).next_attempt_at is not None
    assert judge(Ending.TEMPORARY, at_two, rules=rules).next_attempt_at is None
    assert judge(Ending.TEMPORARY, replace(at_two, retries=1), rules=rules).next_attempt_at is not None
    assert judge(Ending.ACCEPTED, at_two, PARTIAL, rules=rules).next_attempt_at is None


@pytest.mark.parametrize("how", ["unknown", "lost"])
def test_a_message_that_keeps_ending_in_doubt_comes_to_rest_at_the_limit(how: str) -> None:
    counters, rested_at = FRESH, 0
    for number in range(1, 8):
        verdict = judge(Ending.UNKNOWN, counters) if how == "unknown" else policy.lost(counters, now=NOW, rules=RULES)
        counters = after(counters, verdict)
        if verdict.next_attempt_at is None:
            rested_at = number
            break
    assert rested_at == 6


def test_known_failures_do_not_use_up_the_limit_of_unknown_outcomes() -> None:
    many = MessageCounters(7, retries=20, attempts=24, message_number=20, hold=False)
    assert judge(Ending.UNKNOWN, many).next_attempt_at is not None
    assert judge(Ending.UNKNOWN, replace(many, attempts=25)).next_attempt_at is None


def test_hold_rests_after_the_first_doubt_but_not_after_a_known_failure() -> None:
    hold = replace(FRESH, hold=True)
    assert judge(Ending.UNKNOWN, hold).next_attempt_at is None
    assert policy.lost(hold, now=NOW, rules=RULES).next_attempt_at is None
    assert judge(Ending.TEMPORARY, hold).next_attempt_at == NOW + timedelta(seconds=10)


# Recipients


def said(answer: Answer) -> RecipientOutcome:
    return RecipientOutcome(answer)


def test_too_many_recipients_is_progress_and_no_failure() -> None:
    verdict = judge(
        Ending.ACCEPTED,
        results=PARTIAL,
        recipients={"a@x.org": said(Answer.ACCEPTED), "b@x.org": said(Answer.TOO_MANY)},
    )
    assert (verdict.status, verdict.retries, verdict.attempts, verdict.error_code) == (Status.FAILED, 0, 0, "")
    assert (verdict.next_attempt_at, verdict.message_number, verdict.progress) == (NOW, 0, True)


def test_a_message_all_of_whose_recipients_are_refused_rests_as_failed() -> None:
    verdict = judge(Ending.TEMPORARY, results={"a@x.org": RecipientResult.REFUSED})
    assert (verdict.status, verdict.next_attempt_at) == (Status.FAILED, None)


def test_the_last_open_recipient_refused_leaves_the_message_sent_to_the_others() -> None:
    results = {"a@x.org": RecipientResult.ACCEPTED, "b@x.org": RecipientResult.REFUSED}
    verdict = judge(Ending.TEMPORARY, results=results)
    assert (verdict.status, verdict.next_attempt_at) == (Status.SENT, None)
    whole = judge(Ending.ACCEPTED, results=results)
    assert (whole.status, whole.retries) == (Status.SENT, 0)


# The Message-ID

Step = Callable[[MessageCounters], tuple[Verdict, bool]]


def _step(ending: Ending, results: dict[str, RecipientResult], answer: Answer = Answer.OPEN, *, copy: bool) -> Step:
    def step(counters: MessageCounters) -> tuple[Verdict, bool]:
        recipients = {address: said(answer) for address in results}
        return judge(ending, counters, results, recipients=recipients), copy

    return step


#: What an attempt can come to, and whether a copy of the message may then exist somewhere.
STEPS: dict[str, Step] = {
    "temporary": _step(Ending.TEMPORARY, OPEN, copy=False),
    "permanent, retried by a person": _step(Ending.PERMANENT, OPEN, copy=False),
    "unknown": _step(Ending.UNKNOWN, UNKNOWN, copy=True),
    "lost": lambda counters: (policy.lost(counters, now=NOW, rules=RULES), True),
    "partly accepted": _step(Ending.ACCEPTED, PARTIAL, Answer.DEFERRED, copy=True),
    "progress": _step(Ending.ACCEPTED, PARTIAL, Answer.TOO_MANY, copy=True),
    "partly refused": _step(Ending.ACCEPTED, {**PARTIAL, "c@x.org": RecipientResult.REFUSED}, copy=True),
    "accepted": _step(Ending.ACCEPTED, ACCEPTED, copy=True),
}
SEQUENCES = [names for length in range(1, 5) for names in itertools.product(STEPS, repeat=length)]


def test_every_possible_copy_of_a_message_bears_one_message_id() -> None:
    assert len(SEQUENCES) == 8 + 8**2 + 8**3 + 8**4
    for names in SEQUENCES:
        counters, copies, known, used = FRESH, set(), [], []
        for name in names:
            number = counters.message_id_number
            verdict, copy = STEPS[name](counters)
            used.append(number)
            (copies.add if copy else known.append)(number)
            assert verdict.retries >= counters.retries and verdict.attempts >= counters.attempts, names
            assert verdict.attempts - verdict.retries - (counters.attempts - counters.retries) in (0, 1), names
            counters = after(counters, verdict)
        assert len(copies) <= 1, f"{names}: possible copies under {copies}"
        if not copies:
            assert used == list(range(len(names))), f"{names}: a known failure must be followed by a new Message-ID"


def test_a_number_once_fixed_never_changes() -> None:
    for names in SEQUENCES:
        counters, fixed = FRESH, None
        for name in names:
            counters = after(counters, STEPS[name](counters)[0])
            assert fixed is None or counters.message_number == fixed, names
            fixed = counters.message_number


# Age


def test_a_message_is_given_up_only_after_its_time() -> None:
    days = timedelta(days=5)
    rest = {"due": None, "give_up_after": days, "max_backoff": timedelta(hours=1)}
    old = {"now": NOW, "expires_at": None, **rest}
    assert not policy.gave_up(due_since=NOW - days, **old)  # type: ignore[arg-type]
    assert policy.gave_up(due_since=NOW - days - timedelta(seconds=1), **old)  # type: ignore[arg-type]
    young = {"now": NOW, "due_since": NOW, **rest}
    assert policy.gave_up(expires_at=NOW - timedelta(seconds=1), **young)  # type: ignore[arg-type]
    assert not policy.gave_up(expires_at=NOW + timedelta(seconds=1), **young)  # type: ignore[arg-type]


def test_a_message_that_was_put_off_by_hand_is_due_since_then() -> None:
    days, hour = timedelta(days=5), timedelta(hours=1)
    given = {"due_since": NOW, "expires_at": None, "give_up_after": days, "max_backoff": hour}
    by_itself, postponed = NOW + days + 2 * hour, NOW + days + 3 * hour
    assert policy.gave_up(now=by_itself, due=by_itself, **given)  # type: ignore[arg-type]
    assert not policy.gave_up(now=postponed + days, due=postponed, **given)  # type: ignore[arg-type]
    assert policy.gave_up(now=postponed + days + hour, due=postponed, **given)  # type: ignore[arg-type]
