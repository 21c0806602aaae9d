"""Against a server that this project did not write: aiosmtpd without pipelining, with STARTTLS and a password."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope

from prx_email_django.rules.outcomes import Answer, Ending, Trouble
from prx_email_django.transports.base import ConnectError, ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, outgoing, outgoing_messages, run_session
from tests.support.patience import PATIENCE


class Inbox:
    """Keeps messages; refuses the recipient nobody@ and the word spam."""

    def __init__(self) -> None:
        self.messages: list[Envelope] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        if b"spam" in envelope.content:
            return "554 5.7.1 not here"
        self.messages.append(envelope)
        return "250 2.0.0 queued"


def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"ann", b"secret"), handled=False)


class PatientController(Controller):
    """Listens on a free port, and waits ``PATIENCE`` for the first connection; aiosmtpd's own one waits one second."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        with socket.create_connection((self.hostname, self.port), PATIENCE) as client:
            assert client.recv(3) == b"220"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[Inbox, ConnectionSettings]]:
    """A running server that demands STARTTLS and a password, and the settings for it."""
    authority, inbox = trustme.CA(), Inbox()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    controller = PatientController(
        inbox,
        hostname="127.0.0.1",
        port=0,
        ready_timeout=PATIENCE,
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=authenticate,
    )
    controller.start()
    try:
        yield (
            inbox,
            ConnectionSettings(
                "localhost",
                controller.port,
                "starttls",
                "password",
                user="ann",
                password="secret",
                timeout=PATIENCE,
                tls_files=TlsFiles(ca_file=str(tmp_path / "ca.pem")),
            ),
        )
    finally:
        controller.stop()


def test_no_message_of_a_mixed_list_has_a_wrong_outcome(other: tuple[Inbox, ConnectionSettings]) -> None:
    inbox, settings = other
    messages = [
        *outgoing_messages(3),
        outgoing(4, "nobody@example.org", "eve@example.org"),
        outgoing(5, "nobody@example.org"),
        outgoing(6, body=b"Subject: spam\r\n\r\n..\r\n"),
        outgoing(7, body=b"Subject: dots\r\n\r\n.\r\n..\r\nend\r\n"),
    ]
    feed = ListFeed(messages)
    end = asyncio.run(run_session(SmtpTransport(), settings, feed))
    endings = [feed.outcomes[number].ending for number in range(1, 8)]
    assert endings == [Ending.ACCEPTED] * 4 + [Ending.PERMANENT] * 2 + [Ending.ACCEPTED]
    assert feed.outcomes[4].recipients["nobody@example.org"].answer is Answer.REFUSED
    assert inbox.messages[-1].content == messages[-1].body
    assert end.trouble is Trouble.NONE


def test_wrong_password_is_refused_once(other: tuple[Inbox, ConnectionSettings]) -> None:
    _, settings = other
    wrong = ConnectionSettings(
        settings.host,
        settings.port,
        "starttls",
        "password",
        user="ann",
        password="wrong",
        tls_files=settings.tls_files,
    )
    with pytest.raises(ConnectError) as failed:
        asyncio.run(run_session(SmtpTransport(), wrong, ListFeed([])))
    assert (failed.value.trouble, failed.value.smtp_code) == (Trouble.AUTH, 535)
