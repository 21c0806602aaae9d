"""Window of BDAT transactions (``chunked``): several messages of one connection are unanswered at once.

A message is taken, begun and written in one step, so its ``may_write`` is asked immediately before its bytes are
written.  Replies are read as they come, and where they arrive (``SmtpProtocol.go_on_while``); a session that must end
begins no more messages, and reads the replies to those that it has begun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import OutgoingMessage, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.chunked import (
    PROBE,
    PROBE_REPLIES,
    count_refusals,
    group,
    is_answered,
    judge_answered,
    judge_usual,
)
from prx_email_django.transports.smtp.session_state import MAX_REFUSALS, MIN_RATE, SessionEnded, SessionState
from prx_email_django.transports.smtp.transaction_state import MailTransaction, give_back_untouched

#: Bytes of messages that may be unanswered on one connection.  A larger message goes by DATA, when all before it are
#: answered: so much is not uploaded before the server has accepted the envelope.
MAX_BYTES = 1024 * 1024


async def probe(state: SessionState) -> None:
    """Find out whether the server discards the body of a BDAT that it refuses; only then a window is safe.

    Raises:
        SessionEnded: it does not; the account does without CHUNKING.
        ConnectionLost: the connection ended.
    """
    state.found.use(Ahead.CHUNKING, state)
    state.protocol.write(PROBE, PROBE_REPLIES)
    for _ in range(PROBE_REPLIES):
        reply = await state.reply_ahead(Ahead.CHUNKING)
        if reply.code < 500:
            state.found.give_up(Ahead.CHUNKING)
            # A 421, or another temporary refusal, says nothing about what comes after it.
            broken = Ahead.CHUNKING if reply.code < 400 else None
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply), broken=broken))
    state.found.prove(Ahead.CHUNKING, state)


async def transmit_window(state: SessionState) -> OutgoingMessage | None:
    """Transmit messages until one must go alone, and return that; None: no more go over this connection.

    When it returns, the server has answered every message.

    Raises:
        SessionEnded: a reply ended the session.
        ConnectionLost: the connection ended; the messages in ``state.window`` are not reported yet.
    """
    window = _Window(state)
    try:
        return await window.run()
    finally:
        window.leave()


class _Window:
    def __init__(self, state: SessionState) -> None:
        self.state = state
        #: Why no more messages are begun: a reply ended the session.
        self.end: SessionEnd | None = None
        #: The feed has no more messages for this connection.
        self.is_over = False
        #: The message that is taken and must go alone.
        self.alone: OutgoingMessage | None = None
        #: Bytes of each unanswered message, and of all of them.
        self._sizes: dict[MailTransaction, int] = {}
        self._size = 0
        #: When the oldest of them must be answered.  A wake-up without a reply leaves it: connections are woken again
        #: and again.
        self._answered_by = math.inf

    async def run(self) -> OutgoingMessage | None:
        protocol = self.state.protocol
        while self._fill():
            await protocol.go_on_while(self._go_on, self._deadline())
            if protocol.replies:  # the connection has ended behind them
                self._read()
        if self.end is not None:
            raise SessionEnded(self.end)
        alone, self.alone = self.alone, None
        return alone

    def _go_on(self) -> bool:
        """Read the replies that have come, and write further messages; False: nothing more is to be done here."""
        self._read()
        if not self._fill():
            return False
        self.state.protocol.wait_until(self._deadline())
        return True

    def leave(self) -> None:
        """Give back what was taken and never written."""
        if self.alone is not None:
            give_back_untouched(self.alone, self.state.feed, peer=self.state.peer)

    def _deadline(self) -> float:
        # Where asyncio's buffer is full, there must be room by then.
        return self._answered_by if self.state.window or self.state.protocol.is_paused else math.inf

    # Writing

    def _fill(self) -> bool:
        """Begin messages while there is room, and write them at once; False: none is unanswered, and none will be."""
        state = self.state
        if not state.chunks:
            state.is_outdated = True
        begun: list[tuple[MailTransaction, bytes]] = []
        replies, size_before = 0, self._size
        while self._has_room() and not state.retired and (outgoing := self._take()) is not None:
            if outgoing.alone or len(outgoing.body) > MAX_BYTES:
                self.alone = outgoing
            elif (transaction := self._begin(outgoing)) is not None:
                data, count = group(transaction)
                begun.append((transaction, data))
                replies += count
                state.window.append(transaction)
                self._sizes[transaction] = len(data)
                self._size += len(data)
        if begun:
            self._write(begun, replies)
            if size_before:
                self._answered_by += (self._size - size_before) / MIN_RATE
            else:
                self._answered_by = state.deadline(self._size)
        is_over = self.end is not None or self.alone is not None or self.is_over or state.retired
        return bool(state.window) or not is_over

    def _has_room(self) -> bool:
        """Whether one more message may be begun.

        Refusals leave room for fewer: a server that counts them would close (421) before it has answered all messages.
        """
        state = self.state
        if self.end is not None or self.alone is not None or self.is_over or state.protocol.is_paused:
            return False
        most = state.found.window.size
        if state.refusals:
            most = min(most, max(1, MAX_REFUSALS - state.refusals))
        return len(state.window) < most and self._size < MAX_BYTES

    def _take(self) -> OutgoingMessage | None:
        """The next message; None: there is none now, and ``_go_on`` is called when one arrives."""
        state = self.state
        state.protocol.check()
        outgoing = state.feed.take_or_listen(state.protocol.wake)
        self.is_over = outgoing is None and state.feed.is_over
        return outgoing

    def _begin(self, outgoing: OutgoingMessage) -> MailTransaction | None:
        """Start a message whose body is written next.  None: it cannot be written, and has been reported."""
        state = self.state
        must_reset = state.must_reset
        transaction = state.begin(outgoing, behind=bool(state.window))
        if transaction is None or outgoing.may_write():
            return transaction
        state.messages_begun -= 1
        state.must_reset = must_reset
        state.feed.report(outgoing, transaction.untouched())
        return None

    def _write(self, begun: Sequence[tuple[MailTransaction, bytes]], replies: int) -> None:
        """Write whole messages; QUIT goes behind the last message of a connection.

        In one write: where the system refuses it, no byte of any of them has left.
        """
        state = self.state
        end_at = state.protocol.written
        data = [data for _, data in begun]
        if state.messages_begun >= state.settings.max_messages:
            data.append(b"QUIT\r\n")
            replies += 1
            state.is_quit_written = True
        state.protocol.write(b"".join(data), replies)
        for transaction, written in begun:
            end_at += len(written)
            transaction.mail_written, transaction.end_at = True, end_at

    # Reading

    def _read(self) -> None:
        """Assign the replies that have come to the messages, in order."""
        state = self.state
        replies = state.protocol.replies
        has_heard = bool(replies)
        while state.window and replies:
            transaction = state.window[0]
            transaction.replies.append(replies.popleft())
            if is_answered(transaction):
                self._finish(transaction)
        if has_heard:
            self._answered_by = state.deadline(self._size)
        if not state.protocol.has_reply:
            state.protocol.check()

    def _finish(self, transaction: MailTransaction) -> None:
        state = self.state
        self._size -= self._sizes.pop(state.window.popleft())
        if (outcome := judge_usual(transaction)) is not None:
            state.must_reset = False
            state.completed += 1
            state.found.window.note_completed()
            state.feed.report(transaction.outgoing, outcome)
            return
        logged_in = state.settings.auth_method != "none"
        judged = judge_answered(transaction, completed=state.completed > 0, logged_in=logged_in)
        state.refusals += count_refusals(transaction)
        is_accepted = judged.outcome.ending is Ending.ACCEPTED
        state.must_reset = not is_accepted
        if not judged.is_last:
            state.found.window.note_completed()
            state.completed += is_accepted or transaction.any_accepted
        if taken := transaction.recipients_taken():
            state.found.max_recipients = taken
        state.feed.report(transaction.outgoing, judged.outcome)
        self._heed(judged.end)
        if judged.end is not None and judged.is_last:
            self._report_rest(judged.outcome.ending)
            raise SessionEnded(self.end or judged.end)

    def _heed(self, end: SessionEnd | None) -> None:
        """Begin no more messages after a reply that ends the session; the first such reply counts."""
        if end is None:
            return
        if end.broken is not None:
            self.state.found.give_up(end.broken)
        self.end = self.end or end

    def _report_rest(self, ending: Ending) -> None:
        """A server that ended the session by 421 took none of the messages behind; after nonsense nobody knows."""
        state = self.state
        while state.window and ending is not Ending.UNKNOWN:
            behind = state.window.popleft()
            state.feed.report(behind.outgoing, behind.untouched("the server ended the session"))
