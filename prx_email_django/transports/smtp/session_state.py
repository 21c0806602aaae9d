"""State of one SMTP session: its messages under way, its counters, and the reports to the feed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from prx_email_django.rules.outcomes import Outcome, Phase
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage
from prx_email_django.transports.smtp.protocol import SmtpProtocol
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import judge_reply, refuses_ahead
from prx_email_django.transports.smtp.transaction_state import MailTransaction, session_end

#: Messages that level ``auto`` sends before it writes a body and the next envelope at once.
TRIAL_MESSAGES = 3
#: Refusals after which a connection is replaced: Postfix slows down after about ten errors, and closes after twenty.
MAX_REFUSALS = 10
#: Seconds for a reply to what is written ahead for the first time.  A server that drops such commands stays silent: the
#: caller of a ``send`` must not wait for a whole timeout.
TRIAL_TIMEOUT = 10.0
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
        #: Completed transactions from which on the next envelope may go behind a body that is not answered.
        self._overlaps_from = {"full": 0, "chunked": 0, "auto": TRIAL_MESSAGES}.get(self._level, math.inf)
        self.found = settings.found
        self.found.remember(settings.window, most=settings.max_in_flight)
        #: Whether messages may go by BDAT, as far as the extensions and the settings say.
        self.may_chunk = (
            extensions.pipelining and extensions.chunking and settings.max_in_flight > 0
        ) and self._level in ("auto", "chunked")
        #: The oldest message that waits for a reply, and the message whose envelope was written behind its body.
        self.current: MailTransaction | None = None
        self.ahead: MailTransaction | None = None
        #: The time, on the event loop's clock, by which the body that was written last must be answered.
        self.body_deadline = 0.0
        #: Messages that were written by BDAT and wait for replies, oldest first.
        self.window: deque[MailTransaction] = deque()
        #: The account does without CHUNKING, which this connection has begun with.
        self.is_outdated = False
        #: QUIT was written behind the last message.
        self.is_quit_written = False
        self.messages_begun = 0
        #: Transactions that ended with a final reply.
        self.completed = 0
        self.refusals = 0
        #: The server still holds the envelope of a message that failed: RSET goes before the next MAIL.
        self.must_reset = False

    def resume(self, settings: ConnectionSettings) -> None:
        """Go on after an idle time, in which RSET was answered."""
        self.settings, self.found = settings, settings.found
        self.found.remember(settings.window, most=settings.max_in_flight)
        self.must_reset = False

    @property
    def stepwise(self) -> bool:
        """Whether the next envelope must be written one command at a time."""
        return self._level == "off" or not self.found.may_use(Ahead.ENVELOPE, self)

    @property
    def tries_ahead(self) -> bool:
        """Whether this session tries a way of writing ahead that the server has not answered in step yet."""
        return bool(self.found.trials) and self.found.tries(self)

    @property
    def retired(self) -> bool:
        """Whether the next message must go over a new connection."""
        spent = self.messages_begun >= self.settings.max_messages or self.refusals >= MAX_REFUSALS
        return spent or self.is_outdated

    @property
    def chunks(self) -> bool:
        """Whether messages go by BDAT, in a window."""
        return self.may_chunk and not self.stepwise and self.found.may_chunk

    @property
    def probes(self) -> bool:
        """Whether to find out now whether messages may go by BDAT."""
        if not self.may_chunk or self.stepwise or self.found.is_proven(Ahead.CHUNKING):
            return False
        is_tried = self._level == "chunked" or self.completed >= TRIAL_MESSAGES
        return is_tried and self.found.may_use(Ahead.CHUNKING, self)

    def begin(self, outgoing: OutgoingMessage, behind: bool = False) -> MailTransaction | None:
        """Start a message whose MAIL is written next.  None: it cannot be written, and has been reported.

        ``behind``: other whole messages are unanswered.  Whether the server keeps the envelope of one that it refuses
        is not known then, so RSET goes first (RFC 2920 §3.1 allows it within a group).
        """
        transaction = MailTransaction(outgoing, self.peer)
        try:
            transaction.prepare(self._extensions, self.found.max_recipients)
        except UnsupportedMessage as unsupported:
            self.feed.report(outgoing, transaction.unsupported(unsupported))
            return None
        if not outgoing.may_write():
            self.feed.report(outgoing, transaction.untouched())
            return None
        self.messages_begun += 1
        transaction.overlapped = behind
        if self.must_reset or behind:
            self.must_reset = False
            transaction.commands = [b"RSET\r\n", *transaction.commands]
        return transaction

    def look_ahead(self) -> MailTransaction | None:
        """Start the next message if its envelope may go behind the body that is written next."""
        if self.completed < self._overlaps_from or self.retired:
            return None
        bears_overlap = self.found.bears_overlap and not self.may_chunk  # as most servers do, after a few messages
        if not bears_overlap and not self._may_overlap():
            return None
        while self.ahead is None and (outgoing := self.feed.take()) is not None:
            self.ahead = self.begin(outgoing)
        if self.ahead is not None:
            self.ahead.overlapped = True
            if not bears_overlap:
                self.found.use(Ahead.OVERLAP, self)
        return self.ahead

    def _may_overlap(self) -> bool:
        if self.stepwise or (self.may_chunk and (self.chunks or self.probes)):
            return False
        return self.found.may_use(Ahead.OVERLAP, self)

    async def ask(self, transaction: MailTransaction, command: bytes) -> Reply:
        """Return the reply to a command; write the command first unless it was written with the envelope."""
        if transaction.stepwise:
            self.protocol.write(command, 1)
        return await self.reply_to(transaction)

    async def reply_to(self, transaction: MailTransaction) -> Reply:
        """Return the reply to a command of the envelope.  MAIL is written ahead only where it is overlapped."""
        if transaction.phase is not Phase.MAIL:
            return await self.reply_ahead(Ahead.ENVELOPE)
        return await self.reply_ahead(Ahead.OVERLAP) if transaction.overlapped else await self.protocol.reply()

    async def reply_ahead(self, ahead: Ahead) -> Reply:
        """Return the reply to what may have been written ahead; while that is tried, within ``TRIAL_TIMEOUT``."""
        if not self.found.is_trying(ahead, self):
            return await self.protocol.reply()
        seconds = min(TRIAL_TIMEOUT, self.settings.timeout)
        return await self.protocol.reply(self.protocol.time() + seconds)

    async def reset(self) -> None:
        """Send RSET where commands go one at a time.

        It goes before the next message is taken, so that MAIL follows that message's ``may_write`` immediately.
        """
        if self.stepwise and self.must_reset:
            self.must_reset = False
            self.protocol.write(b"RSET\r\n", 1)
            self.check_reset(await self.protocol.reply())

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
        return self.protocol.time() + self.settings.final_timeout + size / MIN_RATE

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
        self._check_ahead(transaction, reply)
        verdict = judge_reply(transaction.phase, reply, completed=self.completed > 0)
        self.refusals += 1
        if transaction.phase is Phase.BODY and reply.code >= 400 and reply.code != 421:
            self.completed += 1
        self.report(transaction, transaction.failed(verdict, reply))
        if verdict.ends_session:
            raise SessionEnded(self._with_trial(session_end(verdict, str(reply)), transaction, reply))

    def _check_ahead(self, transaction: MailTransaction, reply: Reply) -> None:
        """Release the message where the reply refuses only what was written ahead; the account does without it.

        Raises:
            SessionEnded: it does; client and server may be out of step.
        """
        ahead = self._written_ahead(transaction)
        if ahead is None or not self.is_ahead_refused(transaction, reply):
            return
        self.found.give_up(ahead)
        self.report(transaction, transaction.ahead_refused(str(reply)))
        raise SessionEnded(SessionEnd(reconnect=True, error=str(reply), broken=ahead))

    def is_ahead_refused(self, transaction: MailTransaction, reply: Reply) -> bool:
        """Whether this negative reply refuses only what was written ahead."""
        is_ahead = self._written_ahead(transaction) is not None
        return is_ahead and refuses_ahead(transaction.phase, reply, overlapped=transaction.overlapped)

    def _written_ahead(self, transaction: MailTransaction) -> Ahead | None:
        if transaction.phase is Phase.BODY:
            return None if self.ahead is None else Ahead.OVERLAP
        return transaction.ahead

    def _with_trial(self, end: SessionEnd, transaction: MailTransaction, reply: Reply) -> SessionEnd:
        """The end of the session; a reply to a body that is out of step may be due to the envelope behind it."""
        is_trial = transaction.phase is Phase.BODY and self.found.is_trying(Ahead.OVERLAP, self)
        if not is_trial or reply.code >= 400:
            return end
        self.found.give_up(Ahead.OVERLAP)
        return replace(end, broken=Ahead.OVERLAP)

    def count_reply(self, reply: Reply) -> None:
        """Count a reply to a command of a message that has failed already.

        Raises:
            SessionEnded: the reply is a 421.
        """
        if reply.code >= 400:
            self.refusals += 1
        if reply.code == 421:
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
