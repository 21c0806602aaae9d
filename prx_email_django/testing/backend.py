"""Email backend of the test kit: queues messages and appends copies to ``mail.outbox``."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from django.core import mail
from django.core.mail import EmailMessage

from prx_email_django.backends import OutboxEmailBackend


class EmailBackend(OutboxEmailBackend):
    """Queues like ``OutboxEmailBackend``, then appends copies to ``mail.outbox`` like Django's test backend."""

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue the messages, and append those that were queued to ``mail.outbox``."""
        messages = list(email_messages)
        for message in messages:
            message.__dict__.pop("outbox_id", None)
        queued = super().send_messages(messages)
        if not hasattr(mail, "outbox"):
            mail.outbox = []
        for message in messages:
            if hasattr(message, "outbox_id"):
                sent = copy.deepcopy(message)
                sent.sent_using = getattr(self, "alias", None)  # type: ignore[attr-defined]
                mail.outbox.append(sent)
        return queued
