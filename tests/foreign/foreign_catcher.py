"""An SMTP server that keeps the messages that it receives, and the account that sends to it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller

from prx_email_django import api
from prx_email_django.models import Account, OutboxMessage

ACCOUNT = "foreign"


@dataclass
class Catcher:
    """The handler of the server; it keeps every message with its envelope."""

    messages: list[Any] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep the message."""
        self.messages.append(envelope)
        return "250 OK"


catcher = Catcher()


def start() -> Controller:
    """Start the server; the caller stops it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(catcher, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True)
    controller.start()
    return controller


def prepare(controller: Controller) -> None:
    """Prepare a test: no received and no enqueued message, and an account on the server."""
    catcher.messages.clear()
    OutboxMessage.objects.all().delete()
    Account.objects.update_or_create(
        name=ACCOUNT,
        defaults={
            "host": controller.hostname,
            "port": controller.port,
            "security": "none",
            "auth_method": "none",
            "email": "foreign@example.com",
            "max_connections": 1,
        },
    )


def drained() -> list[Any]:
    """Drain, and return all messages that the server received since the test began or the list was cleared."""
    report = api.drain()
    assert report.claimed == report.sent, list(OutboxMessage.objects.values("status", "last_error"))
    return catcher.messages
