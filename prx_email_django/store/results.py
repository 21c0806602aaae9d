"""What one attempt has come to, as columns of its message, its recipients and its ``DeliveryAttempt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.rules import policy
from prx_email_django.rules.outcomes import Ending, Outcome, RecipientOutcome
from prx_email_django.rules.policy import Verdict
from prx_email_django.rules.text import MAX_COLUMN, MAX_ENHANCED_CODE, MAX_TEXT
from prx_email_django.states import AttemptOutcome, RecipientResult, Status
from prx_email_django.store.claims import Claim
from prx_email_django.store.db import worker_name


@dataclass(frozen=True, slots=True)
class FinishedAttempt:
    """One attempt that touched its message; ``answers`` are those to the real addresses (after redirection)."""

    claim: Claim
    outcome: Outcome
    answers: Mapping[str, RecipientOutcome]
    started_at: datetime
    finished_at: datetime

    @property
    def is_plain(self) -> bool:
        """Everything was accepted and nothing about it was in doubt: recorded without a look back."""
        return (
            self.outcome.ending is Ending.ACCEPTED
            and all(one.answer == "accepted" for one in self.answers.values())
            and len(self.answers) == len(self.claim.open_addresses)
            and not any(
                one.result in (RecipientResult.UNKNOWN, RecipientResult.REFUSED) for one in self.claim.recipients
            )
        )


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
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


def recorded(one: FinishedAttempt, status: Status, **fields: Any) -> RecordedAttempt:
    """What was written of an attempt."""
    values: dict[str, Any] = {"error_code": "", "error": "", "next_attempt_at": None, **fields}
    return RecordedAttempt(
        message=one.claim.message,
        status=status,
        outcome=one.outcome,
        attempt=one.claim.number,
        duration=(one.finished_at - one.started_at).total_seconds(),
        **values,
    )


def attempt_columns(one: FinishedAttempt, outcome: AttemptOutcome) -> dict[str, Any]:
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
        "error": (said.error or policy.first_refusal(said))[:MAX_TEXT],
        "phase": said.phase,
        "smtp_code": said.smtp_code or None,
        "enhanced_code": said.enhanced[:MAX_ENHANCED_CODE],
        "peer": said.peer[:MAX_COLUMN],
        "worker": worker_name()[:MAX_COLUMN],
        "claim_token": one.claim.lease.token,
    }


def columns(message: OutboxMessage, verdict: Verdict, *, outcome: Outcome | None, now: datetime) -> dict[str, Any]:
    """The columns that a verdict sets."""
    values: dict[str, Any] = {
        "status": verdict.status,
        "retries": verdict.retries,
        "attempts": verdict.attempts,
        "message_number": verdict.message_number,
        "next_attempt_at": verdict.next_attempt_at,
        "last_error_code": verdict.error_code,
        "last_error": verdict.error[:MAX_TEXT],
        "claim_expires_at": None,
        "updated_at": now,
    }
    if verdict.status == Status.SENT:
        values["sent_at"] = now
    if outcome is not None and outcome.ending is Ending.ACCEPTED:
        values["provider_response"] = outcome.response[:MAX_TEXT]
        if not message.provider_message_id:
            values["provider_message_id"] = message.message_id
    return values


def merged(recipients: Sequence[Recipient], answers: Mapping[str, RecipientOutcome]) -> dict[str, RecipientResult]:
    """Address -> result after an attempt."""
    return {one.address: policy.merge_result(one.result, answers.get(one.address)) for one in recipients}


def write_last_answers(group: Iterable[FinishedAttempt]) -> None:
    """Where an earlier attempt left a recipient's answer (a deferral), write the acceptance over it: all in one go."""
    changed: list[Recipient] = []
    for one in group:
        for recipient in one.claim.recipients:
            answer = one.answers.get(recipient.address)
            if (recipient.code or recipient.text) and answer is not None and (answer.code or answer.text):
                changed.append(Recipient(pk=recipient.pk, code=answer.code or None, text=answer.text[:MAX_TEXT]))
    if changed:
        Recipient.objects.bulk_update(changed, ["code", "text"], batch_size=200)


def write_recipients(
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
            code, text = answer.code or None, answer.text[:MAX_TEXT]
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
