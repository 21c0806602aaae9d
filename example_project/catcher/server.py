"""The mail server: aiosmtpd with special handling of three recipients, and the behaviour that a person has chosen."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from example_project.catcher.behaviour import DEFERRED, REFUSED, Behaviour
from example_project.catcher.credentials import PASSWORDS, TOKEN_USER
from example_project.catcher.inbox import Inbox

IDENT = "the catcher of the example"


class Handler:
    """Handler for aiosmtpd; all connections share it, so that it recognizes a second attempt."""

    def __init__(self, inbox: Inbox, is_good_token: Callable[[str], bool], behaviour: Behaviour) -> None:
        self.inbox = inbox
        self.behaviour = behaviour
        self.is_good_token = is_good_token
        self._seen: set[str] = set()

    async def handle_EHLO(  # noqa: N802  (aiosmtpd calls this name)
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer pipelining (RFC 2920): aiosmtpd reads commands one by one, also if they arrive together."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_MAIL(  # noqa: N802, PLR0913
        self, server: SMTP, session: Session, envelope: Envelope, address: str, mail_options: list[str]
    ) -> str:
        """Take the sender, unless this provider is asked too often."""
        if answer := self.behaviour.to_sender():
            return answer
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 2.1.0 sender ok"

    async def handle_RCPT(  # noqa: N802, PLR0913
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Refuse, defer or accept a recipient."""
        if answer := self.behaviour.to_recipient():
            return answer
        user = address.partition("@")[0]
        if user == "nobody":
            return REFUSED
        if user == "busy" and self._is_first(address):
            return DEFERRED
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store a message and confirm it; on the first attempt for ``silent`` close the connection."""
        assert isinstance(envelope.content, bytes)  # noqa: S101  (decode_data is off)
        if self.behaviour.hangs_up():
            _hang_up(server)
            return "250 nobody hears it"
        await asyncio.sleep(self.behaviour.seconds())
        self.inbox.add(
            envelope.content,
            envelope_from=str(envelope.mail_from),
            envelope_to=", ".join(envelope.rcpt_tos),
            authenticated=str(session.auth_data),
        )
        if any(address.startswith("silent@") and self._is_first(address) for address in envelope.rcpt_tos):
            _hang_up(server)
        self.behaviour.note_accepted()
        return "250 2.6.0 stored in the inbox"

    def _is_first(self, address: str) -> bool:
        """Return True at every first of two calls for an address."""
        self._seen ^= {address}
        return address in self._seen

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """Check ``user=…^Aauth=Bearer …^A^A`` (as Google does), sent with AUTH or after an empty challenge."""
        answer = await server.challenge_auth("") if len(args) == 1 else _decoded(args[1])
        if not isinstance(answer, bytes):
            return AuthResult(success=False, handled=True)
        fields = dict(field.partition("=")[::2] for field in answer.decode().split("\x01") if field)
        scheme, _, token = fields.get("auth", "").partition(" ")
        good = fields.get("user") == TOKEN_USER and scheme == "Bearer" and self.is_good_token(token)
        return AuthResult(success=good, handled=False, auth_data=f"XOAUTH2 {TOKEN_USER}")

    def check_password(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
    ) -> AuthResult:
        """Check user and password; aiosmtpd calls it for PLAIN and LOGIN."""
        if not isinstance(auth_data, LoginPassword):
            return AuthResult(success=False, handled=False)
        user, password = auth_data.login.decode(), auth_data.password.decode()
        good = PASSWORDS.get(user) == password
        return AuthResult(success=good, handled=False, auth_data=f"{mechanism} {user}")


def _hang_up(server: SMTP) -> None:
    assert isinstance(server.transport, asyncio.WriteTransport)  # noqa: S101  (a connection has one)
    server.transport.abort()


async def listen_in_clear_text(handler: Handler, port: int) -> asyncio.Server:
    """Listen on loopback without TLS and login, as Mailpit and MailHog do."""
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(handler, hostname="mail.shop.example", ident=IDENT, enable_SMTPUTF8=True, loop=loop)

    return await loop.create_server(connection, "127.0.0.1", port)


async def listen(handler: Handler, certificate: Path, port: int, *, implicit: bool) -> asyncio.Server:
    """Listen on loopback; ``implicit``: TLS from the first byte, else STARTTLS is required.  Port 0: any free port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(
            handler,
            hostname="mail.shop.example",
            ident=IDENT,
            enable_SMTPUTF8=True,
            loop=loop,
            tls_context=None if implicit else context,
            require_starttls=not implicit,
            auth_required=True,
            # aiosmtpd does not know that a connection with implicit TLS is already encrypted.
            auth_require_tls=not implicit,
            authenticator=handler.check_password,
        )

    return await loop.create_server(connection, "127.0.0.1", port, ssl=context if implicit else None)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
