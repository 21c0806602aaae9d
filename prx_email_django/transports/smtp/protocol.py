"""asyncio protocol of an authenticated SMTP connection: a queue of replies, deadlines, and the reason of the end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable

from prx_email_django.rules.text import clean, redact
from prx_email_django.states import ErrorCode
from prx_email_django.transports.smtp.replies import MalformedReply, Reply, ReplyParser
from prx_email_django.transports.smtp.reply_rules import Loss

logger = logging.getLogger("prx_email_django")


class ConnectionLost(Exception):
    """The connection cannot be used any more; ``loss`` says why."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.text)
        self.loss = loss


class SmtpProtocol(asyncio.Protocol):
    """One connection after authentication.

    Replies are queued in the order of the commands.  A reply that no command waits for ends the connection, and so does
    a 421, which may come at any time (RFC 5321 §3.8).  Replies that were read before the end can still be taken; only
    then ``ConnectionLost`` is raised.
    """

    def __init__(self, transport: asyncio.Transport, *, timeout: float) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        #: Returns now, on the event loop's clock.
        self.time = self._loop.time
        self._cleartext = transport.get_extra_info("sslcontext") is None
        #: Seconds for a reply where no deadline is given.
        self._timeout = timeout
        self._parser = ReplyParser()
        #: Replies that have come and that nobody has taken.
        self.replies: deque[Reply] = deque()
        #: Number of replies that the commands written so far still wait for.
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        #: Reads replies where they arrive, as long as it returns True, see ``go_on_while``.
        self._go_on: Callable[[], bool] | None = None
        #: asyncio's buffer is full.
        self.is_paused = False
        #: Bytes that were written so far.
        self.written = 0
        #: Of these, what asyncio dropped when we closed at once.
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer fires; infinite where there is none.
        self._timer_at = math.inf
        self._deadline = 0.0
        self.lost: ConnectionLost | None = None
        #: Resolved when the connection cannot be used any more.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        #: Resolved when the socket is closed.
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # Reading

    @property
    def has_reply(self) -> bool:
        """Whether a reply can be taken without waiting."""
        return bool(self.replies)

    async def reply(self, deadline: float | None = None) -> Reply:
        """Wait for the next reply until ``deadline``, on the event loop's clock (None: the timeout from now).

        Raises:
            ConnectionLost: there is none, and none will come.
        """
        if deadline is None and not self.replies:
            deadline = self.time() + self._timeout
        while not self.replies:
            await self._wait(deadline)
        return self.replies.popleft()

    async def wait_for_event(self, deadline: float) -> None:
        """Wait for a reply, for room in asyncio's buffer, or for ``wake``, until ``deadline``; ``math.inf``: for ever.

        Raises:
            ConnectionLost: the connection has ended, and all replies have been taken.
        """
        if not self.replies:
            await self._wait(deadline)

    async def go_on_while(self, go_on: Callable[[], bool], deadline: float | None = None) -> None:
        """Call ``go_on`` when replies have come, and at ``wake``, until it returns False; raises what that raises.

        It is called where the bytes arrive: waking a task for each reply costs as much as all that a message needs.
        The first reply must come by ``deadline`` (None: the timeout from now); ``go_on`` says by ``wait_until`` when
        the next one must.  It may end at any moment: the caller goes on from where ``go_on`` was left.

        Raises:
            ConnectionLost: the deadline has passed, or the connection has ended.
        """
        self.wait_until(deadline)
        if self.replies and (self.lost is not None or not go_on()):
            return
        self._go_on = go_on
        try:
            await self._wait(self._deadline)
        finally:
            self._go_on = None

    def wait_until(self, deadline: float | None) -> None:
        """Within ``go_on_while``: the next reply must come by ``deadline`` (None: the timeout from now)."""
        if deadline is None:
            deadline = self.time() + self._timeout
        if deadline >= self._timer_at:
            self._deadline = deadline
        else:
            self._start_timer(deadline)

    def wake(self) -> None:
        """End a wait for an event, or go on where ``go_on_while`` waits for one."""
        if self._go_on is not None:
            self._wake(is_event=True)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, deadline: float | None) -> None:
        if self.lost is not None:
            raise self.lost
        self._waiter = self._loop.create_future()
        self._start_timer(self.time() + self._timeout if deadline is None else deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self, *, is_event: bool = False) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._go_on is not None and (self.replies or is_event) and self.lost is None:
            go_on, self._go_on = self._go_on, None  # what ends the connection meanwhile finds an ordinary wait
            try:
                if go_on():
                    self._go_on = go_on
                    return
            except BaseException as error:  # noqa: BLE001  (raised where the session waits)
                if not waiter.done():
                    waiter.set_exception(error)
        if waiter.done():
            return
        if self.replies or self.lost is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(self.lost)

    # Deadlines.  One timer for the connection; it is moved only when it fires, or would fire after the deadline.

    def _start_timer(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline == math.inf:
            return
        if self._timer_at <= deadline:
            return
        self._stop_timer()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._timer_fired), deadline

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf

    def _timer_fired(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._waiter is None or self._waiter.done():
            return
        if self.time() < self._deadline:
            self._start_timer(self._deadline)
        else:
            self.end(Loss("no reply in time", ErrorCode.TIMEOUT))

    # Writing

    def check(self) -> None:
        """Raise ``ConnectionLost`` if the connection has ended."""
        if self.lost is not None:
            raise self.lost

    def write(self, data: bytes, replies: int) -> None:
        """Write ``data``, to which the server will send ``replies`` replies.

        Raises:
            ConnectionLost: the connection has ended, and the end of ``data`` has not left.
        """
        if self.lost is not None:
            raise self.lost
        self._expected += replies
        self.written += len(data)
        self._transport.write(data)
        if self._transport.is_closing():
            # The system refused the data at once: asyncio closes the transport, and connection_lost comes too late: the
            # end of a body that never left would count as sent.
            self.end(Loss("the connection was lost", ErrorCode.NETWORK, closed_by_server=True))
            self.check()

    async def wait_until_writable(self, deadline: float) -> None:
        """Wait until asyncio's buffer has room again, or a reply has come; other tasks run in any case.

        Raises:
            ConnectionLost: the deadline has passed, or the connection has ended.
        """
        await asyncio.sleep(0)
        while self.is_paused and not self.replies:
            await self._wait(deadline)
        if self.lost is not None and not self.replies:  # a refusal that came before the end counts
            raise self.lost

    def may_have_left(self, end_at: int) -> bool:
        """Whether the first ``end_at`` bytes may have left: not if their end is still in asyncio's own buffer."""
        return 0 < end_at <= self.written - self.unsent_bytes()

    def unsent_bytes(self) -> int:
        """Bytes that have certainly not left: those in asyncio's buffer (under TLS 0, since its size is not known)."""
        return self._dropped or (self._transport.get_write_buffer_size() if self._cleartext else 0)

    # Ending

    def end(self, loss: Loss) -> None:
        """End the connection for this reason; an earlier reason stays."""
        if self.lost is None:
            self.lost = ConnectionLost(loss)
            self.ended.set_result(None)
            self._wake()

    def abort(self) -> None:
        """Close at once and drop what is buffered."""
        self.end(Loss("closed by us", ErrorCode.NETWORK, closed_by_us=True))
        self._stop_timer()
        self._dropped = self.unsent_bytes()  # the session asks later what may have left
        self._transport.abort()

    async def close(self) -> None:
        """Write what is buffered, close, and wait until the socket is closed."""
        self._transport.close()
        await asyncio.shield(self.closed)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Queue the replies that are complete, and wake the task that waits for one."""
        replies: list[Reply] = []
        malformed: MalformedReply | None = None
        try:
            self._parser.feed_into(data, replies)
        except MalformedReply as error:
            malformed = error
        if self.lost is None:
            expected, self._expected = self._expected, self._expected - len(replies)
            if self._expected >= 0:
                self.replies += replies
            else:
                self._unexpected(replies, expected)
        if malformed is not None:
            self._malformed(malformed)
        if not replies:
            return
        if self._cleartext:
            self._wake()
        else:
            # TLS may tell next, in the same turn of the loop, that the server has closed: nothing more is written then.
            self._loop.call_soon(self._wake_for_replies)

    def _wake_for_replies(self) -> None:
        if self.replies:
            self._wake()

    def _malformed(self, error: MalformedReply) -> None:
        if self.lost is None and error.received:
            logger.warning("not an SMTP reply: %s", redact(error.received.decode("utf-8", "replace")))
        self.end(Loss(str(error), ErrorCode.PROVIDER))

    def _unexpected(self, replies: list[Reply], expected: int) -> None:
        """More replies have come than the ``expected`` ones."""
        self._expected = 0
        self.replies += replies[:expected]
        extra = replies[expected]
        if extra.code == 421:
            self.end(Loss(str(extra), ErrorCode.NETWORK, closed_by_server=True))
        else:
            self.end(Loss(clean(f"a reply without a command: {extra}"), ErrorCode.PROVIDER))

    def eof_received(self) -> None:
        """The server will send nothing more; asyncio closes the transport."""
        self.end(Loss("the server closed the connection", ErrorCode.NETWORK, closed_by_server=True))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        text = "the connection was lost" if exc is None else f"the connection was lost: {type(exc).__name__}"
        self.end(Loss(text, ErrorCode.NETWORK, closed_by_server=True))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """asyncio's buffer is full."""
        self.is_paused = True

    def resume_writing(self) -> None:
        """asyncio's buffer has room again."""
        self.is_paused = False
        self._wake()
