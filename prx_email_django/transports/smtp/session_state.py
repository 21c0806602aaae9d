"""What one connection is in the middle of: the messages under way, what was counted, and how they are reported."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from prx_email_django.rules.outcomes import Outcome, Phase
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage, envelope
from prx_email_django.transports.smtp.mail_transaction import MailTransaction, end_of
from prx_email_django.transports.smtp.protocol import SmtpProtocol
from prx_email_django.transports.smtp.replies import Reply, judge

#: Messages that ``auto`` sends before it overlaps.
TRIAL_MESSAGES = 3
#: Refusals after which a connection is given up: from about there on Postfix slows down, and at twenty it hangs up.
MAX_REFUSALS = 10
#: Octets a second that an upload must reach on average before its deadline passes.
MIN_RATE = 32768


class SessionEnded(Exception):
    """The session ends here; what was decided has been reported."""

    def __init__(self, end: SessionEnd) -> None:
        super().__init__(end.error)
        self.end = end


class SessionState:
    """State of one connection from its first message to its end."""

    def __init__(
        self, protocol: SmtpProtocol, *, extensions: Extensions, settings: ConnectionSettings, peer: str
    ) -> None:
        self.protocol = protocol
        self.settings = settings
        self.peer = peer
        self.feed: Feed
        self._extensions = extensions
        self._level = settings.pipelining if extensions.pipelining else "off"
        #: One command at a time.
        self.stepwise = self._level == "off"
        #: The oldest message with something unanswered, and the one whose envelope was written behind its body.
        self.current: MailTransaction | None = None
        self.ahead: MailTransaction | None = None
        self.begun = 0
        #: Transactions that ended with a final reply.
        self.completed = 0
        self.refusals = 0
        #: The server still holds an envelope that came to nothing: RSET goes before the next MAIL.
        self.must_reset = False
        self._overlaps = 0
        #: The first overlapped write is not fully answered yet.
        self.on_trial = False

    @property
    def retired(self) -> bool:
        """Whether the next message belongs on a fresh connection."""
        return self.begun >= self.settings.max_messages or self.refusals >= MAX_REFUSALS

    def begin(self, outgoing: OutgoingMessage) -> MailTransaction | None:
        """Judge a parcel just before its MAIL is written; None: it has been reported already."""
        transaction = MailTransaction(outgoing)
        try:
            transaction.commands = envelope(outgoing, self._extensions)
        except UnsupportedMessage as unsupported:
            self.feed.report(outgoing, transaction.unsupported(unsupported, self.peer))
            return None
        if not outgoing.may_write():
            self.feed.report(outgoing, transaction.untouched(self.peer))
            return None
        self.begun += 1
        if self.must_reset:
            self.must_reset = False
            transaction.commands.insert(0, b"RSET\r\n")
        return transaction

    def look_ahead(self) -> MailTransaction | None:
        """The next message, if its envelope may go behind the body that is about to be written."""
        overlap = self._level == "full" or (self._level == "auto" and self.completed >= TRIAL_MESSAGES)
        if not overlap or self.retired:
            return None
        while self.ahead is None and (outgoing := self.feed.take()) is not None:
            self.ahead = self.begin(outgoing)
        if self.ahead is not None:
            self._overlaps += 1
            self.on_trial = self._overlaps == 1
        return self.ahead

    async def ask(self, command: bytes) -> Reply:
        """The reply to a command, which is written now only where nothing may be written ahead."""
        if self.stepwise:
            self.protocol.write(command, 1)
        return await self.protocol.reply()

    async def reset(self) -> None:
        """RSET where one goes step by step: before a parcel is taken, so that MAIL follows its judgement at once."""
        if self.stepwise and self.must_reset:
            self.must_reset = False
            self.heed_reset(await self.ask(b"RSET\r\n"))

    def heed_reset(self, reply: Reply) -> None:
        """Go on after RSET's 2yz.

        Raises:
            Over: the server may still have recipients of before; the message behind RSET is released.
        """
        if reply.code < 300:
            return
        if self.current is not None:
            self.report(self.current, self.current.untouched(self.peer, str(reply)))
        raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))

    def deadline(self, octets: int = 0) -> float:
        """When the final reply to a body of so many octets must be there, in the loop's time."""
        return asyncio.get_running_loop().time() + self.settings.final_timeout + octets / MIN_RATE

    # Reporting

    def report(self, transaction: MailTransaction, outcome: Outcome) -> None:
        """Report a message: it is under way no more."""
        if transaction is self.current:
            self.current = None
        elif transaction is self.ahead:
            self.ahead = None
        self.feed.report(transaction.outgoing, outcome)

    def fail(self, transaction: MailTransaction, reply: Reply) -> None:
        """Report a message that a reply ended.

        Raises:
            Over: the reply ends the session too.
        """
        verdict = judge(transaction.phase, reply, completed=self.completed > 0)
        self.refusals += 1
        if transaction.phase is Phase.BODY and reply.code >= 400 and reply.code != 421:
            self.completed += 1
        self.report(transaction, transaction.failed(verdict, reply, self.peer))
        if verdict.over:
            muddled = self.on_trial and verdict.muddled and reply.code != 421
            raise SessionEnded(replace(end_of(verdict, str(reply)), overlap_lost=muddled))

    def note(self, reply: Reply) -> None:
        """Count a reply that decides nothing any more.

        Raises:
            Over: it is a 421.
        """
        if reply.code >= 400:
            self.refusals += 1
        if reply.code == 421:
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
