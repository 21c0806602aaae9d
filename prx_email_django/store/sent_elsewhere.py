"""import: a message that another program has sent, as a row that is sent from its beginning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.sent import sent_columns
from prx_email_django.states import AttemptOutcome
from prx_email_django.store.db import atomic, retried_after_conflict
from prx_email_django.store.draft import Draft
from prx_email_django.store.insert import insert


@dataclass(frozen=True, slots=True)
class SentElsewhere:
    """Which program sent a message, when it was queued and sent there, and under which Message-ID (empty: unknown)."""

    by: str
    created_at: datetime
    sent_at: datetime
    message_id: str = ""


@retried_after_conflict
def insert_sent(draft: Draft, facts: SentElsewhere, *, clock: Clock) -> tuple[OutboxMessage, bool]:
    """Write a draft as sent, with one attempt; with a key that is known, return the first row and False.

    No worker sees the row while it is pending: insert and update are one transaction.
    """
    with atomic():
        message, is_new = insert(draft, clock=clock)
        if is_new:
            columns = sent_columns((), number=0, message_id=facts.message_id, now=facts.sent_at)
            columns |= {"created_at": facts.created_at, "due_since": facts.created_at}
            columns |= {"provider_message_id": facts.message_id or None}
            OutboxMessage.objects.filter(pk=message.pk).update(**columns)
            DeliveryAttempt.objects.create(
                message=message,
                number=1,
                header_message_id=facts.message_id,
                started_at=facts.sent_at,
                finished_at=facts.sent_at,
                outcome=AttemptOutcome.SENT,
                worker=facts.by,
            )
    return message, is_new
