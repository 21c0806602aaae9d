"""What an outcome means for its message: counters, backoff, rest.  Pure: time and limits are arguments.

``retries`` counts known failures, ``attempts`` known failures and the outcomes that nobody knows (unknown, lost); a
success adds to neither.  So ``attempts - retries`` is the number of outcomes behind each of which a copy may exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prx_email_django.rules.outcomes import Answer, Ending, Outcome
from prx_email_django.rules.recipients import is_settled, settled_status
from prx_email_django.rules.sent import message_id_number
from prx_email_django.states import AttemptOutcome, ErrorCode, Status


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a verdict depends on."""

    base_backoff: timedelta
    max_backoff: timedelta
    max_retries: int | None
    max_unknown_outcomes: int


@dataclass(frozen=True, slots=True)
class MessageCounters:
    """What a verdict needs of a message as it stands before the attempt is recorded."""

    id: int
    retries: int
    attempts: int
    message_number: int | None
    #: The message must not be sent twice: after an unknown outcome it rests.
    hold: bool

    @property
    def message_id_number(self) -> int:
        """The number in the Message-ID of the attempt that is recorded now, fixed once a copy of it may exist."""
        return message_id_number(self.message_number, self.retries)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt means for its message; the error of a sent message comes from its recipients (``sent``)."""

    status: Status
    retries: int
    attempts: int
    message_number: int | None
    next_attempt_at: datetime | None
    error_code: str
    error: str
    outcome: AttemptOutcome
    #: The next transaction goes on with the recipients that did not fit into this one.
    progress: bool = False


def backoff(attempts: int, rules: Rules) -> timedelta:
    """``base * 2^attempts``, capped: 10 s after the first failure with the default base of 5 s."""
    doubled: timedelta = rules.base_backoff * 2 ** min(attempts, 40)
    return min(doubled, rules.max_backoff)


def recovery_backoff(message_id: int, attempts: int, rules: Rules) -> timedelta:
    """``backoff`` times 1 to 2, by a hash of message and attempts.

    A message that kills its worker takes down the messages claimed with it; spread out, they are not claimed with it
    again.
    """
    digest = hashlib.sha256(f"{message_id}-{attempts}".encode()).digest()
    return backoff(attempts, rules) * (1 + int.from_bytes(digest[:4], "big") / 2**32)


def gave_up(  # noqa: PLR0913  (all by name)
    *,
    now: datetime,
    due_since: datetime,
    due: datetime | None,
    expires_at: datetime | None,
    give_up_after: timedelta,
    max_backoff: timedelta,
) -> bool:
    """Whether a claimed message is too old to be sent; ``due`` is its ``next_attempt_at``.

    A message whose ``next_attempt_at`` lies further ahead than any backoff can lead (a recovery's is up to twice the
    longest) was postponed by a person: its age counts from there.
    """
    if expires_at is not None and expires_at <= now:
        return True
    # Spans are compared: GIVE_UP_AFTER may be so long that no date lies behind it.
    is_postponed = due is not None and due - due_since - max_backoff - max_backoff > give_up_after
    return now - (due if due is not None and is_postponed else due_since) > give_up_after


def judge(
    outcome: Outcome, counters: MessageCounters, results: Mapping[str, str], *, now: datetime, rules: Rules
) -> Verdict:
    """The verdict on an attempt that touched its message; ``results`` are the recipients' after the attempt."""
    match outcome.ending:
        case Ending.UNKNOWN:
            verdict = _unknown(outcome, counters, now=now, rules=rules)
        case Ending.ACCEPTED:
            verdict = _accepted(outcome, counters, results.values(), now=now, rules=rules)
        case _:
            verdict = _failed(outcome, counters, now=now, rules=rules)
    return _settled(verdict, counters, results.values())


def lost(counters: MessageCounters, results: Collection[str] = (), *, now: datetime, rules: Rules) -> Verdict:
    """The verdict on a claim whose lease ran out: nobody knows how far its worker came.

    ``results`` are the recipients' by now: where a late acceptance settled the last one, nothing is in doubt.
    """
    attempts = counters.attempts + 1
    rests = _rests_unknown(counters, rules)
    verdict = Verdict(
        status=Status.FAILED,
        retries=counters.retries,
        attempts=attempts,
        message_number=counters.message_id_number,
        next_attempt_at=None if rests else now + recovery_backoff(counters.id, attempts, rules),
        error_code=ErrorCode.LOST_CLAIM,
        error="the worker that was sending this message was lost; it may have been delivered",
        outcome=AttemptOutcome.LOST,
    )
    return _settled(verdict, counters, results) if results else verdict


def _settled(verdict: Verdict, counters: MessageCounters, results: Collection[str]) -> Verdict:
    """The verdict where no recipient is left: sent if any was accepted, by whatever attempt, else at rest."""
    if not is_settled(results):
        return verdict
    if settled_status(results) is Status.FAILED:
        return replace(verdict, next_attempt_at=None)
    number = counters.message_id_number
    return replace(
        verdict,
        status=Status.SENT,
        message_number=number,
        next_attempt_at=None,
        error_code="",
        error="",
        progress=False,
    )


def _unknown(outcome: Outcome, counters: MessageCounters, *, now: datetime, rules: Rules) -> Verdict:
    attempts = counters.attempts + 1
    return Verdict(
        status=Status.FAILED,
        retries=counters.retries,
        attempts=attempts,
        message_number=counters.message_id_number,
        next_attempt_at=None if _rests_unknown(counters, rules) else now + backoff(attempts, rules),
        error_code=ErrorCode.UNKNOWN_OUTCOME,
        error=outcome.error,
        outcome=AttemptOutcome.UNKNOWN,
    )


def _accepted(
    outcome: Outcome, counters: MessageCounters, results: Collection[str], *, now: datetime, rules: Rules
) -> Verdict:
    accepted = Verdict(
        status=Status.SENT,
        retries=counters.retries,
        attempts=counters.attempts,
        message_number=counters.message_id_number,
        next_attempt_at=None,
        error_code="",
        error="",
        outcome=AttemptOutcome.SENT,
    )
    if is_settled(results):
        return accepted
    if any(said.answer is Answer.TOO_MANY for said in outcome.recipients.values()):
        return replace(accepted, status=Status.FAILED, next_attempt_at=now, progress=True)
    failure = _known_failure(outcome, counters, now=now, rules=rules)
    return replace(failure, message_number=counters.message_id_number)


def _failed(outcome: Outcome, counters: MessageCounters, *, now: datetime, rules: Rules) -> Verdict:
    failure = _known_failure(outcome, counters, now=now, rules=rules)
    return replace(failure, next_attempt_at=None) if outcome.ending is Ending.PERMANENT else failure


def _known_failure(outcome: Outcome, counters: MessageCounters, *, now: datetime, rules: Rules) -> Verdict:
    retries, attempts = counters.retries + 1, counters.attempts + 1
    exhausted = rules.max_retries is not None and retries >= rules.max_retries
    is_partial = outcome.ending is Ending.ACCEPTED
    return Verdict(
        status=Status.FAILED,
        retries=retries,
        attempts=attempts,
        message_number=counters.message_number,
        next_attempt_at=None if exhausted else now + backoff(attempts, rules),
        error_code=outcome.error_code or (ErrorCode.RECIPIENTS_REFUSED if is_partial else ""),
        error=outcome.error or (outcome.first_refusal if is_partial else ""),
        outcome=AttemptOutcome.FAILED,
    )


def _rests_unknown(counters: MessageCounters, rules: Rules) -> bool:
    """Whether the message rests after one more outcome that nobody knows."""
    return counters.hold or counters.attempts + 1 - counters.retries >= rules.max_unknown_outcomes
