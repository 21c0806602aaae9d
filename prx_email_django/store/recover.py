"""recover and expire: claims whose worker was lost, and messages that are too old to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db.models import F

from prx_email_django.models import DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules import policy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.states import AttemptOutcome, ErrorCode, RecipientResult, Status
from prx_email_django.store.claims import Claim, counters_of
from prx_email_django.store.db import atomic, retried, rules
from prx_email_django.store.numbers import next_numbers
from prx_email_django.store.results import RecordedAttempt, columns

#: Messages of one transaction.
BATCH = 100


def recover(*, clock: Clock) -> list[RecordedAttempt]:
    """Every claim whose lease has run out becomes a known unknown: ``lost_claim``, tried again or at rest."""
    recorded: list[RecordedAttempt] = []
    while True:
        expired = OutboxMessage.objects.filter(claim_expires_at__lte=clock.running, status=Status.SENDING)
        ids = list(expired.order_by("claim_expires_at").values_list("pk", flat=True)[:BATCH])
        if not ids:
            return recorded
        batch = _recover(ids, clock=clock)
        if not batch:
            return recorded  # others are recovering them
        recorded += batch


@retried
def _recover(ids: Sequence[int], *, clock: Clock) -> list[RecordedAttempt]:
    with atomic():
        expired = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENDING, claim_expires_at__lte=clock.running)
        # A write first: it locks the rows on every engine, and leaves out those that another drain has recovered.
        # (It changes nothing: updated_at still tells when the claim was made.)
        if not expired.update(claim_token=F("claim_token")):
            return []
        return lose(list(expired.order_by("pk")), clock=clock)


def lose(rows: Sequence[OutboxMessage], *, clock: Clock, code: str = "") -> list[RecordedAttempt]:
    """Record ``lost`` for locked ``sending`` rows; with ``code`` they rest under it, whatever the counters say."""
    ids = [row.pk for row in rows]
    numbers = next_numbers(ids)
    Recipient.objects.filter(message_id__in=ids, result=RecipientResult.IMPLIED).update(result=RecipientResult.UNKNOWN)
    results: dict[int, list[str]] = {pk: [] for pk in ids}
    for pk, result in Recipient.objects.filter(message_id__in=ids).values_list("message_id", "result"):
        results[pk].append(result)
    attempts: list[DeliveryAttempt] = []
    recorded: list[RecordedAttempt] = []
    for row in rows:
        attempts.append(_lost_attempt(row, numbers[row.pk], clock=clock))
        verdict = policy.lost(counters_of(row), results[row.pk], now=clock.now, rules=rules())
        values = columns(row, verdict, outcome=None, now=clock.now)
        if verdict.status == Status.SENT:
            values |= {"last_error_code": "", "last_error": ""}
        elif code:
            values |= {"last_error_code": code, "next_attempt_at": None}
        OutboxMessage.objects.filter(pk=row.pk, status=Status.SENDING, claim_token=row.claim_token).update(**values)
        for name, value in values.items():
            setattr(row, name, value)
        recorded.append(_recorded(row, numbers[row.pk]))
    DeliveryAttempt.objects.bulk_create(attempts)
    return recorded


def _lost_attempt(row: OutboxMessage, number: int, *, clock: Clock) -> DeliveryAttempt:
    return DeliveryAttempt(
        message=row,
        number=number,
        header_message_id=row.message_id,
        # Claims do not stamp their start; the last change of the row is the claim itself.
        started_at=row.updated_at,
        finished_at=clock.now,
        outcome=AttemptOutcome.LOST,
        error_code=ErrorCode.LOST_CLAIM,
        error="the worker was lost before it recorded a result",
        claim_token=row.claim_token,
    )


def _recorded(row: OutboxMessage, number: int, *, ending: Ending = Ending.UNKNOWN) -> RecordedAttempt:
    return RecordedAttempt(
        message=row,
        status=Status(row.status),
        outcome=Outcome(ending, error_code=row.last_error_code, error=row.last_error),
        error_code=row.last_error_code,
        error=row.last_error,
        next_attempt_at=row.next_attempt_at,
        attempt=number,
        duration=0.0,
    )


@retried
def expire(claims: Sequence[Claim], *, clock: Clock) -> list[RecordedAttempt]:
    """Claimed messages that are too old come to rest; what was last heard of them stays."""
    recorded: list[RecordedAttempt] = []
    for one in claims:
        ours = OutboxMessage.objects.filter(pk=one.id, status=Status.SENDING, claim_token=one.lease.token)
        if ours.update(**expiry(clock.now)):
            one.message.status, one.message.next_attempt_at = Status.FAILED, None
            one.message.last_error_code, one.message.claim_expires_at = ErrorCode.EXPIRED, None
            recorded.append(_recorded(one.message, one.number, ending=Ending.PERMANENT))
    return recorded


def expiry(now: datetime) -> dict[str, object]:
    """The columns that expiry sets."""
    return {
        "status": Status.FAILED,
        "last_error_code": ErrorCode.EXPIRED,
        "next_attempt_at": None,
        "claim_expires_at": None,
        "updated_at": now,
    }
