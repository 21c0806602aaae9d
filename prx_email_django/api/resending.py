"""resend and copy: the mail of a stored message is queued once more, as a new message."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from prx_email_django.api.keys import MessageRef, message_key
from prx_email_django.api.queueing import insert_drafts
from prx_email_django.compose.copies import copy_draft, resend_draft
from prx_email_django.compose.validation import as_text, check_instant, check_options
from prx_email_django.errors import RetryRejected
from prx_email_django.models import OutboxMessage
from prx_email_django.store.db import clock_for


def resend_outbox(
    outbox_id: MessageRef, *, idempotency_key: str | None = None, now: datetime | None = None
) -> OutboxMessage:
    """Queue the mail of a stored message once more, to all its recipients, as a new message with a new Message-ID.

    The stored message stays as it is.  ``idempotency_key`` as for ``enqueue``.

    Raises:
        RetryRejected: ``not_found``; ``not_retriable`` where the content is sensitive, was removed, or is altered.
        AccountUnavailable: the account is switched off.
    """
    check_instant("now", now)
    clock = clock_for(now)
    draft = resend_draft(_stored(outbox_id), now=clock.now)
    return insert_drafts([replace(draft, idempotency_key=_checked_key(idempotency_key))], clock=clock)[0]


def copy_outbox(
    outbox_id: MessageRef, *, to: str, idempotency_key: str | None = None, now: datetime | None = None
) -> OutboxMessage:
    """Queue a marked copy of a stored message to ``to`` alone, so that a person can see how the mail looks.

    ``idempotency_key`` as for ``enqueue``.

    Raises:
        InvalidMessage: ``empty_to``, ``invalid_address``.
        RetryRejected: ``not_found``; ``not_retriable`` where the content was removed or is altered.
        AccountUnavailable: the account is switched off.
    """
    check_instant("now", now)
    clock = clock_for(now)
    draft = copy_draft(_stored(outbox_id), to=to, now=clock.now)
    return insert_drafts([replace(draft, idempotency_key=_checked_key(idempotency_key))], clock=clock)[0]


def _checked_key(idempotency_key: str | None) -> str | None:
    key: str | None = as_text(idempotency_key)
    check_options(idempotency_key=key)
    return key


def _stored(outbox_id: MessageRef) -> OutboxMessage:
    key = message_key(outbox_id)
    try:
        message = OutboxMessage.objects.select_related("account", "raw").filter(pk=key).first()
    except (TypeError, ValueError):  # no message has such a key
        message = None
    if message is None:
        raise RetryRejected(f"there is no message {key}", code="not_found")
    return message
