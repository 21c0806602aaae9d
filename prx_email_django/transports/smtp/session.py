"""SMTP session after authentication: takes messages from a feed, transmits them, and reports how the session ended.

One message: ``transaction``.  State: ``session_state`` and ``transaction_state``.  Bytes: ``protocol``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.chunked import judge_cut
from prx_email_django.transports.smtp.commands import Extensions
from prx_email_django.transports.smtp.dry_run import EnvelopeAnswer, try_envelope
from prx_email_django.transports.smtp.protocol import ConnectionLost, SmtpProtocol
from prx_email_django.transports.smtp.reply_rules import Loss, ReplyVerdict, judge_loss
from prx_email_django.transports.smtp.session_state import SessionEnded, SessionState
from prx_email_django.transports.smtp.transaction import transact, write_envelope
from prx_email_django.transports.smtp.transaction_state import MailTransaction
from prx_email_django.transports.smtp.window import probe, transmit_window

#: Seconds for QUIT's reply and the closing of the socket together.
QUIT_TIMEOUT = 2.0
#: Seconds in which a server must answer on an idle connection; else a new one is opened.
RESUME_TIMEOUT = 2.0


class SmtpSession:
    """``Session`` over an authenticated asyncio transport, whose protocol it replaces."""

    def __init__(
        self, transport: asyncio.Transport, *, extensions: Extensions, settings: ConnectionSettings, peer: str
    ) -> None:
        self.peer = peer
        self.size_limit = extensions.size_limit
        self._protocol = SmtpProtocol(transport, timeout=settings.timeout)
        self._state = SessionState(self._protocol, extensions=extensions, settings=settings, peer=peer)
        transport.set_protocol(self._protocol)
        self._is_idle = False
        self.settings = settings
        #: Resolved when the connection cannot be used any more.
        self.ended = self._protocol.ended

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit the messages of the feed until it ends; then QUIT and close, or wait idle for another feed.

        Raises:
            asyncio.CancelledError: after the connection was closed at once and every message that had been taken was
                reported: ``UNKNOWN`` where its whole body may have left, else ``UNTOUCHED``.
        """
        self._state.feed, self._is_idle = feed, False
        try:
            return await self._transmit_all()
        except SessionEnded as ended:
            return ended.end
        except ConnectionLost as lost:
            return self._lost(lost.loss)
        finally:
            self._report_unfinished()
            self._state.found.leave(self._state)
            if not self._is_idle:
                self._protocol.abort()

    async def resume(self, settings: ConnectionSettings) -> bool:
        """Whether the server still answers, to RSET; no message pays for a connection that was lost meanwhile."""
        answers = False
        try:
            with contextlib.suppress(TimeoutError, ConnectionLost):
                async with asyncio.timeout(RESUME_TIMEOUT):
                    self._protocol.write(b"RSET\r\n", 1)
                    answers = (await self._protocol.reply()).code < 300
        finally:
            if not answers:
                self._protocol.abort()
        self.settings = settings
        self._state.resume(settings)
        return answers

    async def try_envelope(self, address: str, *, deadline: float) -> EnvelopeAnswer | None:
        """Before ``run``: whether the server takes mail of this sender; no message is sent, see ``dry_run``."""
        return await try_envelope(self._protocol, address, deadline=deadline)

    async def quit(self) -> None:
        """Send QUIT and close an idle session."""
        try:
            await self._quit()
        finally:
            self._protocol.abort()

    def abort(self) -> None:
        """Close at once and drop what is buffered; messages under way are reported as after a cancellation."""
        self._protocol.abort()

    async def _transmit_all(self) -> SessionEnd:
        state = self._state
        while True:
            transaction = state.ahead or await self._next()
            if transaction is None:
                self._is_idle = not (state.retired or state.is_quit_written) and state.feed.keeps_session()
                return SessionEnd(idle=self) if self._is_idle else await self._quit()
            state.current, state.ahead = transaction, None
            await transact(state, transaction)

    async def _next(self) -> MailTransaction | None:
        """Start the next message.  None: there are no more messages for this connection."""
        state = self._state
        while not state.retired:
            self._protocol.check()
            if state.probes:
                await probe(state)
            await state.reset()
            if state.chunks:
                outgoing = await transmit_window(state)
            else:
                outgoing = await self._wait()
            if outgoing is None:
                return None
            state.current = transaction = state.begin(outgoing)
            if transaction is not None:
                write_envelope(state, transaction)
                return transaction
        return None

    async def _wait(self) -> OutgoingMessage | None:
        """Wait for a message; None: the feed is over.

        Raises:
            ConnectionLost: the connection ended first.
        """
        feed, protocol = self._state.feed, self._protocol
        protocol.check()
        while (outgoing := feed.take_or_listen(protocol.wake)) is None and not feed.is_over:
            await protocol.wait_for_event(math.inf)
            protocol.check()
        return outgoing

    # Endings

    async def _quit(self) -> SessionEnd:
        """Send QUIT, wait for its reply and close, within ``QUIT_TIMEOUT``."""
        with contextlib.suppress(TimeoutError, ConnectionLost):
            async with asyncio.timeout(QUIT_TIMEOUT):
                if not self._state.is_quit_written:
                    self._protocol.write(b"QUIT\r\n", 1)
                await self._protocol.reply()
                await self._protocol.close()
        return SessionEnd(reconnect=self._state.retired)

    def _lost(self, loss: Loss) -> SessionEnd:
        """Report the current message of a lost connection, and return what the loss means for the account."""
        state = self._state
        completed = state.completed > 0
        trouble = Trouble.NONE if completed or loss.closed_by_us else Trouble.CONNECTION
        transaction = state.current
        broken = self._broken_by(loss, transaction)
        if broken is not None and (transaction is None or transaction.phase is not Phase.BODY):
            if transaction is not None:
                state.report(transaction, transaction.ahead_refused(loss.text))
            return SessionEnd(reconnect=True, error_code=loss.error_code, error=loss.text, broken=broken)
        if state.window:
            return self._lost_window(loss)
        if transaction is not None:
            verdict = judge_loss(
                transaction.phase,
                loss,
                completed=completed,
                dot_written=self._protocol.may_have_left(transaction.end_at),
                overlapped=not transaction.mail_written,
            )
            state.report(transaction, transaction.lost(verdict, loss.text))
            if verdict.trouble is not Trouble.NONE:
                trouble = verdict.trouble
        return SessionEnd(
            reconnect=trouble is Trouble.NONE and not loss.closed_by_us,
            trouble=trouble,
            error_code=loss.error_code,
            error=loss.text,
            broken=broken,
        )

    def _broken_by(self, loss: Loss, transaction: MailTransaction | None) -> Ahead | None:
        """What the server does not bear, if the loss says so: it is then given up for all connections of the account.

        A server that drops commands which come too early stays silent, whenever it does so.  Hanging up, or sending
        what is no reply, says so only where an overlap is tried for the first time: any other envelope has servers hang
        up for reasons of its own, such as many dead recipients.
        """
        found, is_silent = self._state.found, loss.error_code == ErrorCode.TIMEOUT
        if loss.closed_by_us:
            return None
        if found.is_trying(Ahead.CHUNKING, self._state):
            found.give_up(Ahead.CHUNKING)
            return Ahead.CHUNKING
        is_envelope_next = transaction is not None and transaction.phase is Phase.MAIL
        is_overlap_silent = is_silent and is_envelope_next and transaction is not None and transaction.overlapped
        if is_overlap_silent or found.is_trying(Ahead.OVERLAP, self._state):
            broken = Ahead.OVERLAP
        elif is_silent and found.is_trying(Ahead.ENVELOPE, self._state) and not is_envelope_next:
            broken = Ahead.ENVELOPE
        else:
            return None
        found.give_up(broken)
        return broken

    def _lost_window(self, loss: Loss) -> SessionEnd:
        """Report the messages of a window whose connection was lost: each may have been taken whose end has left."""
        state = self._state
        broken = None
        if len(state.window) > 1 and not loss.closed_by_us:
            state.found.window.fall()
            broken = Ahead.WINDOW
        is_lost = False
        while state.window:
            transaction = state.window.popleft()
            has_left = self._protocol.may_have_left(transaction.end_at)
            outcome = judge_cut(transaction, loss, completed=state.completed > 0, may_have_left=has_left)
            state.feed.report(transaction.outgoing, outcome)
            is_lost = is_lost or outcome.ending is Ending.UNKNOWN
        is_trouble = (is_lost or not state.completed) and not loss.closed_by_us
        return SessionEnd(
            reconnect=not is_trouble and not loss.closed_by_us,
            trouble=Trouble.CONNECTION if is_trouble else Trouble.NONE,
            error_code=loss.error_code,
            error=loss.text,
            broken=broken,
        )

    def _report_unfinished(self) -> None:
        """Report the messages that are still under way when the session ends.

        These are all messages after a cancellation, and the messages behind one that ended the session.
        """
        state = self._state
        if state.current is not None:
            state.report(state.current, self._cut_off(state.current))
        while state.window:
            transaction = state.window.popleft()
            state.feed.report(transaction.outgoing, self._cut_off(transaction))
        if state.ahead is not None:
            state.report(state.ahead, state.ahead.untouched("the connection ended"))

    def _cut_off(self, transaction: MailTransaction) -> Outcome:
        if not self._protocol.may_have_left(transaction.end_at):
            return transaction.untouched("cut off by us")
        transaction.phase = Phase.BODY
        return transaction.lost(ReplyVerdict(Ending.UNKNOWN, error_code=ErrorCode.UNKNOWN_OUTCOME), "cut off by us")
