"""The octets' way: an ``asyncio.Protocol`` that queues replies, bounds waiting and writing, and knows how it ended."""

from __future__ import annotations

import asyncio
from collections import deque

from prx_email_django.rules.text import clean
from prx_email_django.transports.smtp.replies import Loss, MalformedReply, Reply, ReplyParser


class ConnectionLost(Exception):
    """The connection is of no further use; ``loss`` says why."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.text)
        self.loss = loss


class SmtpProtocol(asyncio.Protocol):
    """One connection after authentication.

    Replies are queued in the order of the commands.  A reply that no command waits for ends the connection, except that
    a 421 may come at any time (RFC 5321 §3.8).  What was read before the end can still be taken; only then
    ``ConnectionLost`` is raised.
    """

    def __init__(self, transport: asyncio.Transport, *, timeout: float) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._plain = transport.get_extra_info("sslcontext") is None
        #: Seconds for a reply, where no deadline is given.
        self._timeout = timeout
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        #: Replies that commands written so far still wait for.
        self._due = 0
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self.lost_by: ConnectionLost | None = None
        #: Resolved when the connection is of no further use.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        #: Resolved when the socket is closed.
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # Reading

    @property
    def answered(self) -> bool:
        """Whether a reply is waiting to be taken."""
        return bool(self._replies)

    async def reply(self, deadline: float | None = None) -> Reply:
        """The next reply; ``deadline`` in the loop's time (None: the timeout from now).

        Raises:
            Broken: it will not come.
        """
        while not self._replies:
            await self._wait(deadline)
        return self._replies.popleft()

    async def _wait(self, deadline: float | None) -> None:
        if self.lost_by is not None:
            raise self.lost_by
        self._waiter = self._loop.create_future()
        self._arm(self._loop.time() + self._timeout if deadline is None else deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._replies or self.lost_by is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(self.lost_by)

    # Deadlines: one timer for the connection, moved only when it fires or comes too late

    def _arm(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._arm(self._deadline)
        else:
            self.end(Loss("no reply in time", "timeout"))

    # Writing

    def check(self) -> None:
        """Raises ``ConnectionLost`` if the connection has ended."""
        if self.lost_by is not None:
            raise self.lost_by

    def write(self, octets: bytes | memoryview, replies: int) -> None:
        """Write something that asks for so many replies.

        Raises:
            Broken: the connection has ended, and the end of this has not left.
        """
        if self.lost_by is not None:
            raise self.lost_by
        self._due += replies
        self._transport.write(octets)
        if self._transport.is_closing():
            # The system refused the octets at once: asyncio tells by closing, and its callback comes too late for us.
            self.end(Loss("the connection was lost", "network", hung_up=True))
            self.check()

    async def room(self, deadline: float) -> None:
        """Wait until what was written is mostly gone, or a reply has come; others get their turn in any case.

        Raises:
            Broken: the deadline has passed, or the connection has ended.
        """
        await asyncio.sleep(0)
        while self._paused and not self._replies:
            await self._wait(deadline)
        if self.lost_by is not None and not self._replies:  # a refusal that came before the end is heard
            raise self.lost_by

    def unsent(self) -> int:
        """Octets that have provably not left: those in the transport's own buffer (0 under TLS: it cannot tell)."""
        return self._transport.get_write_buffer_size() if self._plain else 0

    # Ending

    def end(self, loss: Loss) -> None:
        """Note why the connection is of no further use; the first reason stays."""
        if self.lost_by is None:
            self.lost_by = ConnectionLost(loss)
            self.ended.set_result(None)
            self._wake()

    def abort(self) -> None:
        """Close at once; what is buffered is dropped."""
        self.end(Loss("closed by us", "network", ours=True))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    async def close(self) -> None:
        """Close after what is buffered, and wait until it is closed."""
        self._transport.close()
        await asyncio.shield(self.closed)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Queue what is complete; wake who waits."""
        fresh: list[Reply] = []
        try:
            self._parser.feed_into(data, fresh)
        except MalformedReply as error:
            self._take(fresh)
            self.end(Loss(clean(str(error)), "provider"))
        else:
            self._take(fresh)
        if fresh:
            self._wake()

    def _take(self, fresh: list[Reply]) -> None:
        if self.lost_by is not None:
            return
        due, self._due = self._due, self._due - len(fresh)
        if self._due >= 0:
            self._replies.extend(fresh)
            return
        self._due = 0
        self._replies.extend(fresh[:due])
        extra = fresh[due]
        if extra.code == 421:
            self.end(Loss(str(extra), "network", hung_up=True))
        else:
            self.end(Loss(clean(f"a reply without its command: {extra}"), "provider"))

    def eof_received(self) -> None:
        """The server said that it will say nothing more; the transport closes itself."""
        self.end(Loss("the server closed the connection", "network", hung_up=True))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        text = "the connection was lost" if exc is None else f"the connection was lost: {type(exc).__name__}"
        self.end(Loss(text, "network", hung_up=True))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self._wake()
