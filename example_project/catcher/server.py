"""The mail server: aiosmtpd, with the three recipients that play a part."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from example_project.catcher.inbox import Inbox
from example_project.catcher.logins import PASSWORDS, TOKEN_USER

REFUSED = "550 5.1.1 nobody lives here"
DEFERRED = "450 4.2.1 mailbox busy, try again later"


class Handler:
    """What aiosmtpd asks; one for all connections, so that a second attempt is known as such."""

    def __init__(self, inbox: Inbox, is_good_token: Callable[[str], bool]) -> None:
        self.inbox = inbox
        self.is_good_token = is_good_token
        self._seen: set[str] = set()

    async def handle_EHLO(  # noqa: N802  (the names that aiosmtpd calls)
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer pipelining (RFC 2920): aiosmtpd reads one command after the other, however they come."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_RCPT(  # noqa: N802, PLR0913
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Refuse, defer or take a recipient."""
        part = address.partition("@")[0]
        if part == "nobody":
            return REFUSED
        if part == "busy" and self._is_first(address):
            return DEFERRED
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep a message and say so, unless ``silent`` is among its recipients."""
        assert isinstance(envelope.content, bytes)  # noqa: S101  (decode_data is off)
        self.inbox.add(
            envelope.content,
            envelope_from=str(envelope.mail_from),
            envelope_to=", ".join(envelope.rcpt_tos),
            logged_in=str(session.auth_data),
        )
        if any(address.startswith("silent@") and self._is_first(address) for address in envelope.rcpt_tos):
            assert isinstance(server.transport, asyncio.WriteTransport)  # noqa: S101  (a connection has one)
            server.transport.abort()
        return "250 2.6.0 kept in the inbox"

    def _is_first(self, address: str) -> bool:
        """True at the first of every two calls for an address."""
        self._seen ^= {address}
        return address in self._seen

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """``user=…^Aauth=Bearer …^A^A``, as Google and Microsoft have it; with or without a first empty challenge."""
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
        """aiosmtpd's authenticator for PLAIN and LOGIN."""
        if not isinstance(auth_data, LoginPassword):
            return AuthResult(success=False, handled=False)
        user, password = auth_data.login.decode(), auth_data.password.decode()
        good = PASSWORDS.get(user) == password
        return AuthResult(success=good, handled=False, auth_data=f"{mechanism} {user}")


async def listen(handler: Handler, certificate: Path, port: int, *, implicit: bool) -> asyncio.Server:
    """Listen on loopback; ``implicit``: TLS from the first byte, else STARTTLS is demanded.  Port 0: a free one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(
            handler,
            hostname="mail.shop.example",
            ident="the catcher of the example",
            enable_SMTPUTF8=True,
            loop=loop,
            tls_context=None if implicit else context,
            require_starttls=not implicit,
            auth_required=True,
            # aiosmtpd does not know that a connection of implicit TLS is encrypted already.
            auth_require_tls=not implicit,
            authenticator=handler.check_password,
        )

    return await loop.create_server(connection, "127.0.0.1", port, ssl=context if implicit else None)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)
