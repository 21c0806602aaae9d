"""recover: claims whose worker was lost, whatever it did.  expire: claimed messages that are too old to be sent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db.models import F, Q, QuerySet

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.models.conditions import claim_has_run_out
from prx_email_django.models.history import close_gaps, next_numbers
from prx_email_django.rules import policy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.recipients import is_settled, settled_status
from prx_email_django.states import AttemptOutcome, ErrorCode, RecipientResult, Status
from prx_email_django.store.attempts import RecordedAttempt, becomes_sent, update_instance, verdict_columns
from prx_email_django.store.claimed import Claim, counters_of
from prx_email_django.store.db import atomic, retried, rules
from prx_email_django.store.sensitive import erase_sent

#: Messages recovered in one transaction.
BATCH = 100


def recover(*, clock: Clock) -> list[RecordedAttempt]:
    """End every claim whose lease has run out: its outcome is unknown, the message is tried again or rests."""
    recorded: list[RecordedAttempt] = []
    while True:
        tokens = _run_out(clock)
        if not tokens:
            return recorded
        batch = _recover(tokens, now=clock.now, running=clock.running, tries=[])
        if not batch:
            return recorded  # other drains are recovering them
        recorded += batch


@retried
def _run_out(clock: Clock) -> dict[int, uuid.UUID | None]:
    """Message id -> claim token."""
    expired = OutboxMessage.objects.filter(claim_has_run_out(clock.running))
    return dict(expired.order_by("claim_expires_at").values_list("pk", "claim_token")[:BATCH])


@retried
def _recover(
    tokens: Mapping[int, uuid.UUID | None], *, now: datetime, running: datetime, tries: list[int]
) -> list[RecordedAttempt]:
    tries.append(1)
    if len(tries) > 1 and (done := _recovered_before(tokens, now=now)):
        return done
    with atomic():
        expired = OutboxMessage.objects.filter(claim_has_run_out(running), pk__in=tokens)
        # A write first: it locks the rows on every engine, and leaves out those that another drain has recovered.
        # It changes nothing, so that updated_at is still the instant of the claim.
        if not expired.update(claim_token=F("claim_token")):
            return []
        return record_lost(list(expired.order_by("pk")), now=now)


def _recovered_before(tokens: Mapping[int, uuid.UUID | None], *, now: datetime) -> list[RecordedAttempt]:
    """What an earlier try recorded whose commit took effect although its answer was lost: all or nothing."""
    lost = DeliveryAttempt.objects.filter(message_id__in=tokens, outcome=AttemptOutcome.LOST, finished_at=now)
    ours = [attempt for attempt in lost.order_by("message_id") if attempt.claim_token == tokens[attempt.message_id]]
    rows = OutboxMessage.objects.in_bulk([attempt.message_id for attempt in ours])
    return [_recorded(rows[attempt.message_id], attempt.number) for attempt in ours if attempt.message_id in rows]


def record_lost(rows: Sequence[OutboxMessage], *, now: datetime, code: str = "") -> list[RecordedAttempt]:
    """Record ``lost`` for locked ``sending`` rows; with ``code`` they get this error code and rest: no further try."""
    ids = [row.pk for row in rows]
    numbers = next_numbers(ids)
    recipients = _in_doubt(ids)
    attempts: list[DeliveryAttempt] = []
    recorded: list[RecordedAttempt] = []
    for row in rows:
        attempts.append(_lost_attempt(row, numbers[row.pk], now=now))
        results = [recipient.result for recipient in recipients[row.pk]]
        verdict = policy.lost(counters_of(row), results, now=now, rules=rules())
        if code and verdict.status is not Status.SENT:
            verdict = replace(verdict, error_code=code, next_attempt_at=None)
        values = verdict_columns(verdict, recipients[row.pk], message_id=row.message_id, now=now)
        OutboxMessage.objects.filter(pk=row.pk, status=Status.SENDING, claim_token=row.claim_token).update(**values)
        update_instance(row, values)
        recorded.append(_recorded(row, numbers[row.pk]))
    DeliveryAttempt.objects.bulk_create(attempts)
    erase_sent(row for row in rows if row.status == Status.SENT)
    return recorded


def _in_doubt(ids: Sequence[int]) -> dict[int, list[Recipient]]:
    """Mark the open recipients of these messages as unknown; message id -> all its recipients, as they are then."""
    rows = Recipient.objects.filter(message_id__in=ids)
    rows.filter(result=RecipientResult.IMPLIED).update(result=RecipientResult.UNKNOWN)
    found: dict[int, list[Recipient]] = {pk: [] for pk in ids}
    for recipient in rows.order_by("id").only("message_id", "result", "code", "text"):
        found[recipient.message_id].append(recipient)
    return found


def _lost_attempt(row: OutboxMessage, number: int, *, now: datetime) -> DeliveryAttempt:
    return DeliveryAttempt(
        message=row,
        number=number,
        header_message_id=row.message_id,
        # A claim does not store when its attempt began; the last change of the row is the claim itself.
        started_at=row.updated_at,
        finished_at=now,
        outcome=AttemptOutcome.LOST,
        error_code=ErrorCode.LOST_CLAIM,
        error="the worker was lost before it recorded a result",
        claim_token=row.claim_token,
    )


def _recorded(row: OutboxMessage, number: int, *, ending: Ending = Ending.UNKNOWN) -> RecordedAttempt:
    return RecordedAttempt(
        message=row,
        # Somebody else may have claimed it again since.
        status=Status.SENT if row.status == Status.SENT else Status.FAILED,
        outcome=Outcome(ending, error_code=row.last_error_code, error=row.last_error),
        error_code=row.last_error_code,
        error=row.last_error,
        next_attempt_at=row.next_attempt_at,
        attempt=number,
        duration=0.0,
    )


@retried
def expire(claims: Sequence[Claim], *, clock: Clock) -> list[RecordedAttempt]:
    """Put claimed messages that are too old at rest; ``last_error`` stays.

    What a late acceptance has settled since it was claimed is sent.
    """
    recorded: list[RecordedAttempt] = []
    for claim in claims:
        values: dict[str, Any] = {
            "status": Status.FAILED,
            "last_error_code": ErrorCode.EXPIRED,
            "next_attempt_at": None,
            "claim_expires_at": None,
            "updated_at": clock.now,
        }
        ours = OutboxMessage.objects.filter(pk=claim.id, claim_token=claim.lease.token)
        written = Q(status=Status.FAILED, last_error_code=ErrorCode.EXPIRED) | Q(status=Status.SENT)
        with atomic():
            if is_expired := bool(ours.filter(status=Status.SENDING).update(**values)):
                close_gaps(ours)
                values |= _if_arrived(ours, now=clock.now)
        if is_expired or ours.filter(written).exists():  # by an earlier try
            update_instance(claim.message, values)
            recorded.append(_recorded(claim.message, claim.number, ending=Ending.PERMANENT))
    return recorded


def _if_arrived(row: QuerySet[OutboxMessage], *, now: datetime) -> dict[str, Any]:
    """Make a locked row sent whose recipients were all answered, one of them by an acceptance; what was written."""
    message = row.get()
    recipients = list(Recipient.objects.filter(message_id=message.pk).order_by("id"))
    results = [recipient.result for recipient in recipients]
    if not is_settled(results) or settled_status(results) is not Status.SENT:
        return {}
    values = becomes_sent(message, recipients, now=now)
    row.update(**values)
    erase_sent([message])
    return values
