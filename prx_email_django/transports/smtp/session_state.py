"""State of one SMTP session: its messages under way, its counters, and the reports to the feed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from prx_email_django.rules.outcomes import Outcome, Phase
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage
from prx_email_django.transports.smtp.protocol import SmtpProtocol
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import judge_reply
from prx_email_django.transports.smtp.transaction_state import MailTransaction, session_end

#: Messages that level ``auto`` sends before it writes a body and the next envelope at once.
TRIAL_MESSAGES = 3
#: Refusals after which a connection is replaced: Postfix slows down after about ten errors, and closes after twenty.
MAX_REFUSALS = 10
#: Bytes a second that an upload must reach on average to end before its deadline.
MIN_RATE = 32768


class SessionEnded(Exception):
    """The session ends by a reply; every message that the reply decided has been reported."""

    def __init__(self, end: SessionEnd) -> None:
        super().__init__(end.error)
        self.end = end


class SessionState:
    """State of one session from its first message to its end."""

    def __init__(
        self, protocol: SmtpProtocol, *, extensions: Extensions, settings: ConnectionSettings, peer: str
    ) -> None:
        self.protocol = protocol
        self.settings = settings
        self.peer = peer
        self.feed: Feed
        self._extensions = extensions
        self._level = settings.pipelining if extensions.pipelining else "off"
        #: Write one command at a time (level ``off``).
        self.stepwise = self._level == "off"
        #: The oldest message that waits for a reply, and the message whose envelope was written behind its body.
        self.current: MailTransaction | None = None
        self.ahead: MailTransaction | None = None
        self.messages_begun = 0
        #: Transactions that ended with a final reply.
        self.completed = 0
        self.refusals = 0
        #: The server still holds the envelope of a message that failed: RSET goes before the next MAIL.
        self.must_reset = False
        self._overlaps = 0
        #: The first write of a body with the next envelope behind it is not fully answered yet.
        self.overlap_on_trial = False

    @property
    def retired(self) -> bool:
        """Whether the next message must go over a new connection."""
        return self.messages_begun >= self.settings.max_messages or self.refusals >= MAX_REFUSALS

    def begin(self, outgoing: OutgoingMessage) -> MailTransaction | None:
        """Start a message whose MAIL is written next.  None: it cannot be written, and has been reported."""
        transaction = MailTransaction(outgoing, self.peer)
        try:
            transaction.prepare(self._extensions)
        except UnsupportedMessage as unsupported:
            self.feed.report(outgoing, transaction.unsupported(unsupported))
            return None
        if not outgoing.may_write():
            self.feed.report(outgoing, transaction.untouched())
            return None
        self.messages_begun += 1
        if self.must_reset:
            self.must_reset = False
            transaction.commands.insert(0, b"RSET\r\n")
        return transaction

    def look_ahead(self) -> MailTransaction | None:
        """Start the next message if its envelope may go behind the body that is written next."""
        overlap = self._level == "full" or (self._level == "auto" and self.completed >= TRIAL_MESSAGES)
        if not overlap or self.retired:
            return None
        while self.ahead is None and (outgoing := self.feed.take()) is not None:
            self.ahead = self.begin(outgoing)
        if self.ahead is not None:
            self._overlaps += 1
            self.overlap_on_trial = self._overlaps == 1
        return self.ahead

    async def ask(self, command: bytes) -> Reply:
        """Return the reply to a command; write the command first unless it was written with the envelope."""
        if self.stepwise:
            self.protocol.write(command, 1)
        return await self.protocol.reply()

    async def reset(self) -> None:
        """Send RSET where commands go one at a time.

        It goes before the next message is taken, so that MAIL follows that message's ``may_write`` immediately.
        """
        if self.stepwise and self.must_reset:
            self.must_reset = False
            self.check_reset(await self.ask(b"RSET\r\n"))

    def check_reset(self, reply: Reply) -> None:
        """Continue if the reply to RSET is positive.

        Raises:
            SessionEnded: the server may still have the earlier recipients; the message behind RSET is released.
        """
        if reply.code < 300:
            return
        if self.current is not None:
            self.report(self.current, self.current.untouched(str(reply)))
        raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))

    def deadline(self, size: int = 0) -> float:
        """The time, on the event loop's clock, by which a body of ``size`` bytes must have its final reply."""
        return asyncio.get_running_loop().time() + self.settings.final_timeout + size / MIN_RATE

    # Reporting

    def report(self, transaction: MailTransaction, outcome: Outcome) -> None:
        """Report a message and remove it from the messages under way."""
        if transaction is self.current:
            self.current = None
        elif transaction is self.ahead:
            self.ahead = None
        self.feed.report(transaction.outgoing, outcome)

    def fail(self, transaction: MailTransaction, reply: Reply) -> None:
        """Report a message that a reply ended.

        Raises:
            SessionEnded: the reply ends the session too.
        """
        verdict = judge_reply(transaction.phase, reply, completed=self.completed > 0)
        self.refusals += 1
        if transaction.phase is Phase.BODY and reply.code >= 400 and reply.code != 421:
            self.completed += 1
        self.report(transaction, transaction.failed(verdict, reply))
        if verdict.ends_session:
            overlap_lost = self.overlap_on_trial and verdict.out_of_step and reply.code != 421
            raise SessionEnded(replace(session_end(verdict, str(reply)), overlap_lost=overlap_lost))

    def count_reply(self, reply: Reply) -> None:
        """Count a reply to a command of a message that has failed already.

        Raises:
            SessionEnded: the reply is a 421.
        """
        if reply.code >= 400:
            self.refusals += 1
        if reply.code == 421:
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
