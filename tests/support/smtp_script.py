"""What a scripted SMTP server does where: rules, the first one that matches a stage decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds for what must happen: the machine may stand still for a while, and that is nobody's failure.
PATIENCE = 60.0
#: Where a rule can bite.  ``greeting``: on connecting.  ``body``: once ``after`` octets of the body are there.
#: ``final``: after the final dot; ``dot``: after one for nobody.  ``rcpt`` and ``mail`` can be narrowed to an address.
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
    """One misbehaviour; ``hits`` counts how often it was met, ``reached`` is set on the first."""

    stage: str
    #: Reply line(s) instead of the usual one, without the last CRLF; one that starts with 421 closes the connection.
    reply: str | None = None
    #: Octets to send as they are instead of a reply.
    raw: bytes | None = None
    #: Close without a reply (after ``raw``, if given); ``reset`` does it by RST.
    drop: bool = False
    reset: bool = False
    #: For ``final``: take the message although the connection is dropped or the reply says otherwise.
    accept: bool = False
    #: Seconds before the answer.
    delay: float = 0.0
    #: Say nothing until ``release()``.
    stall: bool = False
    #: Only for this envelope address (``mail``, ``rcpt``).
    address: str | None = None
    #: Only the nth time (from 1) that this stage is met, counted over all connections.
    nth: int | None = None
    #: Only on this connection (from 1).
    connection: int | None = None
    #: How often the rule bites; None: always.
    times: int | None = None
    #: For ``body``: bite when so many octets have come.
    after: int = 0
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _waiting: list[Callable[[], None]] = field(default_factory=list)
    _released: bool = False

    def matches(self, *, count: int, connection: int, address: str) -> bool:
        """Whether this rule bites now."""
        return (
            (self.times is None or self.hits < self.times)
            and (self.nth is None or self.nth == count)
            and (self.connection is None or self.connection == connection)
            and (self.address is None or self.address == address)
        )

    def hold(self, resume: Callable[[], None]) -> None:
        """Called by the server: keep a connection until released."""
        if self._released:
            resume()
        else:
            self._waiting.append(resume)

    def let_go(self) -> None:
        """Called on the server's loop: resume what waits, and stall no more."""
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
