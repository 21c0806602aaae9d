"""Results that come back after their claim was lost: an acceptance counts, whoever has the message by then."""

from __future__ import annotations

from typing import Any

from django.db.models import F

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.history import next_numbers
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.rules.recipients import is_settled
from prx_email_django.rules.sent import message_id_number, refusal, sent_columns
from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import TRANSITIONS, AttemptOutcome, RecipientResult, Status
from prx_email_django.store.attempts import (
    FinishedAttempt,
    RecordedAttempt,
    attempt_columns,
    merged,
    outcome_columns,
    recorded,
    write_recipients,
)
from prx_email_django.store.db import in_parts
from prx_email_django.store.sensitive import erase_sent

_ATTEMPTS = {
    Ending.ACCEPTED: AttemptOutcome.SENT,
    Ending.TEMPORARY: AttemptOutcome.FAILED,
    Ending.PERMANENT: AttemptOutcome.FAILED,
    Ending.UNKNOWN: AttemptOutcome.UNKNOWN,
}


def recorded_before(finished: FinishedAttempt) -> RecordedAttempt | None:
    """What an earlier try wrote whose commit took effect although its answer was lost; None: it wrote nothing."""
    claim = finished.claim
    attempts = DeliveryAttempt.objects.filter(message_id=claim.id, claim_token=claim.lease.token)
    written = attempts.exclude(outcome=AttemptOutcome.LOST).first()
    message = OutboxMessage.objects.filter(pk=claim.id, claim_token=claim.lease.token).first()
    if written is None or message is None:
        return None
    claim.message = message
    return recorded(
        finished,
        Status.SENT if message.status == Status.SENT else Status.FAILED,
        error_code=message.last_error_code,
        error=message.last_error,
        next_attempt_at=message.next_attempt_at,
        progress=written.outcome == AttemptOutcome.SENT and message.status != Status.SENT,
    )


def record_late(finished: FinishedAttempt, *, clock: Clock) -> RecordedAttempt:
    """Record a result whose claim was lost: in its attempt's row, and where it was accepted in the message's."""
    row = OutboxMessage.objects.filter(pk=finished.claim.id)
    # A write first: it takes the row's lock on every engine.
    row.update(updated_at=clock.now)
    message = row.first()
    said = finished.outcome
    if message is None or said.ending is Ending.UNTOUCHED:
        return recorded(finished, Status.FAILED, late=True, is_news=False)
    if _write_attempt(finished, message) and message.status != Status.SENT:
        if said.ending is Ending.UNKNOWN:
            _mark_doubt(finished, message)
        elif said.ending is not Ending.ACCEPTED:
            # What the server said; it also tells the next claim that there has been an attempt.
            known = {"last_error_code": said.error_code, "last_error": said.error[:MAX_TEXT]}
            row.filter(last_error_code="").update(**known)
    refused = _mark_acceptance(finished, message, clock=clock) if said.ending is Ending.ACCEPTED else {}
    before = message.status
    message.refresh_from_db()
    finished.claim.message = message
    return recorded(
        finished,
        Status(message.status),
        next_attempt_at=message.next_attempt_at,
        refused=refused,
        late=True,
        is_news=message.status != before,
    )


def _write_attempt(finished: FinishedAttempt, message: OutboxMessage) -> bool:
    """Give the outcome to the row of the lost attempt; True if there is none, and a new one was made."""
    claim, said = finished.claim, finished.outcome
    attempts = DeliveryAttempt.objects.filter(message_id=claim.id, claim_token=claim.lease.token)
    if said.ending is not Ending.UNKNOWN:
        attempts.filter(outcome=AttemptOutcome.LOST).update(
            **outcome_columns(said, _ATTEMPTS[said.ending]), finished_at=finished.finished_at
        )
    if attempts.exists():
        return False
    # The claim was not recovered: somebody wrote the message's status by hand.  Who sends it now has the first free
    # number already.
    number = next_numbers([claim.id], skip=int(message.status == Status.SENDING))[claim.id]
    values = attempt_columns(finished, _ATTEMPTS[said.ending]) | {"number": number}
    DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**values)])
    return True


def _number(finished: FinishedAttempt, message: OutboxMessage) -> int:
    """The number of the message's copies: as it is fixed, else as it was in this attempt's Message-ID."""
    return message_id_number(message.message_number, finished.claim.counters.message_id_number)


def _mark_doubt(finished: FinishedAttempt, message: OutboxMessage) -> None:
    """A copy may exist: its Message-ID stays, and its recipients are in doubt, unless somebody is sending it now.

    Who sends it decides about them: the group that records an acceptance reads no recipient.
    """
    if message.status != Status.SENDING:
        doubtful = [address for address, said in finished.answers.items() if said.answer is Answer.UNKNOWN]
        rows = Recipient.objects.filter(message_id=message.pk, result=RecipientResult.IMPLIED)
        for addresses in in_parts(doubtful):
            rows.filter(address__in=addresses).update(result=RecipientResult.UNKNOWN)
    OutboxMessage.objects.filter(pk=message.pk).update(
        attempts=F("attempts") + 1, message_number=_number(finished, message)
    )


def _mark_acceptance(finished: FinishedAttempt, message: OutboxMessage, *, clock: Clock) -> dict[str, str]:
    """Mark the accepted recipients, and settle the message unless it is being sent; return the newly refused."""
    recipients = list(Recipient.objects.filter(message_id=message.pk).order_by("id"))
    row = OutboxMessage.objects.filter(pk=message.pk, status=message.status)
    if message.status == Status.SENT:
        # The answers to the later attempt stay, except where this attempt was accepted and the later one refused.
        accepted = {address: said for address, said in finished.answers.items() if said.answer is Answer.ACCEPTED}
        refused = write_recipients(recipients, merged(recipients, accepted), accepted, status=Status.SENT)
        row.update(**dict(zip(("last_error_code", "last_error"), refusal(recipients), strict=True)))
        return refused
    results = merged(recipients, finished.answers)
    may_settle = message.status in TRANSITIONS["late result"].sources
    settled = may_settle and is_settled(results.values())
    status = Status.SENT if settled else message.status
    refused = write_recipients(recipients, results, finished.answers, status=status)
    # What follows stays in the thread of the accepted copy, whatever the row has come to since.
    accepted_id = message.provider_message_id or finished.claim.message.message_id
    number = _number(finished, message)
    values: dict[str, Any] = {"provider_message_id": accepted_id, "message_number": number}
    if not message.provider_message_id:
        values["provider_response"] = finished.outcome.response[:MAX_TEXT]
    if settled:
        values |= sent_columns(recipients, number=number, message_id=accepted_id, now=clock.now)
    row.update(**values)
    if settled:
        erase_sent([message])
    return refused
