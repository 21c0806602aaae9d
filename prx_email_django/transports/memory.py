"""The public test double: keeps messages in memory, and fails as it is told.

    transport = MemoryTransport()
    transport.refuse("nobody@example.org")
    transport.fail_next("mail", "451 4.3.0 try again later")
    …
    assert transport.delivered[0].message["Subject"] == "Hello"

With ``TRANSPORT = "memory"`` everything goes to ``shared``.
"""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

from prx_email_django.rules.outcomes import Phase
from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage
from prx_email_django.transports.local import LocalSession
from prx_email_django.transports.scripted import Failure, Script, parse
from prx_email_django.transports.smtp.commands import Extensions

PEER = "memory"


@dataclass(frozen=True, slots=True)
class Delivered:
    """One accepted message."""

    sender: str
    #: Those of the envelope that were accepted.
    recipients: tuple[str, ...]
    #: As it would have gone over the wire.
    body: bytes
    #: Number of the session, from 1.
    connection: int

    @property
    def message(self) -> EmailMessage:
        """The body, parsed."""
        return message_from_bytes(self.body, policy=policy.default)


class MemoryTransport:
    """``Transport`` into a list; may be scripted and read from any thread."""

    def __init__(self, *, size_limit: int = 0) -> None:
        #: Accepted messages, in order.
        self.delivered: list[Delivered] = []
        #: Logins of the sessions that were opened, in order.
        self.logins: list[ConnectionSettings] = []
        #: Octets that a message may have; 0: any.
        self.size_limit = size_limit
        self._script = Script()

    def fail_next(
        self, phase: Phase | str, reply: str = "", *, timeout: bool = False, accept: bool = False, times: int = 1
    ) -> None:
        """Let the next ``times`` attempts that get so far fail in this phase.

        ``reply`` is judged as a server's would be (``"451 4.3.0 later"``, ``"550 5.7.1 no"``, ``"421 bye"``).  Without
        one the connection is lost, or with ``timeout`` the reply does not come: in the body phase an unknown outcome,
        which ``accept`` delivers all the same.  In the phases connect, tls and auth no session is opened.  Several
        failures are met in the order in which they were asked for.

        Raises:
            ValueError: no such phase, or the reply is not one.
        """
        failure = Failure(Phase(phase), parse(reply) if reply else None, timeout=timeout, accept=accept)
        self._script.add(failure, times=times)

    def refuse(self, address: str, reply: str = "550 5.1.1 no such user") -> None:
        """Refuse this recipient for good."""
        self._script.set_answer(address, reply)

    def defer(self, address: str, reply: str = "450 4.2.1 try again later") -> None:
        """Refuse this recipient for now."""
        self._script.set_answer(address, reply)

    def reset(self) -> None:
        """Forget messages, logins and script."""
        self.delivered.clear()
        self.logins.clear()
        self._script.clear()
        self.size_limit = 0

    async def open(self, settings: ConnectionSettings) -> LocalSession:
        """Open a session.

        Raises:
            ConnectError: ``fail_next`` asked for it.
        """
        self._script.check_opening(PEER)
        self.logins.append(settings)
        number = len(self.logins)

        def deliver(outgoing: OutgoingMessage, recipients: tuple[str, ...]) -> None:
            self.delivered.append(Delivered(outgoing.sender, recipients, outgoing.body, number))

        extensions = Extensions(size=True, size_limit=self.size_limit, eight_bit=True, utf8=True)
        return LocalSession(deliver=deliver, settings=settings, extensions=extensions, script=self._script, peer=PEER)


#: The one that ``TRANSPORT = "memory"`` uses.
shared = MemoryTransport()
