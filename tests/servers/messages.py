"""What is sent to real servers, which of it is to arrive, and a look into the mailbox."""

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
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.servers.daemons import wait_until
from tests.support.outgoing_messages import ListFeed, run_session

#: On one connection.
COUNT = 210
#: Numbers of the letters that go to a good address too, and to nobody else.
REFUSED_TOO, DEFERRED_TOO, REFUSED_ALONE, DEFERRED_ALONE = {5, 80}, {30, 120}, {55}, {100}
#: Lines that a careless body phase would damage: dots at their beginning, a lone dot, a long one.
TEXT = "\r\n".join(["Dear reader,", ".", "..", ".one dot", "x" * 900, "last line", ""])


def outgoing_messages(run: str, *, count: int = COUNT) -> list[OutgoingMessage]:
    """Letters 0 to ``count``; some have a recipient that is refused or deferred."""
    return [_parcel(run, number, _recipients(run, number)) for number in range(count)]


def troubled_parcels(run: str, *, count: int = 60) -> list[OutgoingMessage]:
    """Every letter has a recipient that is refused beside a good one: more than any server bears on one connection."""
    return [_parcel(run, number, (f"ok-{run}-{number}", f"refused-{run}-{number}")) for number in range(count)]


def _recipients(run: str, number: int) -> tuple[str, ...]:
    good = () if number in REFUSED_ALONE | DEFERRED_ALONE else (f"ok-{run}-{number}",)
    refused = (f"refused-{run}-{number}",) if number in REFUSED_TOO | REFUSED_ALONE else ()
    deferred = (f"deferred-{run}-{number}",) if number in DEFERRED_TOO | DEFERRED_ALONE else ()
    return (*refused, *good, *deferred)


def _parcel(run: str, number: int, names: Iterable[str]) -> OutgoingMessage:
    head = f"From: ann@example.com\r\nTo: {run}@example.org\r\nSubject: letter {number}\r\nX-Letter: {run}-{number}\r\n"
    head += f"Message-ID: <{run}-{number}@example.com>\r\nDate: Mon, 05 Jan 2026 12:00:00 +0000\r\n"
    addresses = tuple(f"{name}@example.org" for name in names)
    return OutgoingMessage(id=number, sender="ann@example.com", recipients=addresses, body=f"{head}\r\n{TEXT}".encode())


def send(
    login: ConnectionSettings, outgoing_messages: Sequence[OutgoingMessage]
) -> tuple[dict[int, Outcome], list[SessionEnd]]:
    """Over one connection after another, until nothing is left."""
    feed, ends = ListFeed(outgoing_messages), []
    while feed.left:
        ends.append(asyncio.run(run_session(SmtpTransport(), login, feed)))
    return feed.outcomes, ends


def check_outcomes(outgoing_messages: Sequence[OutgoingMessage], outcomes: dict[int, Outcome]) -> None:
    """Each recipient has the answer that its name asks for, each letter the ending that follows."""
    wanted = {"ok": Answer.ACCEPTED, "refused": Answer.REFUSED, "deferred": Answer.DEFERRED}
    for outgoing in outgoing_messages:
        answers = {address: wanted[address.partition("-")[0]] for address in outgoing.recipients}
        outcome = outcomes[outgoing.id]
        assert {address: one.answer for address, one in outcome.recipients.items()} == answers
        if Answer.ACCEPTED in answers.values():
            assert outcome.ending is Ending.ACCEPTED, outcome
        elif Answer.DEFERRED in answers.values():
            assert outcome.ending is Ending.TEMPORARY, outcome
        else:
            assert outcome.ending is Ending.PERMANENT, outcome


def good_addresses(outgoing_messages: Iterable[OutgoingMessage]) -> list[str]:
    """Those that must get the letter, each once."""
    return [address for outgoing in outgoing_messages for address in outgoing.recipients if address.startswith("ok-")]


@dataclass(slots=True)
class Mailbox:
    """A maildir that takes the mail of everybody."""

    path: Path
    log: Path
    _read: dict[Path, bytes] = field(default_factory=dict)

    def letters(self) -> list[bytes]:
        """What has arrived so far."""
        for file in self.path.glob("new/*"):
            if file not in self._read:
                self._read[file] = file.read_bytes()
        return list(self._read.values())

    def check(self, good: Sequence[str], run: str) -> None:
        """Wait for a run's letters: each good address has its letter once and whole, nobody else has any."""
        wait_until(lambda: len(self.of(run)) >= len(good), what=f"{len(good)} letters of {run}", log=self.log)
        letters = self.of(run)
        assert Counter(map(delivered_to, letters)) == Counter(good)
        assert {text_of(letter) for letter in letters} == {TEXT.replace("\r\n", "\n")}

    def of(self, run: str) -> list[bytes]:
        """A run's letters."""
        mark = f"X-Letter: {run}-".encode()
        return [letter for letter in self.letters() if mark in letter]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the ways to log in, and where its mail goes."""

    logins: dict[str, ConnectionSettings]
    mailbox: Mailbox


def delivered_to(letter: bytes) -> str:
    """The envelope recipient, as the server has noted it."""
    found = re.search(rb"^(?:Delivered-To|Envelope-To): <?([^>\s]+)", letter, re.MULTILINE | re.IGNORECASE)
    return found[1].decode() if found else ""


def text_of(letter: bytes) -> str:
    """The text, decoded, with plain line ends."""
    message = email.message_from_bytes(letter, policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    return str(message.get_content()).replace("\r\n", "\n")


def at_level(login: ConnectionSettings, level: str) -> ConnectionSettings:
    """The same way in, with a level of pipelining."""
    return replace(login, pipelining=level)
