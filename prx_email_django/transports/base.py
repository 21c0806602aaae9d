"""The contract between a worker and a transport.

A worker opens sessions (one connection each) and gives each session a ``Feed``: the session takes messages from the
feed, transmits them, and reports exactly one ``Outcome`` for each message that it took, whatever happens.  Everything
here runs on the network's event loop; nothing here uses the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.transports.found import Ahead, FoundOut


@dataclass(slots=True, kw_only=True, eq=False)
class OutgoingMessage:
    """One message, rendered and ready to transmit.

    A subclass overrides ``may_write`` and ``may_continue`` to withdraw a message that was already given to a session.
    """

    #: Primary key of the message, for logs only.
    id: int
    #: Envelope sender; ``""`` is the null sender.
    sender: str
    #: Envelope recipients, each once.
    recipients: tuple[str, ...]
    #: RFC 5322 bytes, CRLF line ends, not dot-stuffed.  The session drops a large body when it begins to write it.
    body: bytes
    #: Needs SMTPUTF8 (a non-ASCII local part in the envelope or a UTF-8 header).
    utf8: bool = False
    #: Has bytes above 127: needs 8BITMIME.
    eight_bit: bool = False
    #: Every line of the body is known to end with CRLF, the last one too; else this is made sure before it is written.
    has_crlf: bool = False
    #: The body is known to be ASCII; else its bytes are looked at before it is written.
    is_ascii: bool = False
    #: Must not be sent twice: its body is written only after the server has accepted its envelope and has answered
    #: every message before it.
    alone: bool = False

    def may_write(self) -> bool:
        """Whether MAIL, or the body, may be written now: do claim, slot and permit still hold?

        A session asks immediately before it writes MAIL and again immediately before the body, so that a subclass may
        treat the answer True as "written".  False: nothing is written, and the message is reported ``UNTOUCHED``.
        """
        return True

    def may_continue(self) -> bool:
        """The same question before any other command; asking it has no effect."""
        return True


class Feed(Protocol):
    """Where a session takes its messages and reports their outcomes."""

    def take(self) -> OutgoingMessage | None:
        """Return the next message if there is one (for pipelining)."""

    def take_or_listen(self, changed: Callable[[], None]) -> OutgoingMessage | None:
        """Return the next message; if there is none, ``changed`` is called when it is time to ask again.

        It is called on the event loop's thread, and no more once a message was returned.
        """

    @property
    def is_over(self) -> bool:
        """No message will come for this session: it sends QUIT and returns."""

    def report(self, outgoing: OutgoingMessage, outcome: Outcome) -> None:
        """Record the outcome of a message that was taken; called exactly once for each message."""

    def keeps_session(self) -> bool:
        """When the feed is over: whether the session stays open for another feed; False: it sends QUIT.

        A transport may ignore this.
        """


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why a session ended; all its messages have been reported before.

    ``reconnect``: the session is over but nothing is wrong (retired, too many refusals, 421 between transactions), so
    another session may be opened.  ``trouble``: what the end says about the account.  It includes the trouble that the
    session's last outcome named: count one of the two.  ``broken``: what was written ahead and the server does not
    bear; the account does without it for some time.  ``idle``: the session is not over, but waits for another feed.
    """

    reconnect: bool = False
    trouble: Trouble = Trouble.NONE
    error_code: str = ""
    error: str = ""
    broken: Ahead | None = None
    idle: IdleSession | None = None


class Session(Protocol):
    """One open, authenticated connection."""

    #: Address and TLS version, for ``DeliveryAttempt.peer``.
    peer: str
    #: SIZE that the server announced (RFC 1870), in bytes; 0: none.
    size_limit: int

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit the messages of the feed until it ends, then QUIT and close.  Raises only ``CancelledError``."""

    def abort(self) -> None:
        """Close at once and drop what is buffered; may be called at any time, on the event loop's thread."""


class IdleSession(Session, Protocol):
    """A session that has completed a transaction and waits for another feed; used on the event loop's thread."""

    #: What it was opened with.
    settings: ConnectionSettings
    #: Resolved when the connection cannot be used any more.
    ended: asyncio.Future[None]

    async def resume(self, settings: ConnectionSettings) -> bool:
        """Whether the server still answers: then ``run`` may be called again.  If not, it is closed.

        ``settings`` log in with the same values; what the account's connections share may be another object.
        """

    async def quit(self) -> None:
        """Send QUIT and close; never fails."""


class ConnectError(Exception):
    """No session could be opened, and nothing of any message was written.

    ``str()`` is shown to people: it has no secrets and no control characters, and at most 160 characters.
    """

    def __init__(  # noqa: PLR0913  (the facts of the failure, all but the text by keyword)
        self,
        text: str,
        *,
        phase: Phase,
        trouble: Trouble,
        error_code: str,
        smtp_code: int = 0,
        enhanced: str = "",
        peer: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(text)
        self.phase = phase
        self.trouble = trouble
        self.error_code = error_code
        self.smtp_code = smtp_code
        self.enhanced = enhanced
        self.peer = peer
        #: The server asks not to be asked again before this time has passed.
        self.retry_after = retry_after

    def as_outcome(self) -> Outcome:
        """The outcome of an attempt that ended here: a known failure, and the account's trouble."""
        return Outcome(
            Ending.TEMPORARY,
            trouble=self.trouble,
            error_code=self.error_code,
            error=str(self),
            phase=self.phase,
            smtp_code=self.smtp_code,
            enhanced=self.enhanced,
            peer=self.peer,
        )


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; empty: none."""

    #: Authorities of all accounts (the setting ``TLS_CA_FILE``) and of this account, added to those of the system.
    shared_ca_file: str = ""
    ca_file: str = ""
    #: Client certificate with its chain, and its key (empty: in the same file).
    cert_file: str = ""
    key_file: str = ""


def _nobody(name: str, detail: str) -> None:
    """Nobody follows the opening of the connection."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Where and how to connect: plain values copied from an ``Account``; secrets never appear in ``repr``."""

    host: str
    port: int
    #: ``tls`` | ``starttls`` | ``none``.
    security: str
    #: ``password`` | ``xoauth2`` | ``none``.
    auth_method: str
    #: ``auto`` | ``plain`` | ``login`` | ``cram-md5`` | ``xoauth2`` | ``oauthbearer``.
    auth_mechanism: str = "auto"
    user: str = ""
    password: str = field(default="", repr=False)
    #: OAuth access token, for XOAUTH2 and OAUTHBEARER.
    token: str = field(default="", repr=False)
    #: ``chunked`` | ``full`` | ``envelope`` | ``off`` | ``auto``.  ``chunked`` is ``full`` where the server does not
    #: offer CHUNKING; ``auto``: envelope for the first three messages, then chunked.
    pipelining: str = "auto"
    #: Messages that may be unanswered at once, each with its body, where the server offers CHUNKING; 0: no CHUNKING.
    max_in_flight: int = 0
    #: How many the account was known to bear; 0: its server has not been probed.
    window: int = 0
    #: What the account's connections share; a value of its own where only one is opened.
    found: FoundOut = field(default_factory=FoundOut, repr=False, compare=False)
    #: Called on the network's thread with the name of each step of the opening that is done, and what was found.
    done: Callable[[str, str], None] = field(default=_nobody, repr=False, compare=False)
    #: Messages after which the connection is closed and replaced.
    max_messages: int = 100
    #: Seconds for the reply to a command (connect, TLS and authentication together have three times this).
    timeout: float = 60.0
    #: Seconds for the final reply to a body; time in proportion to the size is added.
    final_timeout: float = 600.0
    #: Files of authorities and of the client certificate.
    tls_files: TlsFiles = TlsFiles()
    #: Names and networks that may be dialled; None: all.
    account_hosts: tuple[str, ...] | None = None
    #: Host names and networks to which clear text is allowed.  Credentials go in clear text to loopback only.
    cleartext_hosts: tuple[str, ...] = ("localhost", "127.0.0.0/8", "::1")


class Transport(Protocol):
    """Opens sessions."""

    async def open(self, settings: ConnectionSettings) -> Session:
        """Connect, secure, greet and authenticate.

        Raises:
            ConnectError: no session could be opened; ``trouble`` says what is wrong with the account.
            asyncio.CancelledError: its ``__cause__`` may be a ``ConnectError`` that says how far the attempt had come.
        """
