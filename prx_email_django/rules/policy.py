"""What an outcome means for its message: counters, backoff, rest.  Pure: time and limits are arguments.

``retries`` counts known failures, ``attempts`` also the outcomes that nobody knows (unknown, lost); a success adds to
neither.  So ``attempts - retries`` is the number of copies that may exist beside a known one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, RecipientOutcome
from prx_email_django.states import AttemptOutcome, ErrorCode, RecipientResult, Status


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a verdict depends on."""

    base_backoff: timedelta
    max_backoff: timedelta
    max_retries: int | None
    max_unknown_outcomes: int


@dataclass(frozen=True, slots=True)
class MessageCounters:
    """A message as its claim found it."""

    id: int
    retries: int
    attempts: int
    message_number: int | None
    #: At most once: an unknown outcome rests.
    hold: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What finalize writes."""

    status: Status
    retries: int
    attempts: int
    message_number: int | None
    next_attempt_at: datetime | None
    error_code: str
    error: str
    outcome: AttemptOutcome
    #: The next transaction goes on with recipients that did not fit into this one.
    progress: bool = False


def backoff(attempts: int, rules: Rules) -> timedelta:
    """``base * 2^attempts``, capped: 10 s after the first failure with the default base of 5 s."""
    doubled: timedelta = rules.base_backoff * 2 ** min(attempts, 40)
    return min(doubled, rules.max_backoff)


def recovery_backoff(message_id: int, attempts: int, rules: Rules) -> timedelta:
    """Backoff times 1 to 2 by a hash, so that messages claimed together with one that kills its worker part from it."""
    digest = hashlib.sha256(f"{message_id}-{attempts}".encode()).digest()
    return backoff(attempts, rules) * (1 + int.from_bytes(digest[:4], "big") / 2**32)


def merge_result(before: str, answer: RecipientOutcome | None) -> RecipientResult:
    """A recipient's result after an attempt; an accepted one stays so, and a deferred unknown one stays unknown."""
    stands = RecipientResult(before)
    if answer is None or stands is RecipientResult.ACCEPTED:
        return stands
    changed = {
        Answer.ACCEPTED: RecipientResult.ACCEPTED,
        Answer.REFUSED: RecipientResult.REFUSED,
        Answer.UNKNOWN: RecipientResult.UNKNOWN,
    }
    return changed.get(answer.answer, stands)


def is_settled(results: Iterable[str]) -> bool:
    """Whether no recipient is open or unknown."""
    return all(one in (RecipientResult.ACCEPTED, RecipientResult.REFUSED) for one in results)


def settled_status(results: Iterable[str]) -> Status:
    """``sent`` if any recipient was accepted, else ``failed`` (only for settled recipients)."""
    return Status.SENT if RecipientResult.ACCEPTED in results else Status.FAILED


def gave_up(  # noqa: PLR0913  (each by its name)
    *,
    now: datetime,
    due_since: datetime,
    due: datetime | None,
    expires_at: datetime | None,
    give_up_after: timedelta,
    max_backoff: timedelta,
) -> bool:
    """Whether a claimed message is too old to be sent; ``due`` is its ``next_attempt_at``.

    No backoff (recovery's is up to twice the longest) leads further than it could before it was given up: one that is
    due later was put off by hand, and has been due since then.
    """
    if expires_at is not None and expires_at <= now:
        return True
    by_hand = due is not None and due > due_since + give_up_after + 2 * max_backoff
    return now - (due if due is not None and by_hand else due_since) > give_up_after


def judge(
    outcome: Outcome, counters: MessageCounters, results: Mapping[str, RecipientResult], *, now: datetime, rules: Rules
) -> Verdict:
    """The verdict on an attempt that touched its message; ``results`` are the recipients' after the attempt."""
    if outcome.ending is Ending.UNKNOWN:
        return _unknown(outcome, counters, results, now=now, rules=rules)
    if outcome.ending is Ending.ACCEPTED:
        return _accepted(outcome, counters, results, now=now, rules=rules)
    return _failed(outcome, counters, results, now=now, rules=rules)


def lost(counters: MessageCounters, results: Sequence[str] = (), *, now: datetime, rules: Rules) -> Verdict:
    """The verdict on a claim whose lease ran out: nobody knows how far its worker came.

    Where a late acceptance has answered every recipient meanwhile, nothing is in doubt.
    """
    attempts = counters.attempts + 1
    settled = bool(results) and is_settled(results)
    at_rest = settled or _rests_unknown(counters, attempts, rules)
    return Verdict(
        status=settled_status(results) if settled else Status.FAILED,
        retries=counters.retries,
        attempts=attempts,
        message_number=fixed_number(counters),
        next_attempt_at=None if at_rest else now + recovery_backoff(counters.id, attempts, rules),
        error_code=ErrorCode.LOST_CLAIM,
        error="the worker that was sending this message was lost; it may have been delivered",
        outcome=AttemptOutcome.LOST,
    )


def _unknown(
    outcome: Outcome, counters: MessageCounters, results: Mapping[str, RecipientResult], *, now: datetime, rules: Rules
) -> Verdict:
    attempts = counters.attempts + 1
    settled = is_settled(results.values())
    at_rest = settled or _rests_unknown(counters, attempts, rules)
    return Verdict(
        status=settled_status(results.values()) if settled else Status.FAILED,
        retries=counters.retries,
        attempts=attempts,
        message_number=fixed_number(counters),
        next_attempt_at=None if at_rest else now + backoff(attempts, rules),
        error_code="" if settled else ErrorCode.UNKNOWN_OUTCOME,
        error="" if settled else outcome.error,
        outcome=AttemptOutcome.UNKNOWN,
    )


def _accepted(
    outcome: Outcome, counters: MessageCounters, results: Mapping[str, RecipientResult], *, now: datetime, rules: Rules
) -> Verdict:
    number = fixed_number(counters)
    if is_settled(results.values()):
        refused = RecipientResult.REFUSED in results.values()
        return Verdict(
            status=Status.SENT,
            retries=counters.retries,
            attempts=counters.attempts,
            message_number=number,
            next_attempt_at=None,
            error_code=ErrorCode.RECIPIENTS_REFUSED if refused else "",
            error=first_refusal(outcome) if refused else "",
            outcome=AttemptOutcome.SENT,
        )
    if any(one.answer is Answer.TOO_MANY for one in outcome.recipients.values()):
        return Verdict(
            status=Status.FAILED,
            retries=counters.retries,
            attempts=counters.attempts,
            message_number=number,
            next_attempt_at=now,
            error_code="",
            error="",
            outcome=AttemptOutcome.SENT,
            progress=True,
        )
    return _known_failure(
        counters,
        number,
        now=now,
        rules=rules,
        error_code=outcome.error_code or ErrorCode.RECIPIENTS_REFUSED,
        error=outcome.error or first_refusal(outcome),
    )


def _failed(
    outcome: Outcome, counters: MessageCounters, results: Mapping[str, RecipientResult], *, now: datetime, rules: Rules
) -> Verdict:
    settled = is_settled(results.values())
    verdict = _known_failure(
        counters,
        counters.message_number,
        now=now,
        rules=rules,
        error_code=outcome.error_code,
        error=outcome.error,
        at_rest=settled or outcome.ending is Ending.PERMANENT,
    )
    if settled and settled_status(results.values()) is Status.SENT:
        return Verdict(
            status=Status.SENT,
            retries=verdict.retries,
            attempts=verdict.attempts,
            message_number=verdict.message_number,
            next_attempt_at=None,
            error_code=verdict.error_code,
            error=verdict.error,
            outcome=AttemptOutcome.FAILED,
        )
    return verdict


def _known_failure(  # noqa: PLR0913  (the parts of one value)
    counters: MessageCounters,
    number: int | None,
    *,
    now: datetime,
    rules: Rules,
    error_code: str,
    error: str,
    at_rest: bool = False,
) -> Verdict:
    retries, attempts = counters.retries + 1, counters.attempts + 1
    exhausted = rules.max_retries is not None and retries >= rules.max_retries
    return Verdict(
        status=Status.FAILED,
        retries=retries,
        attempts=attempts,
        message_number=number,
        next_attempt_at=None if at_rest or exhausted else now + backoff(attempts, rules),
        error_code=error_code,
        error=error,
        outcome=AttemptOutcome.FAILED,
    )


def fixed_number(counters: MessageCounters) -> int:
    """The number in the Message-ID of a copy that may exist: from the first one on it stays."""
    return counters.retries if counters.message_number is None else counters.message_number


def _rests_unknown(counters: MessageCounters, attempts: int, rules: Rules) -> bool:
    return counters.hold or attempts - counters.retries >= rules.max_unknown_outcomes


def first_refusal(outcome: Outcome) -> str:
    """The first recipient's refusal or deferral in words; empty where there is none."""
    for one in outcome.recipients.values():
        if one.answer in (Answer.REFUSED, Answer.DEFERRED):
            return f"{one.code} {one.text}".strip()
    return ""
