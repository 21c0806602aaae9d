"""The backend of the kit: into the outbox, and into ``mail.outbox`` too."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from django.core import mail
from django.core.mail import EmailMessage

from prx_email_django.backends import OutboxEmailBackend


class EmailBackend(OutboxEmailBackend):
    """Queues as ``OutboxEmailBackend`` does, and then keeps a copy where Django's test backend would."""

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue the messages; those that were queued are in ``mail.outbox`` afterwards."""
        messages = list(email_messages)
        for message in messages:
            message.__dict__.pop("outbox_id", None)
        queued = super().send_messages(messages)
        if not hasattr(mail, "outbox"):
            mail.outbox = []
        for message in messages:
            if hasattr(message, "outbox_id"):
                kept = copy.deepcopy(message)
                kept.sent_using = getattr(self, "alias", None)  # type: ignore[attr-defined]
                mail.outbox.append(kept)
        return queued
