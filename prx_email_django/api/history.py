"""Messages that another program has sent, kept here so that people find them."""

from __future__ import annotations

from prx_email_django.models import OutboxMessage
from prx_email_django.store.db import clock_for
from prx_email_django.store.draft import Draft
from prx_email_django.store.sent_elsewhere import SentElsewhere, insert_sent


def record_sent(draft: Draft, facts: SentElsewhere) -> tuple[OutboxMessage, bool]:
    """Write a message as sent; no signal is sent, no count changes, and no worker ever takes it.

    With an idempotency key that is known, return that row and False.
    """
    return insert_sent(draft, facts, clock=clock_for(None))
