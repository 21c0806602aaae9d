"""finalize: what came of claimed messages, in groups; and results that come back after the claim was lost."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import F

from prx_email_django import policy
from prx_email_django.clock import Clock
from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.outcomes import Ending, Outcome, RecipientOutcome
from prx_email_django.policy import Verdict
from prx_email_django.states import AttemptOutcome, ErrorCode, RecipientResult, Status
from prx_email_django.store.base import atomic, retried, rules, worker_name
from prx_email_django.store.claims import Claim
from prx_email_django.store.sent_group import record_sent

#: What fits into the columns for server text.
TEXT = 160
_ATTEMPTS = {
    Ending.ACCEPTED: AttemptOutcome.SENT,
    Ending.TEMPORARY: AttemptOutcome.FAILED,
    Ending.PERMANENT: AttemptOutcome.FAILED,
    Ending.UNKNOWN: AttemptOutcome.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Finished:
    """One attempt that touched its message; ``answers`` are those to the real addresses (after redirection)."""

    claim: Claim
    outcome: Outcome
    answers: Mapping[str, RecipientOutcome]
    started_at: datetime
    finished_at: datetime

    @property
    def is_plain(self) -> bool:
        """Everything was accepted and no recipient has a history: recorded without a look back."""
        return (
            self.outcome.ending is Ending.ACCEPTED
            and all(one.answer == "accepted" for one in self.answers.values())
            and len(self.answers) == len(self.claim.addressed)
            and not any(
                one.result in (RecipientResult.UNKNOWN, RecipientResult.REFUSED) or one.code or one.text
                for one in self.claim.recipients
            )
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written, for signals, logs and counts."""

    message: OutboxMessage
    status: Status
    outcome: Outcome
    error_code: str
    error: str
    next_attempt_at: datetime | None
    attempt: int
    duration: float
    refused: dict[str, str] = field(default_factory=dict)
    #: It came back after the claim had been lost.
    late: bool = False
    progress: bool = False


def finalize(group: Sequence[Finished], *, clock: Clock) -> list[Recorded]:
    """Record a group; a result whose claim was lost is never thrown away."""
    by_token: dict[uuid.UUID, list[Finished]] = {}
    others: list[Finished] = []
    for one in group:
        if one.is_plain:
            by_token.setdefault(one.claim.lease.token, []).append(one)
        else:
            others.append(one)
    recorded: list[Recorded] = []
    for plain in by_token.values():
        ours = _record_sent(plain, clock=clock)
        recorded += [_sent(one) for one in plain if one.claim.id in ours]
        others += [one for one in plain if one.claim.id not in ours]
    recorded += [_record_one(one, clock=clock) for one in others]
    return recorded


@retried
def _record_sent(group: Sequence[Finished], *, clock: Clock) -> set[int]:
    attempts = [_attempt(one, AttemptOutcome.SENT) for one in group]
    responses = [one.outcome.response[:TEXT] for one in group]
    return record_sent(attempts, responses, token=group[0].claim.lease.token, now=clock.now)


def _sent(one: Finished) -> Recorded:
    message = one.claim.message
    header = message.message_id
    message.status, message.sent_at, message.next_attempt_at = Status.SENT, one.finished_at, None
    message.provider_message_id = header
    message.message_number = message.retries if message.message_number is None else message.message_number
    message.provider_response = one.outcome.response[:TEXT]
    message.claim_expires_at, message.last_error, message.last_error_code = None, "", ""
    return _recorded(one, Status.SENT)


def _recorded(one: Finished, status: Status, **fields: Any) -> Recorded:
    values: dict[str, Any] = {"error_code": "", "error": "", "next_attempt_at": None, **fields}
    return Recorded(
        message=one.claim.message,
        status=status,
        outcome=one.outcome,
        attempt=one.claim.number,
        duration=(one.finished_at - one.started_at).total_seconds(),
        **values,
    )


@retried
def _record_one(one: Finished, *, clock: Clock) -> Recorded:
    """One result with doubt in it: recipients are read again, since a late acceptance may have marked some."""
    row = OutboxMessage.objects.filter(pk=one.claim.id)
    ours = row.filter(status=Status.SENDING, claim_token=one.claim.lease.token)
    with atomic():
        # A write first: it takes the row's lock on every engine and tells whose the message is.
        if not ours.update(updated_at=clock.now):
            return _record_late(one, clock=clock)
        recipients = list(Recipient.objects.filter(message_id=one.claim.id).order_by("id"))
        results = merged(recipients, one.answers)
        verdict = policy.judge(one.outcome, one.claim.standing, results, now=clock.now, rules=rules())
        refused = _write_recipients(recipients, results, one.answers, status=verdict.status)
        if not ours.update(**columns(one.claim.message, verdict, outcome=one.outcome, now=clock.now)):
            raise AssertionError("the row was locked")  # pragma: no cover
        DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**_attempt(one, verdict.outcome))])
    one.claim.message.refresh_from_db()
    return _recorded(
        one,
        verdict.status,
        error_code=verdict.error_code,
        error=verdict.error[:TEXT],
        next_attempt_at=verdict.next_attempt_at,
        refused=refused,
        progress=verdict.progress,
    )


def merged(recipients: Sequence[Recipient], answers: Mapping[str, RecipientOutcome]) -> dict[str, RecipientResult]:
    """Address -> result after an attempt."""
    return {one.address: policy.merge_result(one.result, answers.get(one.address)) for one in recipients}


def columns(message: OutboxMessage, verdict: Verdict, *, outcome: Outcome | None, now: datetime) -> dict[str, Any]:
    """The columns that a verdict sets."""
    values: dict[str, Any] = {
        "status": verdict.status,
        "retries": verdict.retries,
        "attempts": verdict.attempts,
        "message_number": verdict.message_number,
        "next_attempt_at": verdict.next_attempt_at,
        "last_error_code": verdict.error_code,
        "last_error": verdict.error[:TEXT],
        "claim_expires_at": None,
        "updated_at": now,
    }
    if verdict.status == Status.SENT:
        values["sent_at"] = now
    if outcome is not None and outcome.ending is Ending.ACCEPTED:
        values["provider_response"] = outcome.response[:TEXT]
        if not message.provider_message_id:
            values["provider_message_id"] = message.message_id
    return values


def _write_recipients(
    recipients: Sequence[Recipient],
    results: Mapping[str, RecipientResult],
    answers: Mapping[str, RecipientOutcome],
    *,
    status: str,
) -> dict[str, str]:
    """Write the results that differ from what their message implies; return the newly refused with their text."""
    implied = RecipientResult.ACCEPTED if status == Status.SENT else RecipientResult.IMPLIED
    changed: list[Recipient] = []
    refused: dict[str, str] = {}
    for one in recipients:
        result, answer = results[one.address], answers.get(one.address)
        stored = RecipientResult.IMPLIED if result == implied and one.result == "" else result
        code, text = one.code, one.text
        says_nothing = stored == one.result == "" and status == Status.SENT and not (one.code or one.text)
        if answer is not None and (answer.code or answer.text) and not says_nothing:
            code, text = answer.code or None, answer.text[:TEXT]
        if (stored, code, text) == (one.result, one.code, one.text):
            continue
        if result == RecipientResult.REFUSED != one.result:
            refused[one.address] = f"{code or ''} {text}".strip()
        one.result, one.code, one.text = stored, code, text
        changed.append(one)
    if changed and all(one.result == RecipientResult.UNKNOWN for one in changed):
        ids = [one.pk for one in changed]
        Recipient.objects.filter(pk__in=ids).update(result=RecipientResult.UNKNOWN)
    elif changed:
        Recipient.objects.bulk_update(changed, ["result", "code", "text"], batch_size=200)
    return refused


def _attempt(one: Finished, outcome: AttemptOutcome) -> dict[str, Any]:
    """The columns of its ``DeliveryAttempt``; no instance, since most are written by hand."""
    said = one.outcome
    message = one.claim.message
    return {
        "message_id": message.pk,
        "number": one.claim.number,
        "header_message_id": message.message_id,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "outcome": outcome,
        "error_code": said.error_code,
        "error": (said.error or policy.first_refusal(said))[:TEXT],
        "phase": said.phase,
        "smtp_code": said.smtp_code or None,
        "enhanced_code": said.enhanced[:15],
        "peer": said.peer[:255],
        "worker": worker_name()[:255],
        "claim_token": one.claim.lease.token,
    }


@retried
def settle(claim: Claim, *, clock: Clock) -> list[Recorded]:
    """A claimed message whose recipients were all answered meanwhile (a late acceptance): nothing is left to send."""
    results = [one.result or RecipientResult.IMPLIED for one in claim.recipients]
    status = policy.settled_status(results)
    sent_at = {"sent_at": clock.now} if status is Status.SENT else {}
    ours = OutboxMessage.objects.filter(pk=claim.id, status=Status.SENDING, claim_token=claim.lease.token)
    if not ours.update(status=status, next_attempt_at=None, claim_expires_at=None, updated_at=clock.now, **sent_at):
        return []
    claim.message.refresh_from_db()
    ending = Ending.ACCEPTED if status is Status.SENT else Ending.PERMANENT
    now = clock.now
    return [_recorded(Finished(claim, Outcome(ending), {}, started_at=now, finished_at=now), status)]


def _record_late(one: Finished, *, clock: Clock) -> Recorded:
    """The claim was lost meanwhile: an acceptance still marks its recipients, whoever has the message now."""
    pk, token = one.claim.id, one.claim.lease.token
    OutboxMessage.objects.filter(pk=pk).update(updated_at=clock.now)
    message = OutboxMessage.objects.filter(pk=pk).first()
    said = one.outcome
    if message is None or said.ending is Ending.UNTOUCHED:
        return _recorded(one, Status.FAILED, late=True)
    known = AttemptOutcome.SENT if said.ending is Ending.ACCEPTED else AttemptOutcome.FAILED
    if said.ending is not Ending.UNKNOWN:
        DeliveryAttempt.objects.filter(message_id=pk, claim_token=token, outcome=AttemptOutcome.LOST).update(
            outcome=known,
            error_code=said.error_code,
            error=said.error[:TEXT],
            phase=said.phase,
            smtp_code=said.smtp_code or None,
            enhanced_code=said.enhanced[:15],
            peer=said.peer[:255],
            finished_at=one.finished_at,
        )
    if not DeliveryAttempt.objects.filter(message_id=pk, claim_token=token).exists():
        # Nobody recovered it: somebody wrote its status by hand.
        DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**_attempt(one, _ATTEMPTS[said.ending]))])
        if said.ending is Ending.UNKNOWN and message.status != Status.SENT:
            _mark_late_doubt(one, message)
    refused: dict[str, str] = {}
    if said.ending is Ending.ACCEPTED:
        refused = _mark_late_acceptance(one, message, clock=clock)
    one.claim.message = message
    return _recorded(one, Status(message.status), next_attempt_at=message.next_attempt_at, refused=refused, late=True)


def _mark_late_doubt(one: Finished, message: OutboxMessage) -> None:
    """A copy may exist: its Message-ID stays, and its recipients are in doubt."""
    doubtful = [address for address, said in one.answers.items() if said.answer == "unknown"]
    rows = Recipient.objects.filter(message_id=message.pk, address__in=doubtful, result=RecipientResult.IMPLIED)
    rows.update(result=RecipientResult.UNKNOWN)
    fixed = message.message_number
    OutboxMessage.objects.filter(pk=message.pk).update(
        attempts=F("attempts") + 1,
        message_number=policy.fixed_number(one.claim.standing) if fixed is None else fixed,
    )
    message.refresh_from_db()


def _mark_late_acceptance(one: Finished, message: OutboxMessage, *, clock: Clock) -> dict[str, str]:
    recipients = list(Recipient.objects.filter(message_id=message.pk).order_by("id"))
    if message.status == Status.SENT:
        # Its successor's answers stand, but for those to whom this one brought it.
        brought = {address: said for address, said in one.answers.items() if said.answer == "accepted"}
        return _write_recipients(recipients, merged(recipients, brought), brought, status=Status.SENT)
    results = merged(recipients, one.answers)
    row = OutboxMessage.objects.filter(pk=message.pk, status=message.status)
    settled = policy.is_settled(results.values()) and message.status != Status.SENDING
    refused = _write_recipients(recipients, results, one.answers, status=Status.SENT if settled else message.status)
    values: dict[str, Any] = {}
    if not message.provider_message_id:
        # Under which it was accepted, whatever the row has come to since: what follows stays in its thread.
        claimed = one.claim.message
        values = {"provider_message_id": claimed.message_id, "provider_response": one.outcome.response[:TEXT]}
    if message.message_number is None:
        values["message_number"] = policy.fixed_number(one.claim.standing)
    if settled:
        values |= {"status": Status.SENT, "sent_at": clock.now, "next_attempt_at": None}
        has_refused = RecipientResult.REFUSED in results.values()
        values |= {
            "last_error": policy.first_refusal(one.outcome)[:TEXT] if has_refused else "",
            "last_error_code": ErrorCode.RECIPIENTS_REFUSED if has_refused else "",
            "claim_expires_at": None,
        }
    if values:
        row.update(**values)
    message.refresh_from_db()
    return refused
