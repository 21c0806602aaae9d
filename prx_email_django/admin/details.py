"""Recipients, attempts, attachments and bodies for the page of one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.utils import timezone

from prx_email_django.admin.columns import recipient_answer, recipient_result
from prx_email_django.admin.preview import bodies_of
from prx_email_django.admin.timeline import timeline
from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.states import Status
from prx_email_django.status.counts import worker_facts
from prx_email_django.status.facts import held_back, message_reason
from prx_email_django.status.overview import nobody_works
from prx_email_django.store.db import clock_for

#: Most recipients and most attempts that the page shows; the lists show all of them.
MAX_ROWS = 200


def message_details(message: OutboxMessage, *, with_content: bool) -> dict[str, Any]:
    """Return the template context of the message's page; the number of queries is fixed.

    ``with_content``: texts and files too, for who may read them.
    """
    recipients, more_recipients = _first(message.recipients.order_by("pk"))
    attempts, more_attempts = _first(message.delivery_attempts.order_by("-number"))
    return {
        "why": message_reason(message),
        "silence": _silence(message),
        "recipients": [_recipient_line(recipient, message) for recipient in recipients],
        "more_recipients": more_recipients,
        "delivery_attempts": attempts,
        "timeline": timeline(message, attempts, _actions(message), now=timezone.now()),
        "more_attempts": more_attempts,
        "attachments": message.attachments.order_by("position") if with_content else (),
        "bodies": bodies_of(message) if with_content else None,
        "is_erased": message.is_sensitive and message.status == Status.SENT,
    }


def _silence(message: OutboxMessage) -> str:
    """Say that nobody works, where the message is due and waits for that only."""
    now = clock_for(None).running
    is_due = message.is_waiting and message.next_attempt_at is not None and message.next_attempt_at <= now
    return nobody_works(worker_facts(), now) if is_due and not held_back(message, now=now) else ""


def _recipient_line(recipient: Recipient, message: OutboxMessage) -> dict[str, Any]:
    state, label = recipient_result(recipient, message)
    answer = recipient_answer(recipient, message)
    return {"recipient": recipient, "state": state, "label": label, "answer": answer}


def _actions(message: OutboxMessage) -> Sequence[LogEntry]:
    """Return what persons did to the message in the admin, the newest first; a host's proxy has a type of its own."""
    models: set[type[OutboxMessage]] = {OutboxMessage, type(message)}
    types = [ContentType.objects.get_for_model(model, for_concrete_model=False) for model in models]
    found = LogEntry.objects.filter(content_type__in=types, object_id=str(message.pk))
    return list(found.select_related("user").order_by("-pk")[:MAX_ROWS])


def _first(rows: QuerySet[Any]) -> tuple[Sequence[Any], bool]:
    found = list(rows[: MAX_ROWS + 1])
    return found[:MAX_ROWS], len(found) > MAX_ROWS
