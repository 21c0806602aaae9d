"""The backend under test, under the name that the suites expect."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parseaddr

from django.core.mail import EmailMessage

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.testing.backend import EmailBackend as KitBackend


class EmailBackend(OutboxEmailBackend):
    """The outbox."""


class CountingBackend(KitBackend):
    """The outbox, with a copy in ``mail.outbox`` and a list of its own that no test clears."""

    sent: list[tuple[str, list[str]]] = []

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue, copy and count."""
        messages = list(email_messages)
        queued = super().send_messages(messages)
        self.sent += [(str(one.subject), sorted(map(_on_the_wire, one.recipients()))) for one in messages]
        return queued


def _on_the_wire(address: object) -> str:
    """The bare address as it must stand in the envelope."""
    local, _, domain = parseaddr(str(address))[1].rpartition("@")
    return f"{local}@{domain.encode('idna').decode()}"
