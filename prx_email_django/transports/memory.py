"""Transport for tests: it keeps messages in memory, and fails where a test asks for a failure.

    transport = MemoryTransport()
    transport.refuse("nobody@example.org")
    transport.fail_next("mail", "451 4.3.0 try again later")
    …
    assert transport.delivered[0].message["Subject"] == "Hello"

With ``TRANSPORT = "memory"`` all messages go to ``shared``.
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
    #: The accepted recipients of the envelope.
    recipients: tuple[str, ...]
    #: The rendered message (RFC 5322), as SMTP would have transmitted it.
    body: bytes
    #: Number of the session, from 1.
    connection: int

    @property
    def message(self) -> EmailMessage:
        """The parsed body."""
        return message_from_bytes(self.body, policy=policy.default)


class MemoryTransport:
    """``Transport`` that appends to a list; all its methods and attributes may be used from any thread."""

    def __init__(self, *, size_limit: int = 0) -> None:
        #: Accepted messages, in order.
        self.delivered: list[Delivered] = []
        #: The settings of each session that was opened, in order.
        self.opened: list[ConnectionSettings] = []
        #: Largest size of a message in bytes (the server's SIZE); 0: no limit.
        self.size_limit = size_limit
        self._script = Script()

    def fail_next(
        self, phase: Phase | str, reply: str = "", *, timeout: bool = False, accept: bool = False, times: int = 1
    ) -> None:
        """Fail the next ``times`` attempts that reach this phase.

        ``reply`` is judged like the reply of a server (``"451 4.3.0 later"``, ``"550 5.7.1 no"``, ``"421 bye"``).  With
        no reply the connection is lost; with ``timeout`` the reply does not come in time.  In the body phase both have
        an unknown outcome, and ``accept`` delivers the message nevertheless.  In the phases connect, tls and auth no
        session is opened.  Several failures happen in the order in which they were asked for.

        Raises:
            ValueError: there is no such phase, or ``reply`` is not one SMTP reply.
        """
        failure = Failure(Phase(phase), parse(reply) if reply else None, timeout=timeout, accept=accept)
        self._script.add(failure, times=times)

    def refuse(self, address: str, reply: str = "550 5.1.1 no such user") -> None:
        """Refuse this recipient with a permanent reply (5yz) from now on."""
        self._script.set_answer(address, reply)

    def defer(self, address: str, reply: str = "450 4.2.1 try again later") -> None:
        """Refuse this recipient with a temporary reply (4yz) from now on."""
        self._script.set_answer(address, reply)

    def reset(self) -> None:
        """Remove all messages, failures, answers and the size limit."""
        self.delivered.clear()
        self.opened.clear()
        self._script.clear()
        self.size_limit = 0

    async def open(self, settings: ConnectionSettings) -> LocalSession:
        """Open a session.

        Raises:
            ConnectError: ``fail_next`` asked for a failure in one of the phases connect, tls and auth.
        """
        self._script.check_opening(PEER)
        self.opened.append(settings)
        number = len(self.opened)

        def deliver(outgoing: OutgoingMessage, recipients: tuple[str, ...]) -> None:
            self.delivered.append(Delivered(outgoing.sender, recipients, outgoing.body, number))

        extensions = Extensions(size=True, size_limit=self.size_limit, eight_bit=True, utf8=True)
        return LocalSession(deliver=deliver, settings=settings, extensions=extensions, script=self._script, peer=PEER)


#: The transport of ``TRANSPORT = "memory"``.
shared = MemoryTransport()
