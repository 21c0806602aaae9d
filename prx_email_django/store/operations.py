"""The operations that a person asks for: retry, requeue, cancel, dismiss, confirm.

Retry (``claim_one``) claims a message for one attempt now; requeue makes messages due for a drain, and is what the
admin's button "Retry" does.  All but retry also work in a caller's open transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from django.db.models import BigIntegerField, DateTimeField, F, Q, QuerySet, Value
from django.db.models.functions import Coalesce

from prx_email_django.conf import outbox_settings
from prx_email_django.errors import RetryRejected
from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.models.conditions import AT_REST
from prx_email_django.results import ChangeReport
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.recipients import is_settled, settled_status
from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import TRANSITIONS, ErrorCode, RecipientResult, Status
from prx_email_django.store.attempts import becomes_sent
from prx_email_django.store.claimed import Claim, load_claims
from prx_email_django.store.claims import claim_ids
from prx_email_django.store.db import atomic, retried, retried_after_conflict
from prx_email_django.store.lease import Lease, released_on_absence
from prx_email_django.store.sensitive import erase_sent

Rows: TypeAlias = Iterable[int] | QuerySet[OutboxMessage]

#: Rows of one statement.
BATCH = 500


def requeue(rows: Rows, *, clock: Clock, force: bool = False) -> ChangeReport:
    """Make failed messages (with ``force`` also pending ones) due now; reopen the recipients of those at rest."""

    def refusal(row: OutboxMessage) -> str:
        return "waiting" if row.status == Status.PENDING and not force else ""

    statuses = TRANSITIONS["requeue"].sources if force else {Status.FAILED}

    def change(ids: Sequence[int]) -> int:
        fields = {
            "next_attempt_at": clock.now,
            "due_since": clock.now,
            "expires_at": None,
            "dismissed_at": None,
            "updated_at": clock.now,
        }
        rows = OutboxMessage.objects.filter(pk__in=ids, status__in=statuses)
        at_rest = list(rows.filter(next_attempt_at__isnull=True).values_list("pk", flat=True))
        changed = rows.filter(pk__in=at_rest, next_attempt_at__isnull=True).update(**fields)
        reopen(at_rest)
        return changed + rows.exclude(pk__in=at_rest).update(**fields)

    return _each_batch(rows, refusal=refusal, change=change)


def cancel(rows: Rows, *, clock: Clock) -> ChangeReport:
    """Put waiting messages at rest as ``cancelled``."""

    def refusal(row: OutboxMessage) -> str:
        return "at_rest" if row.next_attempt_at is None else ""

    def change(ids: Sequence[int]) -> int:
        may = Q(status__in=TRANSITIONS["cancel"].sources, next_attempt_at__isnull=False)
        return OutboxMessage.objects.filter(may, pk__in=ids).update(
            status=Status.FAILED,
            last_error_code=ErrorCode.CANCELLED,
            next_attempt_at=None,
            updated_at=clock.now,
        )

    return _each_batch(rows, refusal=refusal, change=change)


def dismiss(rows: Rows, *, clock: Clock) -> ChangeReport:
    """Take messages at rest off the list of those that need a person; a dismissed one stays dismissed."""

    def refusal(row: OutboxMessage) -> str:
        return "" if row.is_at_rest else "waiting"

    def change(ids: Sequence[int]) -> int:
        first_time = Coalesce("dismissed_at", Value(clock.now, output_field=DateTimeField()))
        return OutboxMessage.objects.filter(AT_REST, pk__in=ids).update(dismissed_at=first_time)

    return _each_batch(rows, refusal=refusal, change=change)


def confirm(rows: Rows, *, clock: Clock) -> ChangeReport:
    """Record that messages in doubt have arrived: unknown recipients become accepted, open ones are due now."""

    def refusal(row: OutboxMessage) -> str:
        return "" if row.status == Status.FAILED and row.attempts > row.retries else "not_unknown"

    def change(ids: Sequence[int]) -> int:
        may = Q(status__in=TRANSITIONS["confirm"].sources, attempts__gt=F("retries"))
        # Their locks are held since ``_batch`` read them, so they stay as they are.
        messages = list(OutboxMessage.objects.filter(may, pk__in=ids).order_by("pk"))
        everyone = Recipient.objects.filter(message_id__in=[message.pk for message in messages])
        everyone.filter(result=RecipientResult.UNKNOWN).update(result=RecipientResult.ACCEPTED)
        recipients: dict[int, list[Recipient]] = {message.pk: [] for message in messages}
        for recipient in everyone.order_by("id"):
            recipients[recipient.message_id].append(recipient)
        changed = sum(_confirm(message, recipients[message.pk], clock=clock) for message in messages)
        erase_sent(messages)
        return changed

    return _each_batch(rows, refusal=refusal, change=change)


def _confirm(message: OutboxMessage, recipients: Sequence[Recipient], *, clock: Clock) -> int:
    row = OutboxMessage.objects.filter(pk=message.pk)
    results = [recipient.result for recipient in recipients]
    # The person has said how the attempts ended of which nobody knew it: a part of the message is known to be missing.
    known = {"retries": F("attempts"), "updated_at": clock.now}
    if is_settled(results) and settled_status(results) is Status.FAILED:
        refusal = next((f"{said.code} {said.text}" for said in recipients if said.code is not None), "")
        return row.update(
            next_attempt_at=None,
            last_error_code=ErrorCode.RECIPIENTS_REFUSED,
            last_error=refusal[:MAX_TEXT],
            **known,
        )
    values = becomes_sent(message, recipients, now=clock.now)
    if not is_settled(results):
        # What follows stays in the thread of the copy that arrived.
        copy = {name: values[name] for name in ("provider_message_id", "message_number")}
        return row.update(
            next_attempt_at=clock.now, due_since=clock.now, last_error_code="", last_error="", **copy, **known
        )
    return row.update(**values, confirmed_at=values["sent_at"])


def reopen(ids: Sequence[int]) -> None:
    """Open the refused recipients again; unknown ones are addressed anyway, and stay unknown for ``confirm``."""
    Recipient.objects.filter(message_id__in=ids, result=RecipientResult.REFUSED).update(result=RecipientResult.IMPLIED)


@retried_after_conflict
def claim_one(outbox_id: int, *, clock: Clock, force: bool, account_id: int | None = None) -> Claim:
    """Claim one message because a person asked; a message at rest needs no ``force``.

    ``account_id``: the account over which it is going to be sent.

    Raises:
        RetryRejected: there is no such message, it is sent or being sent, it is not due yet, or another account's.
    """
    lease = Lease(outbox_settings().lease)
    with released_on_absence(lease), atomic():
        row = OutboxMessage.objects.filter(pk=outbox_id)
        # A write first: it locks the row, so that the columns read next stay as they are.
        row.update(updated_at=F("updated_at"))
        message = check_retry(row.first(), outbox_id, clock=clock, force=force)
        if account_id not in (None, message.account_id):
            raise RetryRejected("the message has just been moved to another account", code="not_retriable")
        if message.next_attempt_at is None:
            row.update(due_since=clock.now, expires_at=None)
            reopen([outbox_id])
        if claim_ids([outbox_id], guard=Q(), lease=lease, clock=clock) != 1:
            raise RetryRejected("the message has just been claimed by a worker", code="not_retriable")
    with released_on_absence(lease):
        claims = load_claims([outbox_id], lease=lease)
    if not claims:
        raise RetryRejected("the message was changed at the same time", code="not_retriable")
    return claims[0]


def check_retry(message: OutboxMessage | None, outbox_id: int, *, clock: Clock, force: bool) -> OutboxMessage:
    """Return the message if it may be retried now.

    Raises:
        RetryRejected: it may not; the code says why.
    """
    if message is None:
        raise RetryRejected(f"there is no message {outbox_id}", code="not_found")
    if message.status not in TRANSITIONS["retry"].sources:
        raise RetryRejected(f"message {outbox_id} is {message.status}: nothing to retry", code="not_retriable")
    due = message.next_attempt_at
    if due is not None and due > clock.now and not force:
        raise RetryRejected(f"message {outbox_id} is not due before {due.isoformat()}", code="retry_not_due")
    return message


def _each_batch(
    rows: Rows, *, refusal: Callable[[OutboxMessage], str], change: Callable[[Sequence[int]], int]
) -> ChangeReport:
    """``refusal`` says why a message that is neither sent nor being sent is not changed; empty: ``change`` it."""
    changed, refused = 0, Counter[str]()
    for ids in _batches(rows):
        batch_changed, batch_refused = _batch(ids, refusal=refusal, change=change)
        changed += batch_changed
        refused += batch_refused
    return ChangeReport(changed=changed, refused=dict(refused))


@retried
def _batch(
    ids: Sequence[int], *, refusal: Callable[[OutboxMessage], str], change: Callable[[Sequence[int]], int]
) -> tuple[int, Counter[str]]:
    with atomic():
        rows = OutboxMessage.objects.filter(pk__in=possible_keys(ids))
        rows.update(updated_at=F("updated_at"))
        columns = ("status", "next_attempt_at", "attempts", "retries")
        reasons = {
            row.pk: row.status if row.status in (Status.SENT, Status.SENDING) else refusal(row)
            for row in rows.only("pk", *columns)
        }
        refused = Counter(reason for reason in reasons.values() if reason)
        if len(reasons) < len(ids):
            refused["not_found"] += len(ids) - len(reasons)
        eligible = sorted(pk for pk, reason in reasons.items() if not reason)
        return change(eligible) if eligible else 0, refused


def possible_keys(keys: Iterable[int]) -> list[int]:
    """The keys that a row can have: Django looks at the size of one key, and gives those of a list to the database."""
    return [key for key in keys if abs(key) <= BigIntegerField.MAX_BIGINT]


def _batches(rows: Rows) -> Iterator[list[int]]:
    given: Iterable[int] = rows.values_list("pk", flat=True) if isinstance(rows, QuerySet) else rows
    ids = sorted(set(given))  # here: a slice can be neither ordered nor made distinct by the database
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
