"""Opens an SMTP session: name, TCP, TLS, EHLO, AUTH.  The only user of aiosmtplib.

aiosmtplib is used until the authentication; then its asyncio transport gets this package's ``protocol``, because
aiosmtplib gives neither replies to pipelined commands nor the phase of a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import cast

import aiosmtplib

from prx_email_django.conf.authorities import UnusableFile
from prx_email_django.rules.hosts import ascii_host, cleartext_refusal
from prx_email_django.rules.outcomes import Phase, Step, Trouble
from prx_email_django.rules.text import clean
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp import auth as sasl
from prx_email_django.transports.smtp.commands import Extensions
from prx_email_django.transports.smtp.connect import (
    HostNotAllowed,
    RememberingSocket,
    cleartext_allowed,
    connect,
    is_loopback,
    local_name,
    peer_name,
)
from prx_email_django.transports.smtp.progress import Progress, system_words
from prx_email_django.transports.smtp.replies import clear_text_protocol
from prx_email_django.transports.smtp.session import SmtpSession
from prx_email_django.transports.smtp.tls import certificate_words, tls_context

#: What OpenSSL calls the first bytes of a server that greets in clear text.
_CLEAR_TEXT = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})


class SmtpTransport:
    """``Transport`` over SMTP."""

    async def open(self, settings: ConnectionSettings) -> SmtpSession:
        """Connect, secure, greet and authenticate, all within three times ``settings.timeout``.

        Raises:
            ConnectError: no session could be opened; ``error_code`` is ``network``, ``timeout``, ``tls``, ``auth`` or
                ``provider``.
            asyncio.CancelledError: its ``__cause__`` is a ``ConnectError`` that says how far the attempt had come.
        """
        opening = _Opening(settings)
        try:
            async with asyncio.timeout(3 * settings.timeout) as limit:
                session = await opening.run()
            if limit.expired():  # Python 3.11's wait_for forgets a cancellation that comes with a result
                session.abort()
                raise opening.explain(TimeoutError())
            return session
        except asyncio.CancelledError as cancelled:
            raise cancelled from opening.explain(TimeoutError())
        except ConnectError:
            raise
        except (OSError, aiosmtplib.SMTPException, ValueError) as error:
            explained = opening.explain(error)
        finally:
            opening.close_unless_handed_over()
        # Outside the handler: as its context, the error would keep what the server said, and it may echo a secret.
        raise explained


class _Client(aiosmtplib.SMTP):
    """Remembers whether it was connected, TLS handshake included: a failed ``connect`` of aiosmtplib forgets that."""

    _was_connected = False
    _has_begun = False

    @property
    def was_connected(self) -> bool:
        """Whether there is a connection, or was one."""
        return self._was_connected or self.transport is not None

    @property
    def has_begun(self) -> bool:
        """Whether a part of the awaited reply came."""
        return self._has_begun or (self.protocol is not None and bool(self.protocol._buffer))

    def close(self) -> None:
        """Close as aiosmtplib does."""
        self._was_connected, self._has_begun = self.was_connected, self.has_begun
        super().close()


class _Opening(Progress):
    """One attempt to open a session."""

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__(settings)
        self.sock: RememberingSocket | None = None
        self.client: _Client | None = None
        self.handed_over = False

    async def run(self) -> SmtpSession:
        settings = self.settings
        context = None
        if settings.security != "none":
            context = await self._context()
        host = ascii_host(settings.host)  # DNS and TLS see one name, and by IDNA 2008: Python's own codec has others
        self.sock = sock = await self._connect_socket(host)
        self.peer = peer_name(sock)
        self.done(Step.CONNECT, self.peer)
        if settings.security == "none":
            self._allow_cleartext(sock)
            self.done(Step.TLS, "clear text, which is allowed to this host")
        self.client = client = _Client(
            hostname=host,
            sock=sock,
            local_hostname=local_name(sock),
            timeout=settings.timeout,
            use_tls=settings.security == "tls",
            start_tls=False,
            tls_context=context,
        )
        await self._connect(client)
        await self._greet(client)
        if settings.security == "starttls":
            await self._start_tls(client)
        self.done(Step.EXTENSIONS, _offers(client))
        await self._authenticate(client)
        return self._hand_over(client)

    async def _context(self) -> ssl.SSLContext:
        try:
            return await tls_context(self.settings.tls_files)
        except UnusableFile as error:
            self.phase = Phase.TLS
            raise self.connect_error(str(error), Trouble.TLS, ErrorCode.TLS) from None

    async def _connect_socket(self, host: str) -> RememberingSocket:
        settings = self.settings
        try:
            return await connect(
                host,
                settings.port,
                timeout=settings.timeout,
                allowed=settings.account_hosts,
                resolved=lambda addresses: self.done(Step.RESOLVE, ", ".join(addresses)),
            )
        except HostNotAllowed:
            text = "ACCOUNT_HOSTS does not allow this host"
            raise self.connect_error(text, Trouble.CONFIGURATION, ErrorCode.CONFIGURATION) from None

    def _allow_cleartext(self, sock: socket.socket) -> None:
        self.phase = Phase.TLS
        if not cleartext_allowed(sock, self.settings.host, self.settings.cleartext_hosts):
            raise self.connect_error(cleartext_refusal(self.settings.host), Trouble.TLS, ErrorCode.TLS)
        if self.settings.auth_method != "none" and not is_loopback(sock):
            raise self.connect_error("credentials go in clear text to loopback only", Trouble.TLS, ErrorCode.TLS)
        self.phase = Phase.CONNECT

    async def _connect(self, client: _Client) -> None:
        """TLS, where it comes first (``security`` ``tls``), and the greeting."""
        if self.settings.security == "tls":
            self.phase = Phase.TLS
        try:
            await client.connect()
        finally:
            if client.was_connected:
                self.phase = Phase.CONNECT
        self._note_tls(client)
        self.done(Step.GREETING, "220")

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if not 500 <= error.code < 600:
                raise
            await client.helo()

    async def _start_tls(self, client: aiosmtplib.SMTP) -> None:
        self.phase = Phase.TLS
        if not client.supports_extension("starttls"):
            raise self.connect_error("the server does not offer STARTTLS", Trouble.TLS, ErrorCode.TLS)
        await client.starttls()
        self._note_tls(client)
        self.phase = Phase.CONNECT
        await self._greet(client)

    def _note_tls(self, client: aiosmtplib.SMTP) -> None:
        tls = client.transport.get_extra_info("ssl_object") if client.transport is not None else None
        if tls is not None:
            self.peer = f"{self.peer} {tls.version()}"
            self.done(Step.TLS, f"{tls.version()}, {certificate_words(tls.getpeercert())}")

    async def _authenticate(self, client: aiosmtplib.SMTP) -> None:
        if self.settings.auth_method == "none":
            return
        self.phase = Phase.AUTH
        offered = client.server_auth_methods
        mechanisms = sasl.choose_mechanisms(self.settings, offered)
        if not mechanisms:
            names = " ".join(offered).upper() or "nothing"
            wanted = self.settings.auth_mechanism
            wanted = "" if wanted == "auto" else f", only {wanted.upper()} is allowed"
            text = f"the server offers no usable authentication mechanism (it offers {names}{wanted})"
            raise self.connect_error(text, Trouble.AUTH, ErrorCode.AUTH)
        refusal = await self._try(client, mechanisms)
        if refusal is None:
            self.done(Step.LOGIN, self.settings.user)
        if refusal is not None:
            error = self.refused(refusal.code, str(refusal))
            del refusal  # error reports show the variables of this frame, and the server may have echoed a secret
            raise error

    async def _try(self, client: aiosmtplib.SMTP, mechanisms: list[str]) -> sasl.Refusal | None:
        """Try one mechanism after the other while the server refuses the mechanism; return the last refusal."""
        refusal = None
        for mechanism in mechanisms:
            try:
                refusal = await sasl.authenticate(client.execute_command, mechanism, self.settings)
            except (OSError, aiosmtplib.SMTPException):
                if refusal is None:
                    raise
                break  # the server hung up after its refusal, which says more than the loss
            if refusal is None or not refusal.is_of_mechanism:
                break
        return refusal

    def _hand_over(self, client: aiosmtplib.SMTP) -> SmtpSession:
        transport = client.transport
        if transport is None or transport.is_closing():
            raise self.connect_error("the server closed the connection", Trouble.CONNECTION, ErrorCode.NETWORK)
        extensions = _extensions(client)
        session = SmtpSession(
            cast("asyncio.Transport", transport), extensions=extensions, settings=self.settings, peer=self.peer
        )
        self.handed_over = True
        return session

    def close_unless_handed_over(self) -> None:
        """Close what was opened, at once."""
        if self.handed_over:
            return
        transport = self.client.transport if self.client is not None else None
        if transport is not None:
            cast("asyncio.Transport", transport).abort()
        elif self.sock is not None:
            # aiosmtplib may be closing a transport over this socket: shut it down, and leave the closing to its owner.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            if self.client is None:
                self.sock.close()

    # Errors

    def explain(self, error: Exception) -> ConnectError:
        """Return the ``ConnectError`` for an exception of aiosmtplib or of the network in the phase reached."""
        original = _original(error)
        where = self.where
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return self.refused(error.code, str(error.message))
        if isinstance(original, ssl.SSLError):
            reason = getattr(original, "verify_message", "") or original.reason or type(original).__name__
            if isinstance(original, ssl.SSLZeroReturnError):
                reason = "the server closed the connection"
            self.phase = Phase.TLS
            if reason in _CLEAR_TEXT:
                return self._clear_text(reason)
            return self.connect_error(f"TLS with {where}: {reason}", Trouble.TLS, ErrorCode.TLS)
        # A server that hangs up in the handshake: the words of the system would sound like a port without a server.
        hung_up = self.phase is Phase.TLS and isinstance(original, ConnectionResetError)
        if hung_up or isinstance(original, aiosmtplib.SMTPServerDisconnected):
            text = f"connection failed: {where}: {self.stage}: the server closed the connection"
            return self.connect_error(text, Trouble.CONNECTION, ErrorCode.NETWORK)
        # asyncio raises ConnectionAbortedError for a TLS handshake that takes too long.
        if isinstance(original, (TimeoutError, ConnectionAbortedError)):
            has_begun = self.client is not None and self.client.has_begun
            return self.connect_error(self.silence(has_begun=has_begun), Trouble.CONNECTION, ErrorCode.TIMEOUT)
        stage = f"{self.stage}: " if self.stage else ""
        text = f"connection failed: {where}: {stage}{system_words(original)}"
        return self.connect_error(text, Trouble.CONNECTION, ErrorCode.NETWORK)

    def _clear_text(self, reason: str) -> ConnectError:
        """Say which kind of server does not begin with TLS; its words are not shown, as in ``not_smtp``."""
        text = f"TLS with {self.where}: {reason}; that port does not begin with TLS"
        if self.settings.security == "starttls":
            text = f"TLS with {self.where}: {reason}; the server went on in clear text after STARTTLS"
        elif self.sock is not None and (protocol := clear_text_protocol(self.sock.first)):
            text = f"TLS with {self.where}: {reason}; the server answered with {protocol} in clear text"
        return self.connect_error(text, Trouble.TLS, ErrorCode.TLS)


def _original(error: Exception) -> BaseException:
    """What aiosmtplib wraps: an error of OpenSSL at any depth, else the reason why it could not connect.

    With TLS 1.3 a server refuses the client's certificate after the handshake: then the error of OpenSSL behind a lost
    connection is the only sign that TLS has failed.
    """
    cause = error.__cause__
    deeper = cause
    while deeper is not None:
        if isinstance(deeper, ssl.SSLError):
            return deeper
        deeper = deeper.__cause__
    return cause if cause is not None and isinstance(error, aiosmtplib.SMTPConnectError) else error


def _offers(client: aiosmtplib.SMTP) -> str:
    """The extensions that people ask for, as the server announced them."""
    offered = client.esmtp_extensions
    names = [name.upper() for name in ("pipelining", "chunking", "8bitmime", "smtputf8") if name in offered]
    size = offered.get("size", "").strip()
    sizes = [f"SIZE {size}".strip()] if "size" in offered else []
    methods = " ".join(client.server_auth_methods).upper()
    return clean(", ".join([*sizes, *names, *([f"AUTH {methods}"] if methods else [])])) or "none"


def _extensions(client: aiosmtplib.SMTP) -> Extensions:
    limit = client.esmtp_extensions.get("size", "").strip()
    return Extensions(
        pipelining=client.supports_extension("pipelining"),
        chunking=client.supports_extension("chunking"),
        size=client.supports_extension("size"),
        size_limit=int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 18 else 0,
        eight_bit=client.supports_extension("8bitmime"),
        utf8=client.supports_extension("smtputf8"),
    )
