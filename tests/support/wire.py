"""What a message is on the wire: a server of the default account, and the one message that reached it.

A test module names the fixtures that it uses: ``catcher, server = wire.catcher, wire.server``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import OutboxMessage
from tests.support.factories import account_on
from tests.support.smtp_server import Received, SmtpServer


@pytest.fixture(scope="module")
def catcher() -> Iterator[SmtpServer]:
    """One server for all tests of a module."""
    with SmtpServer() as running:
        yield running


@pytest.fixture
def server(catcher: SmtpServer, settings: Any) -> SmtpServer:
    """The server of the default account, with no message yet."""
    return prepared(catcher, settings)


def prepared(running: SmtpServer, settings: Any, **more: Any) -> SmtpServer:
    """Make the default account, on this server; ``more`` is for ``PRX_EMAIL``."""
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "WAKE": "", **more}
    running.messages.clear()
    account_on(running)
    return running


def sent(message: EmailMessage, server: SmtpServer) -> Received:
    """What the server received when the outbox had sent the message."""
    assert OutboxEmailBackend().send_messages([message]) == 1
    report = prx.drain()
    assert report.sent == 1, list(OutboxMessage.objects.values("last_error", "last_error_code"))
    return server.messages.pop()
