"""Rules of the scripted SMTP server: at each stage the first rule that matches decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: Stages at which a rule can apply.  ``bdat``: BDAT without recipients; with recipients it is ``final``.
#: ``greeting``: on connecting.  ``body``: after ``after`` bytes of the body.
#: ``final``: after the final dot; ``dot``: after a dot without recipients.  ``rcpt`` and ``mail`` may name an address.
STAGES = frozenset(
    (
        "greeting",
        "ehlo",
        "helo",
        "starttls",
        "auth",
        "mail",
        "rcpt",
        "data",
        "bdat",
        "body",
        "final",
        "dot",
        "rset",
        "quit",
        "noop",
    )
)


@dataclass(slots=True, eq=False)
class Rule:
    """One misbehaviour; ``hits`` counts how often it was applied, and ``reached`` is set the first time."""

    stage: str
    #: Reply line(s) instead of the usual one, without the last CRLF; one that starts with 421 closes the connection.
    reply: str | None = None
    #: Bytes to send instead of a reply, without change.
    raw: bytes | None = None
    #: Close without a reply (after ``raw``, if given); ``reset`` does it by RST.
    drop: bool = False
    reset: bool = False
    #: For ``final``: accept the message although the connection is dropped or the reply says otherwise.
    accept: bool = False
    #: Seconds before the answer.
    delay: float = 0.0
    #: Send nothing until ``SmtpServer.release``.
    stall: bool = False
    #: Only for this envelope address (``mail``, ``rcpt``).
    address: str | None = None
    #: Only the nth time (from 1) that this stage is reached, counted over all connections.
    nth: int | None = None
    #: Only on this connection (from 1).
    connection: int | None = None
    #: How often the rule applies; None: always.
    times: int | None = None
    #: For ``body``: apply when so many bytes have arrived.
    after: int = 0
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _waiting: list[Callable[[], None]] = field(default_factory=list)
    _released: bool = False

    def matches(self, *, count: int, connection: int, address: str) -> bool:
        """Whether this rule applies now."""
        return (
            (self.times is None or self.hits < self.times)
            and (self.nth is None or self.nth == count)
            and (self.connection is None or self.connection == connection)
            and (self.address is None or self.address == address)
        )

    def hold(self, resume: Callable[[], None]) -> None:
        """Keep ``resume`` until the rule is released (called by the server)."""
        if self._released:
            resume()
        else:
            self._waiting.append(resume)

    def release(self) -> None:
        """Resume what waits, and stall no more (called on the server's event loop)."""
        self._released = True
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()


@dataclass(frozen=True, slots=True)
class Received:
    """A message that the server accepted."""

    sender: str
    recipients: tuple[str, ...]
    #: Without dot-stuffing and final dot.
    data: bytes
    #: Number of the connection, from 1.
    connection: int
    #: Parameters of MAIL, as sent.
    options: tuple[str, ...] = ()
