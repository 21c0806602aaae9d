"""What a server says, read and judged.  Pure: octets in, values out; no sockets, no clock, no settings.

Replies are RFC 5321 §4.2 with the enhanced codes of RFC 3463.  Most are judged by their first digit; the exceptions
are rows of ``READINGS``, each with the servers that it came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from prx_email_django.rules.outcomes import Answer, Ending, Phase, Trouble
from prx_email_django.rules.text import clean

#: Octets of one reply line; RFC 5321 §4.5.3.1.5 says 512, servers say more.
MAX_LINE = 8192
#: Lines of one reply.
MAX_LINES = 100

_ENHANCED = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


class MalformedReply(ValueError):
    """What came is not an SMTP reply, or exceeds the bounds; ``str()`` is for people."""


class Reply:
    """One reply: its code, and its lines without code and line end."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: list[bytes]) -> None:
        self.code = code
        self.lines = lines

    @property
    def enhanced(self) -> str:
        """Enhanced code of the first line (``5.1.1``), or ``""``."""
        match = _ENHANCED.match(self.lines[0])
        return match[1].decode("ascii") if match else ""

    @property
    def text(self) -> str:
        """The lines in one, without the enhanced codes of the later ones; cleaned."""
        lines = self.lines
        if len(lines) > 1:
            lines = [lines[0], *(_ENHANCED.sub(b"", line, count=1) for line in lines[1:])]
        return clean(b" ".join(lines).decode("utf-8", "replace"))

    def __str__(self) -> str:
        return clean(f"{self.code} {self.text}")

    def __repr__(self) -> str:
        return f"<Reply {self}>"


class ReplyParser:
    """Cuts what was received into replies; keeps no more than one unfinished reply within the bounds."""

    __slots__ = ("_code", "_kept", "_lines", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._code = 0
        self._lines: list[bytes] = []
        #: Octets of those lines.
        self._kept = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete with this.

        Raises:
            Garbage: not a reply, a line or a reply too long; nothing more can be read from this connection.
        """
        replies: list[Reply] = []
        self.feed_into(data, replies)
        return replies

    def feed_into(self, data: bytes, replies: list[Reply]) -> None:
        """As ``feed``, but adds to a list: it then has what came before the garbage."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            reply = self._line(line)
            if reply is not None:
                replies.append(reply)
        if len(self._rest) > MAX_LINE:
            raise MalformedReply("reply line too long")

    def _line(self, line: bytes) -> Reply | None:
        if len(line) > MAX_LINE:
            raise MalformedReply("reply line too long")
        if line.endswith(b"\r"):
            line = line[:-1]
        digits, mark = line[:3], line[3:4]
        if not (digits.isdigit() and b"200" <= digits < b"600" and len(digits) == 3 and mark in b" -"):
            raise MalformedReply(clean("not an SMTP reply: " + line[:80].decode("utf-8", "replace")))
        code = int(digits)
        if not self._lines and mark != b"-":
            return Reply(code, [line[4:]])
        if self._lines and code != self._code:
            raise MalformedReply("a reply whose lines have different codes")
        self._code = code
        # No text needs more, and there may be as many replies as a message has recipients.
        self._lines.append(line[4:] if self._kept < MAX_LINE else b"")
        self._kept += len(line)
        if len(self._lines) > MAX_LINES:
            raise MalformedReply("reply of too many lines")
        if mark == b"-":
            return None
        reply = Reply(code, self._lines)
        self._lines, self._kept = [], 0
        return reply


class Meaning(Enum):
    """What a negative reply is about, where its first digit does not tell."""

    #: This session has had its share.
    SESSION = "session"
    #: Who we are is not (or no longer) accepted.
    SIGNED_OUT = "signed_out"
    #: The account may send no more for now.
    QUOTA = "quota"
    #: Passes by itself although it may come as 5yz.
    PASSING = "passing"
    #: Too many recipients in this transaction.
    TOO_MANY = "too_many"
    #: Commands came in an order that the server did not expect: the session's matter, not the message's.
    SEQUENCE = "sequence"
    #: As the first digit says.
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Reading:
    """A row: a negative reply with one of ``codes``, one of ``enhanced`` and ``words`` (empty: any) means this."""

    meaning: Meaning
    phases: frozenset[Phase]
    codes: frozenset[int] = frozenset()
    enhanced: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None

    def fits(self, phase: Phase, reply: Reply) -> bool:
        """Whether the row speaks of this reply."""
        return (
            phase in self.phases
            and (not self.codes or reply.code in self.codes)
            and (not self.enhanced or reply.enhanced in self.enhanced)
            and (self.words is None or self.words.search(reply.text) is not None)
        )


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_MAIL, _RCPT = frozenset({Phase.MAIL}), frozenset({Phase.RCPT})
_ALL = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.BODY})
_COMMANDS = _ALL - {Phase.BODY}

#: First match wins.
READINGS: tuple[Reading, ...] = (
    # RFC 5321 §4.5.3.1.10; Gmail and Exchange 452 4.5.3, Postfix 452 4.5.3, others 552 5.5.3.
    Reading(Meaning.TOO_MANY, _RCPT, frozenset({452, 552}), frozenset({"4.5.3", "5.5.3"})),
    Reading(Meaning.TOO_MANY, _RCPT, frozenset({452, 552}), words=_words("too many recipients")),
    # A full mailbox may have room tomorrow (RFC 3463 §3.3: "persistent transient").
    Reading(Meaning.PASSING, _ALL, enhanced=frozenset({"4.2.2", "5.2.2"})),
    # A message too large for this recipient stays too large; any other 552 at RCPT is the old "too many recipients".
    Reading(Meaning.PLAIN, _RCPT, frozenset({552}), frozenset({"5.3.4", "5.2.3"})),
    Reading(Meaning.PASSING, _RCPT, frozenset({552})),
    # Exchange Online 5.7.30 (basic authentication switched off), 5.7.57 (not authenticated), 5.7.139 (disabled).
    Reading(Meaning.SIGNED_OUT, _ALL, frozenset({530, 535, 538})),
    Reading(Meaning.SIGNED_OUT, _ALL, enhanced=frozenset({"5.7.30", "5.7.57", "5.7.139"})),
    Reading(Meaning.SIGNED_OUT, _MAIL, words=_words("authentication (is )?required|not authenticated")),
    # Gmail 5.4.5; Exchange 5.7.233 (tenant), 5.1.90 (recipients a day), 5.2.251-255 (continuous errors).
    Reading(Meaning.QUOTA, _ALL, enhanced=frozenset({"5.4.5", "5.7.233", "5.1.90"})),
    Reading(Meaning.QUOTA, _ALL, enhanced=frozenset(f"5.2.{last}" for last in range(251, 256))),
    # "Daily user sending limit exceeded", "Peak SMTP relay limit exceeded", SES "Throttling failure: …",
    # Exchange "554 5.2.0 … SubmissionQuotaExceededException".
    Reading(
        Meaning.QUOTA,
        _ALL,
        words=_words(
            r"sending (limit|quota|rate)|smtp relay (sending )?limit|throttling failure"
            r"|(daily|hourly) (user |smtp |message |email |recipient |mail )*(limit|quota)"
            r"|submission ?quota"
        ),
    ),
    # Gmail 421/451 4.4.5, Yahoo and others in words.
    Reading(Meaning.SESSION, _COMMANDS, enhanced=frozenset({"4.4.5"})),
    Reading(Meaning.SESSION, _COMMANDS - _RCPT, words=_words("too many messages")),
    Reading(Meaning.SESSION, _RCPT, words=_words("too many messages.*(session|connection)")),
    # "503 nested MAIL", Postfix "554 5.5.0 SMTP protocol synchronization", Exim "SMTP synchronization error".
    Reading(Meaning.SEQUENCE, frozenset({Phase.MAIL, Phase.DATA}), frozenset({503})),
    Reading(Meaning.SEQUENCE, _ALL, words=_words("synchroni[sz]ation|improper (use of )?(command )?pipelining")),
)


def read(phase: Phase, reply: Reply) -> Meaning:
    """What a negative reply in this phase is about."""
    if reply.code < 400:
        return Meaning.PLAIN
    return next((row.meaning for row in READINGS if row.fits(phase, reply)), Meaning.PLAIN)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply or a loss means: for the message, for the account, and whether the session is over by it."""

    ending: Ending
    trouble: Trouble = Trouble.NONE
    error_code: str = "provider"
    #: Nothing more may be written on this connection.
    over: bool = False

    @property
    def muddled(self) -> bool:
        """Whether client and server may have lost step with each other."""
        return self.over and self.ending in (Ending.TEMPORARY, Ending.UNKNOWN) and self.trouble is not Trouble.QUOTA


def judge(phase: Phase, reply: Reply, *, completed: bool) -> Verdict:
    """Judge a reply that ends the attempt: one that is not the success of its phase, or at RCPT names the session.

    ``completed``: this connection has completed a transaction before.
    """
    meaning = read(phase, reply)
    if meaning is Meaning.QUOTA:
        return Verdict(Ending.TEMPORARY, Trouble.QUOTA, over=True)
    if meaning is Meaning.SIGNED_OUT:
        return Verdict(Ending.UNTOUCHED, Trouble.AUTH, error_code="auth", over=True)
    if completed and (meaning is Meaning.SESSION or (reply.code == 421 and phase is Phase.MAIL)):
        return Verdict(Ending.UNTOUCHED, over=True)
    if reply.code == 421:
        return Verdict(Ending.TEMPORARY, Trouble.CONNECTION, over=True)
    if reply.code < 400:
        return _judge_odd(phase)
    if meaning is Meaning.SEQUENCE:
        return Verdict(Ending.TEMPORARY, over=True)
    if reply.code < 500 or meaning in (Meaning.PASSING, Meaning.SESSION):
        return Verdict(Ending.TEMPORARY, over=meaning is Meaning.SESSION)
    return Verdict(Ending.PERMANENT)


def _judge_odd(phase: Phase) -> Verdict:
    """A positive reply of the wrong kind: client and server no longer speak of the same command."""
    if phase is Phase.BODY:
        return Verdict(Ending.UNKNOWN, Trouble.CONNECTION, error_code="unknown_outcome", over=True)
    return Verdict(Ending.TEMPORARY, Trouble.CONNECTION, over=True)


def names_session(phase: Phase, reply: Reply) -> bool:
    """Whether an answer to one RCPT is really about the session as a whole, or makes no sense there (3yz)."""
    if 300 <= reply.code < 400 or reply.code == 421:
        return True
    return read(phase, reply) in (Meaning.SESSION, Meaning.SIGNED_OUT, Meaning.SEQUENCE)


def answer(reply: Reply) -> Answer:
    """What a reply to RCPT says of its recipient; ``ACCEPTED`` still needs the final 250."""
    if 200 <= reply.code < 300:
        return Answer.ACCEPTED
    meaning = read(Phase.RCPT, reply)
    if meaning is Meaning.TOO_MANY:
        return Answer.TOO_MANY
    if reply.code < 500 or meaning in (Meaning.PASSING, Meaning.QUOTA):
        return Answer.DEFERRED
    return Answer.REFUSED


@dataclass(frozen=True, slots=True)
class Loss:
    """How a connection came to its end without a reply."""

    #: For people; cleaned.
    text: str
    #: ``network`` (closed or reset), ``timeout``, ``provider`` (it spoke garbage).
    error_code: str
    #: The server closed it, and had said nothing wrong.
    hung_up: bool = False
    #: We closed it.
    ours: bool = False


def judge_loss(phase: Phase, loss: Loss, *, completed: bool, dot_written: bool, behind: bool = False) -> Verdict:
    """Judge a connection that ended while this message's envelope or body was open.

    ``dot_written``: the end of the body was handed to the system, so that the server may have all of it (RFC 1047).
    ``behind``: the envelope was sent behind the unanswered body of another message.
    """
    code = loss.error_code
    if phase is Phase.BODY and dot_written:
        trouble = Trouble.NONE if loss.ours else Trouble.CONNECTION
        return Verdict(Ending.UNKNOWN, trouble, error_code="unknown_outcome", over=True)
    if behind or loss.ours or (phase is Phase.MAIL and completed and loss.hung_up):
        return Verdict(Ending.UNTOUCHED, error_code=code, over=True)
    return Verdict(Ending.TEMPORARY, Trouble.CONNECTION, error_code=code, over=True)
