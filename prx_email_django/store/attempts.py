"""What one attempt came to, as columns of its message, of its recipients and of its ``DeliveryAttempt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.rules.outcomes import Answer, Ending, Outcome, RecipientOutcome
from prx_email_django.rules.policy import Verdict
from prx_email_django.rules.recipients import effective_result, merge_result
from prx_email_django.rules.sent import AnsweredRecipient, message_id_number, sent_columns
from prx_email_django.rules.text import MAX_COLUMN, MAX_ENHANCED_CODE, MAX_TEXT
from prx_email_django.states import AttemptOutcome, RecipientResult, Status
from prx_email_django.store.claimed import Claim
from prx_email_django.store.db import in_parts, worker_name

# Members of enums: Python 3.11 takes as long to look one up as to call four functions.
_TAKEN, _BY_ALL = Ending.ACCEPTED, Answer.ACCEPTED
_DOUBTFUL = {RecipientResult.UNKNOWN, RecipientResult.REFUSED}
#: Rows of one ``bulk_update``.
BATCH = 200


@dataclass(slots=True)  # not frozen: that made it three times as dear, and each message has one
class FinishedAttempt:
    """One attempt that touched its message; ``answers`` are the answers to the real addresses (after redirection)."""

    claim: Claim
    outcome: Outcome
    answers: Mapping[str, RecipientOutcome]
    started_at: datetime
    finished_at: datetime

    @property
    def is_plain(self) -> bool:
        """Whether all was accepted, nothing is in doubt or sensitive: recorded in a group, without reading."""
        claim, answers = self.claim, self.answers
        if self.outcome.ending is not _TAKEN or len(answers) != len(claim.open_addresses):
            return False
        for said in answers.values():
            if said.answer is not _BY_ALL:
                return False
        if not answers or claim.message.is_sensitive:
            return False
        return claim.is_unanswered or _DOUBTFUL.isdisjoint([recipient.result for recipient in claim.recipients])


@dataclass(slots=True)  # not frozen: that made it three times as dear, and each message has one
class RecordedAttempt:
    """What was written of one attempt, for signals, logs and counts."""

    message: OutboxMessage
    status: Status
    outcome: Outcome
    error_code: str
    error: str
    next_attempt_at: datetime | None
    attempt: int
    duration: float
    refused: dict[str, str] = field(default_factory=dict)
    #: The result came back after the claim had been lost.
    late: bool = False
    progress: bool = False
    #: The message has this status by this result; a late one may find the message as it leaves it.
    is_news: bool = True

    @property
    def comes_to_rest(self) -> bool:
        """Whether this result put the message at rest."""
        return self.status is Status.FAILED and self.next_attempt_at is None and not self.late


def recorded(
    finished: FinishedAttempt,
    status: Status,
    *,
    error_code: str = "",
    error: str = "",
    next_attempt_at: datetime | None = None,
    **more: Any,
) -> RecordedAttempt:
    """What was written of an attempt."""
    return RecordedAttempt(
        finished.claim.message,
        status,
        finished.outcome,
        error_code,
        error,
        next_attempt_at,
        finished.claim.number,
        (finished.finished_at - finished.started_at).total_seconds(),
        **more,
    )


def attempt_columns(finished: FinishedAttempt, outcome: AttemptOutcome) -> dict[str, Any]:
    """The columns of the attempt's ``DeliveryAttempt``; no instance, since most of them are written by SQL."""
    message = finished.claim.message
    return {
        "message_id": message.id,
        "number": finished.claim.number,
        "header_message_id": finished.claim.header_message_id,
        "started_at": finished.started_at,
        "finished_at": finished.finished_at,
        "worker": worker_name()[:MAX_COLUMN],
        "claim_token": finished.claim.lease.token,
        **outcome_columns(finished.outcome, outcome),
    }


def outcome_columns(said: Outcome, outcome: AttemptOutcome) -> dict[str, Any]:
    """The columns of a ``DeliveryAttempt`` that say how the attempt ended."""
    return {
        "outcome": outcome,
        "error_code": said.error_code,
        "error": (said.error or said.first_refusal)[:MAX_TEXT],
        "phase": said.phase,
        "smtp_code": said.smtp_code or None,
        "enhanced_code": said.enhanced[:MAX_ENHANCED_CODE],
        "peer": said.peer[:MAX_COLUMN],
    }


def becomes_sent(
    message: OutboxMessage, recipients: Iterable[AnsweredRecipient], *, now: datetime, message_id: str = ""
) -> dict[str, Any]:
    """``sent_columns`` of a row that was read under its lock; ``message_id``: its Message-ID, where that is known."""
    number = message_id_number(message.message_number, message.retries)
    return sent_columns(recipients, number=number, message_id=message_id or message.message_id, now=now)


def verdict_columns(
    verdict: Verdict, recipients: Iterable[AnsweredRecipient], *, message_id: str, now: datetime
) -> dict[str, Any]:
    """The columns that a verdict sets; ``message_id`` is the Message-ID of the first accepted copy, if there is one."""
    counters = {"retries": verdict.retries, "attempts": verdict.attempts}
    if verdict.status is Status.SENT:
        number = message_id_number(verdict.message_number, verdict.retries)
        return counters | sent_columns(recipients, number=number, message_id=message_id, now=now)
    return counters | {
        "status": verdict.status,
        "message_number": verdict.message_number,
        "next_attempt_at": verdict.next_attempt_at,
        "last_error_code": verdict.error_code,
        "last_error": verdict.error[:MAX_TEXT],
        "claim_expires_at": None,
        "updated_at": now,
    }


def update_instance(message: OutboxMessage, values: Mapping[str, Any]) -> None:
    """Give the instance the columns that its row has now."""
    vars(message).update(values)  # no relation among them


def merged(recipients: Sequence[Recipient], answers: Mapping[str, RecipientOutcome]) -> dict[str, RecipientResult]:
    """Address -> result after an attempt."""
    return {
        recipient.address: merge_result(recipient.result, answers.get(recipient.address)) for recipient in recipients
    }


def write_last_answers(group: Iterable[FinishedAttempt]) -> None:
    """Where an earlier attempt left a recipient's answer (a deferral), write the acceptance over it, all at once."""
    changed: list[Recipient] = []
    for finished in group:
        for recipient in finished.claim.recipients:
            said = finished.answers.get(recipient.address)
            if (recipient.code or recipient.text) and said is not None and (said.code or said.text):
                changed.append(Recipient(pk=recipient.pk, code=said.code or None, text=said.text[:MAX_TEXT]))
    if changed:
        Recipient.objects.bulk_update(changed, ["code", "text"], batch_size=BATCH)


def write_recipients(
    recipients: Sequence[Recipient],
    results: Mapping[str, RecipientResult],
    answers: Mapping[str, RecipientOutcome],
    *,
    status: str,
) -> dict[str, str]:
    """Write the results that differ from what their message implies; return the newly refused with their text.

    The instances of ``recipients`` have the written values afterwards.
    """
    changed: list[Recipient] = []
    newly_in_doubt: list[int] = []
    refused: dict[str, str] = {}
    for recipient in recipients:
        before = (recipient.result, recipient.code, recipient.text)
        result, said = results[recipient.address], answers.get(recipient.address)
        _answer(recipient, result, said, status=status)
        if before == (recipient.result, recipient.code, recipient.text):
            continue
        if result == RecipientResult.REFUSED != before[0]:
            refused[recipient.address] = f"{recipient.code or ''} {recipient.text}".strip()
        if result == RecipientResult.UNKNOWN != before[0]:
            newly_in_doubt.append(recipient.pk)
        changed.append(recipient)
    if changed and len(newly_in_doubt) == len(changed):
        # The usual case after an unknown outcome: one short UPDATE.
        for keys in in_parts(newly_in_doubt):
            Recipient.objects.filter(pk__in=keys).update(result=RecipientResult.UNKNOWN)
    elif changed:
        Recipient.objects.bulk_update(changed, ["result", "code", "text"], batch_size=BATCH)
    return refused


def _answer(recipient: Recipient, result: RecipientResult, said: RecipientOutcome | None, *, status: str) -> None:
    """Set result and answer; what a sent message implies is stored only over an earlier answer."""
    is_implied = recipient.result == RecipientResult.IMPLIED and result == effective_result(recipient.result, status)
    says_nothing = is_implied and status == Status.SENT and not (recipient.code or recipient.text)
    if said is not None and (said.code or said.text) and not says_nothing:
        recipient.code, recipient.text = said.code or None, said.text[:MAX_TEXT]
    recipient.result = RecipientResult.IMPLIED if is_implied else result
