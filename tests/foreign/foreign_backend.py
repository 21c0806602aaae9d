"""The backend under test, with the name that the test suites expect."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parseaddr

from django.core.mail import EmailMessage

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.testing.backend import EmailBackend as KitBackend


class EmailBackend(OutboxEmailBackend):
    """The backend of the outbox."""


class CountingBackend(KitBackend):
    """The backend of the testing kit, with a list of sent messages that no test clears."""

    sent: list[tuple[str, list[str]]] = []

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Enqueue the messages and keep their subjects and recipients."""
        messages = list(email_messages)
        queued = super().send_messages(messages)
        self.sent += [
            (str(message.subject), sorted(map(_envelope_address, message.recipients()))) for message in messages
        ]
        return queued


def _envelope_address(address: object) -> str:
    """The address as the SMTP envelope must have it."""
    local, _, domain = parseaddr(str(address))[1].rpartition("@")
    return f"{local}@{domain.encode('idna').decode()}"
