"""One connection's life with messages: take, transmit, wait, and end in one of the ways that can happen."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.smtp.commands import Extensions
from prx_email_django.transports.smtp.mail_transaction import MailTransaction
from prx_email_django.transports.smtp.protocol import ConnectionLost, SmtpProtocol
from prx_email_django.transports.smtp.replies import Loss, Verdict, judge_loss
from prx_email_django.transports.smtp.session_state import SessionEnded, SessionState
from prx_email_django.transports.smtp.transaction import transact
from prx_email_django.transports.waiting import next_message

#: Seconds for QUIT's reply and the closing of the socket together.
QUIT_TIMEOUT = 2.0


class SmtpSession:
    """``Session`` over an authenticated transport; takes the transport over for good."""

    def __init__(
        self, transport: asyncio.Transport, *, extensions: Extensions, settings: ConnectionSettings, peer: str
    ) -> None:
        self.peer = peer
        self.size_limit = extensions.size_limit
        self._protocol = SmtpProtocol(transport, timeout=settings.timeout)
        self._state = SessionState(self._protocol, extensions=extensions, settings=settings, peer=peer)
        transport.set_protocol(self._protocol)

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit what the feed gives until it ends, then QUIT and close.

        A cancellation closes at once, reports what was taken (unknown where a body was on its way, else untouched) and
        goes on upwards.
        """
        self._state.feed = feed
        try:
            end = await self._converse()
        except SessionEnded as over:
            end = over.end
        except ConnectionLost as lost_by:
            end = self._lost(lost_by.loss)
        finally:
            self._give_up()
            self._protocol.abort()
        return replace(end, completed=self._state.completed)

    def abort(self) -> None:
        """Close at once without flushing what is buffered; what is under way is reported as after a cancellation."""
        self._protocol.abort()

    async def _converse(self) -> SessionEnd:
        state = self._state
        while True:
            transaction = state.ahead or await self._next()
            if transaction is None:
                return await self._quit()
            state.current, state.ahead = transaction, None
            await transact(state, transaction)

    async def _next(self) -> MailTransaction | None:
        """Start a message; None: there is nothing more for this connection."""
        state = self._state
        while not state.retired:
            self._protocol.check()
            await state.reset()
            outgoing = state.feed.take() or await self._wait()
            if outgoing is None:
                return None
            state.current = transaction = state.begin(outgoing)
            if transaction is not None:
                self._launch(transaction)
                return transaction
        return None

    def _launch(self, transaction: MailTransaction) -> None:
        """Write the envelope, or where one goes step by step its MAIL; what cannot be written was never begun."""
        commands = [transaction.mail] if self._state.stepwise else transaction.commands
        self._protocol.write(b"".join(commands), len(commands))
        transaction.written = True

    async def _wait(self) -> OutgoingMessage | None:
        """Wait for a parcel.

        Raises:
            Broken: the connection ended first.
        """
        outgoing = await next_message(self._state.feed, self._protocol.ended, peer=self.peer)
        if outgoing is None:
            self._protocol.check()
        return outgoing

    # Endings

    async def _quit(self) -> SessionEnd:
        """QUIT, its reply, close: within two seconds."""
        with contextlib.suppress(TimeoutError, ConnectionLost):
            async with asyncio.timeout(QUIT_TIMEOUT):
                self._protocol.write(b"QUIT\r\n", 1)
                await self._protocol.reply()
                await self._protocol.close()
        return SessionEnd(reconnect=self._state.retired)

    def _lost(self, loss: Loss) -> SessionEnd:
        """The connection ended without a reply: judge the current message, and say what it means for the account."""
        state = self._state
        completed = state.completed > 0
        trouble = Trouble.NONE if completed or loss.ours else Trouble.CONNECTION
        transaction = state.current
        if transaction is not None:
            dot = self._dot_may_have_left(transaction)
            verdict = judge_loss(
                transaction.phase, loss, completed=completed, dot_written=dot, behind=not transaction.written
            )
            state.report(transaction, transaction.lost(verdict, loss.text, self.peer))
            if verdict.trouble is not Trouble.NONE:
                trouble = verdict.trouble
        return SessionEnd(
            reconnect=trouble is Trouble.NONE and not loss.ours,
            trouble=trouble,
            error_code=loss.error_code,
            error=loss.text,
            overlap_lost=state.on_trial and not loss.ours,
        )

    def _dot_may_have_left(self, transaction: MailTransaction) -> bool:
        """Whether the server may have the whole body: not if its end is still in the transport's own buffer."""
        return transaction.dot_written and self._protocol.unsent() <= transaction.tail

    def _give_up(self) -> None:
        """Report what is still under way: after a cancellation, and the message ahead of one that ended the session."""
        current, ahead = self._state.current, self._state.ahead
        if current is not None and self._dot_may_have_left(current):
            verdict = Verdict(Ending.UNKNOWN, error_code="unknown_outcome")
            self._state.report(current, current.lost(verdict, "cut off by us", self.peer))
        elif current is not None:
            self._state.report(current, current.untouched(self.peer, "cut off by us"))
        if ahead is not None:
            self._state.report(ahead, ahead.untouched(self.peer, "the connection ended"))
