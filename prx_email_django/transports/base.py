"""The contract between the drain and whatever carries messages.

A drain opens sessions (one connection each) and gives each of them a ``Feed``: the session takes parcels from it,
transmits them, and reports one ``Outcome`` for each parcel taken, whatever happens.  Everything here runs on the
network's event loop; nothing here knows the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble


@dataclass(slots=True, kw_only=True, eq=False)
class OutgoingMessage:
    """One message, rendered and ready to transmit.

    The sender of the message may refuse it while it is under way: a subclass overrides ``may_write`` and
    ``may_continue``.
    """

    #: The message's primary key, for logs only.
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

    def may_write(self) -> bool:
        """Whether MAIL, or the body, may be written now: do claim, slot and permit still hold?

        The session calls it immediately before it writes MAIL and again before the body.  True may therefore count as
        "written".  False: nothing is written and the message is reported ``UNTOUCHED``.
        """
        return True

    def may_continue(self) -> bool:
        """The same question before any other command; asking it has no effect."""
        return True


class Feed(Protocol):
    """Where a session gets its parcels and leaves their outcomes."""

    def take(self) -> OutgoingMessage | None:
        """The next parcel if one is ready now, without waiting (for pipelining ahead)."""

    async def wait(self) -> OutgoingMessage | None:
        """The next parcel; waits for one.  None: nothing more for this session, say QUIT and return."""

    def report(self, outgoing: OutgoingMessage, outcome: Outcome) -> None:
        """The outcome of a parcel that was taken; exactly once each."""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why a session's run ended, when all its parcels have been reported.

    ``reconnect``: the session is over but nothing is wrong (retired, too many refusals, 421 between transactions): open
    another one.  ``trouble``: what it says about the account; it includes the trouble that the session's last outcome
    named, so that counting one of the two is enough.  ``completed``: transactions that ended with a final
    reply.  ``overlap_lost``: the first overlapped write of this connection was lost; fall back to ``envelope``.
    """

    reconnect: bool = False
    trouble: Trouble = Trouble.NONE
    error_code: str = ""
    error: str = ""
    completed: int = 0
    overlap_lost: bool = False


class Session(Protocol):
    """One open, authenticated connection."""

    #: Address and TLS version, for ``DeliveryAttempt.peer``.
    peer: str
    #: SIZE that the server announced (RFC 1870), octets; 0: none.
    size_limit: int

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit what the feed gives until it ends, then QUIT and close.  Never raises (but CancelledError)."""

    def abort(self) -> None:
        """Close at once without flushing what is buffered; may be called at any time, from the loop's thread."""


class ConnectError(Exception):
    """No session could be opened; nothing of any message was written.

    ``str()`` is for people: no secrets, cleaned, at most 160 characters.
    """

    def __init__(  # noqa: PLR0913  (what is known of the failure, each by its name)
        self,
        text: str,
        *,
        phase: Phase,
        trouble: Trouble,
        error_code: str,
        smtp_code: int = 0,
        enhanced: str = "",
        peer: str = "",
    ) -> None:
        super().__init__(text)
        self.phase = phase
        self.trouble = trouble
        self.error_code = error_code
        self.smtp_code = smtp_code
        self.enhanced = enhanced
        self.peer = peer

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
class ConnectionSettings:
    """Where and how to connect: plain values copied from an ``Account``; secrets never appear in ``repr``."""

    host: str
    port: int
    #: ``tls`` | ``starttls`` | ``none``.
    security: str
    #: ``password`` | ``xoauth2`` | ``none``.
    auth_method: str
    user: str = ""
    password: str = field(default="", repr=False)
    #: Access token for XOAUTH2.
    token: str = field(default="", repr=False)
    #: ``full`` | ``envelope`` | ``off`` | ``auto``; ``auto`` = envelope for the first three messages, then full.
    pipelining: str = "auto"
    #: Messages before the connection is retired.
    max_messages: int = 100
    #: Seconds for a command's reply (connect, TLS and authentication together have three times this).
    timeout: float = 60.0
    #: Seconds for the final reply; the time that the size needs is added to it.
    final_timeout: float = 600.0
    #: PEM bundle, or None for the system's.
    tls_ca_file: str | None = None
    #: Host names and networks to which clear text is allowed (credentials in clear: loopback only, whatever this says).
    cleartext_hosts: tuple[str, ...] = ("localhost", "127.0.0.0/8", "::1")


class Transport(Protocol):
    """Opens sessions."""

    async def open(self, settings: ConnectionSettings) -> Session:
        """Connect, secure, greet and authenticate.

        Raises:
            ConnectError: it could not be done; ``trouble`` says whose fault that is.
            asyncio.CancelledError: as its ``__cause__`` it may have a ``ConnectError`` that tells how far it had come.
        """
