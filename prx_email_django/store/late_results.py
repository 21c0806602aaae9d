"""Results that come back after their claim was lost: an acceptance counts all the same."""

from __future__ import annotations

from typing import Any

from django.db.models import F

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules import policy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending
from prx_email_django.rules.text import MAX_COLUMN, MAX_ENHANCED_CODE, MAX_TEXT
from prx_email_django.states import AttemptOutcome, ErrorCode, RecipientResult, Status
from prx_email_django.store.numbers import next_numbers
from prx_email_django.store.results import (
    FinishedAttempt,
    RecordedAttempt,
    attempt_columns,
    merged,
    recorded,
    write_recipients,
)

_ATTEMPTS = {
    Ending.ACCEPTED: AttemptOutcome.SENT,
    Ending.TEMPORARY: AttemptOutcome.FAILED,
    Ending.PERMANENT: AttemptOutcome.FAILED,
    Ending.UNKNOWN: AttemptOutcome.UNKNOWN,
}


def record_late(one: FinishedAttempt, *, clock: Clock) -> RecordedAttempt:
    """The claim was lost meanwhile: an acceptance still marks its recipients, whoever has the message now."""
    pk, token = one.claim.id, one.claim.lease.token
    OutboxMessage.objects.filter(pk=pk).update(updated_at=clock.now)
    message = OutboxMessage.objects.filter(pk=pk).first()
    said = one.outcome
    if message is None or said.ending is Ending.UNTOUCHED:
        return recorded(one, Status.FAILED, late=True)
    if said.ending is not Ending.UNKNOWN:
        DeliveryAttempt.objects.filter(message_id=pk, claim_token=token, outcome=AttemptOutcome.LOST).update(
            outcome=_ATTEMPTS[said.ending],
            error_code=said.error_code,
            error=said.error[:MAX_TEXT],
            phase=said.phase,
            smtp_code=said.smtp_code or None,
            enhanced_code=said.enhanced[:MAX_ENHANCED_CODE],
            peer=said.peer[:MAX_COLUMN],
            finished_at=one.finished_at,
        )
    if not DeliveryAttempt.objects.filter(message_id=pk, claim_token=token).exists():
        # Nobody recovered it: somebody wrote its status by hand.
        values = attempt_columns(one, _ATTEMPTS[said.ending]) | {"number": next_numbers([pk])[pk]}
        DeliveryAttempt.objects.bulk_create([DeliveryAttempt(**values)])
        if said.ending is Ending.UNKNOWN and message.status != Status.SENT:
            _mark_late_doubt(one, message)
    refused: dict[str, str] = {}
    if said.ending is Ending.ACCEPTED:
        refused = _mark_late_acceptance(one, message, clock=clock)
    one.claim.message = message
    return recorded(one, Status(message.status), next_attempt_at=message.next_attempt_at, refused=refused, late=True)


def _mark_late_doubt(one: FinishedAttempt, message: OutboxMessage) -> None:
    """A copy may exist: its Message-ID stays, and its recipients are in doubt."""
    doubtful = [address for address, said in one.answers.items() if said.answer == "unknown"]
    rows = Recipient.objects.filter(message_id=message.pk, address__in=doubtful, result=RecipientResult.IMPLIED)
    rows.update(result=RecipientResult.UNKNOWN)
    fixed = message.message_number
    OutboxMessage.objects.filter(pk=message.pk).update(
        attempts=F("attempts") + 1,
        message_number=policy.fixed_number(one.claim.counters) if fixed is None else fixed,
    )
    message.refresh_from_db()


def _mark_late_acceptance(one: FinishedAttempt, message: OutboxMessage, *, clock: Clock) -> dict[str, str]:
    recipients = list(Recipient.objects.filter(message_id=message.pk).order_by("id"))
    if message.status == Status.SENT:
        # Its successor's answers stand, but for those to whom this one brought it.
        brought = {address: said for address, said in one.answers.items() if said.answer == "accepted"}
        return write_recipients(recipients, merged(recipients, brought), brought, status=Status.SENT)
    results = merged(recipients, one.answers)
    row = OutboxMessage.objects.filter(pk=message.pk, status=message.status)
    settled = policy.is_settled(results.values()) and message.status != Status.SENDING
    refused = write_recipients(recipients, results, one.answers, status=Status.SENT if settled else message.status)
    values: dict[str, Any] = {}
    if not message.provider_message_id:
        # Under which it was accepted, whatever the row has come to since: what follows stays in its thread.
        claimed = one.claim.message
        values = {"provider_message_id": claimed.message_id, "provider_response": one.outcome.response[:MAX_TEXT]}
    if message.message_number is None:
        values["message_number"] = policy.fixed_number(one.claim.counters)
    if settled:
        values |= {"status": Status.SENT, "sent_at": clock.now, "next_attempt_at": None}
        has_refused = RecipientResult.REFUSED in results.values()
        values |= {
            "last_error": policy.first_refusal(one.outcome)[:MAX_TEXT] if has_refused else "",
            "last_error_code": ErrorCode.RECIPIENTS_REFUSED if has_refused else "",
            "claim_expires_at": None,
        }
    if values:
        row.update(**values)
    message.refresh_from_db()
    return refused
