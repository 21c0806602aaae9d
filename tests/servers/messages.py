"""The messages that are sent to real servers, their expected outcomes, and the mailbox that receives them."""

from __future__ import annotations

import asyncio
import email.message
import email.policy
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prx_email_django.rules.outcomes import Answer, Ending, Outcome
from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage, SessionEnd
from prx_email_django.transports.found import FoundOut
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.servers.daemons import wait_until
from tests.support.outgoing_messages import ListFeed, run_session

#: Messages on one connection.
COUNT = 210
#: Numbers of the messages with a refused or deferred recipient beside a good one, and with no good one.
REFUSED_TOO, DEFERRED_TOO, REFUSED_ALONE, DEFERRED_ALONE = {5, 80}, {30, 120}, {55}, {100}
#: Lines that a wrong DATA phase would damage: dots at their beginning, a lone dot, a long line.
TEXT = "\r\n".join(["Dear reader,", ".", "..", ".one dot", "x" * 900, "last line", ""])


def outgoing_messages(run: str, *, count: int = COUNT) -> list[OutgoingMessage]:
    """Messages from 0 to ``count`` - 1; some have a recipient that is refused or deferred."""
    return [_outgoing(run, number, _recipients(run, number)) for number in range(count)]


def messages_with_refusals(run: str, *, count: int = 60) -> list[OutgoingMessage]:
    """Messages with a refused recipient beside a good one: more refusals than a server accepts on one connection."""
    return [_outgoing(run, number, (f"ok-{run}-{number}", f"refused-{run}-{number}")) for number in range(count)]


def _recipients(run: str, number: int) -> tuple[str, ...]:
    good = () if number in REFUSED_ALONE | DEFERRED_ALONE else (f"ok-{run}-{number}",)
    refused = (f"refused-{run}-{number}",) if number in REFUSED_TOO | REFUSED_ALONE else ()
    deferred = (f"deferred-{run}-{number}",) if number in DEFERRED_TOO | DEFERRED_ALONE else ()
    return (*refused, *good, *deferred)


def _outgoing(run: str, number: int, names: Iterable[str]) -> OutgoingMessage:
    head = f"From: ann@example.com\r\nTo: {run}@example.org\r\nSubject: message {number}\r\n"
    head += f"X-Test-Message: {run}-{number}\r\n"
    head += f"Message-ID: <{run}-{number}@example.com>\r\nDate: Mon, 05 Jan 2026 12:00:00 +0000\r\n"
    addresses = tuple(f"{name}@example.org" for name in names)
    return OutgoingMessage(id=number, sender="ann@example.com", recipients=addresses, body=f"{head}\r\n{TEXT}".encode())


def send(
    settings: ConnectionSettings, outgoing_messages: Sequence[OutgoingMessage]
) -> tuple[dict[int, Outcome], list[SessionEnd]]:
    """Send over one connection after another until no message is left."""
    feed, ends = ListFeed(outgoing_messages), []
    while feed.left:
        ends.append(asyncio.run(run_session(SmtpTransport(), settings, feed)))
    return feed.outcomes, ends


def check_outcomes(outgoing_messages: Sequence[OutgoingMessage], outcomes: dict[int, Outcome]) -> None:
    """Assert that each recipient has the answer that its name says, and each message the ending that follows."""
    wanted = {"ok": Answer.ACCEPTED, "refused": Answer.REFUSED, "deferred": Answer.DEFERRED}
    for outgoing in outgoing_messages:
        answers = {address: wanted[address.partition("-")[0]] for address in outgoing.recipients}
        outcome = outcomes[outgoing.id]
        assert {address: recipient.answer for address, recipient in outcome.recipients.items()} == answers
        if Answer.ACCEPTED in answers.values():
            assert outcome.ending is Ending.ACCEPTED, outcome
        elif Answer.DEFERRED in answers.values():
            assert outcome.ending is Ending.TEMPORARY, outcome
        else:
            assert outcome.ending is Ending.PERMANENT, outcome


def good_addresses(outgoing_messages: Iterable[OutgoingMessage]) -> list[str]:
    """The addresses that must receive the message, each once."""
    return [address for outgoing in outgoing_messages for address in outgoing.recipients if address.startswith("ok-")]


@dataclass(slots=True)
class Mailbox:
    """A maildir that receives the mail of all recipients."""

    path: Path
    log: Path
    _read: dict[Path, bytes] = field(default_factory=dict)

    def messages(self) -> list[bytes]:
        """All messages that have arrived so far."""
        for file in self.path.glob("new/*"):
            if file not in self._read:
                self._read[file] = file.read_bytes()
        return list(self._read.values())

    def check(self, good: Sequence[str], run: str) -> None:
        """Wait for a run's messages; each good address must have its message once and whole, others none."""
        wait_until(lambda: len(self.of(run)) >= len(good), what=f"{len(good)} messages of {run}", log=self.log)
        messages = self.of(run)
        assert Counter(map(delivered_to, messages)) == Counter(good)
        assert {text_of(message) for message in messages} == {TEXT.replace("\r\n", "\n")}

    def of(self, run: str) -> list[bytes]:
        """The messages of a run."""
        mark = f"X-Test-Message: {run}-".encode()
        return [message for message in self.messages() if mark in message]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: connection settings by the name of the security and mechanism, and its mailbox."""

    settings: dict[str, ConnectionSettings]
    mailbox: Mailbox


def delivered_to(message: bytes) -> str:
    """The envelope recipient, from the header field that the server added."""
    found = re.search(rb"^(?:Delivered-To|Envelope-To): <?([^>\s]+)", message, re.MULTILINE | re.IGNORECASE)
    return found[1].decode() if found else ""


def text_of(message: bytes) -> str:
    """The decoded text with LF line ends."""
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert isinstance(parsed, email.message.EmailMessage)
    return str(parsed.get_content()).replace("\r\n", "\n")


def at_level(settings: ConnectionSettings, level: str) -> ConnectionSettings:
    """The same settings with another pipelining level, and nothing found out about the server."""
    return replace(settings, pipelining=level, max_in_flight=16, found=FoundOut())
