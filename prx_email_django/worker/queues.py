"""Where the two threads meet: messages go out through a ready queue, results come back through a result queue.

Each counter is written by one thread only: the caller's, or the network's.
"""

from __future__ import annotations

import queue
import selectors
import socket
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from prx_email_django.rules.outcomes import Ending, Outcome, Trouble
from prx_email_django.rules.rates import FIRST_WAIT
from prx_email_django.rules.refusals import RefusalRow, refusal_of
from prx_email_django.transports.found import FoundOut
from prx_email_django.worker.outgoing import ClaimedMessage

_ACCEPTED = Ending.ACCEPTED
#: The one that opens no file of its own; Windows has no poll.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Waiter(Protocol):
    """A connection, as far as a queue knows it."""

    idle: bool

    def wake(self) -> None:
        """Look again, if it waits."""


class ResultQueue:
    """Results for the calling thread, and the way to wake that thread."""

    def __init__(self) -> None:
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.results: deque[ClaimedMessage] = deque()
        #: A group of results wakes the caller; fewer wait for more, or for an idle connection.
        self.group = 1
        #: Where wake-ups come while the caller waits for something else too, and where they are sent from; made then.
        self._wake_sockets: tuple[socket.socket, socket.socket] | None = None
        self._waits_for_both = False

    def put(self, message: ClaimedMessage) -> None:
        """Network: leave a message that has its outcome."""
        self.results.append(message)
        if len(self.results) == self.group:
            self.wake()

    def wake(self) -> None:
        """Wake the calling thread: there is something to do."""
        self._wake_ups.put(None)
        if self._waits_for_both and (sockets := self._wake_sockets) is not None:
            with suppress(OSError):  # it is full, so it wakes; or the caller has closed it
                sockets[1].send(b"w")

    def wait(self, timeout: float) -> None:
        """Caller: wait to be woken, at most ``timeout`` seconds."""
        try:
            self._wake_ups.get(timeout=max(0.0, timeout))
            while True:
                self._wake_ups.get_nowait()
        except queue.Empty:
            return

    def wait_for_both(self, descriptor: int, timeout: float) -> bool:
        """Caller: wait to be woken, or until the file can be read; whether there was a wake-up, or the time is over.

        False at once where the system gives no further file.
        """
        if self._wake_sockets is None:
            try:
                self._wake_sockets = socket.socketpair()
            except OSError:
                return False
            for end in self._wake_sockets:
                end.setblocking(False)
        reader = self._wake_sockets[0]
        self._waits_for_both = True  # first: whoever has woken the caller before it saw this, has left a wake-up
        try:
            with _Selector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                selector.register(reader, selectors.EVENT_READ)
                found = selector.select(max(0.0, timeout)) if self._wake_ups.empty() else []
        finally:
            self._waits_for_both = False
            with suppress(BlockingIOError):
                reader.recv(4096)
        if any(key.fd == descriptor for key, _ in found) and self._wake_ups.empty():
            return False
        self.wait(0)
        return True

    def close(self) -> None:
        """Caller: close what ``wait_for_both`` has opened."""
        if self._wake_sockets is not None:
            for end in self._wake_sockets:
                end.close()
            self._wake_sockets = None


class ReadyQueue:
    """The rendered messages of one account that wait for its connections."""

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        #: Network: what the account's connections find out about the server together.
        self.found = FoundOut()
        self.ready: deque[ClaimedMessage] = deque()
        #: Open connections.
        self.connections: set[Waiter] = set()
        self.closing = False
        #: Network: one connection stays open when the account closes; the caller sets it before ``closing``.
        self.keeps_one = False
        #: Caller: nothing more is handed out; the worker ends, and the database is away.
        self.stopped = False
        #: Refusals in a row, as the network hears them; the caller puts another one in its place.
        self.refusals = RefusalRow(0)
        #: Nothing goes before this instant of the monotonic clock: the account sends too fast.
        self.hold_until = 0.0
        self.pushed_bytes = 0  # caller
        self.recorded = 0  # caller
        self.taken = 0  # network
        self.taken_bytes = 0  # network
        self.reported = 0  # network
        self.accepted = 0  # network
        self.refused = 0  # network
        #: Connections that wait.  A connection is counted before it looks for the last time, so a caller that has
        #: pushed a message and sees 0 here does not need to wake any (waking took a tenth of its time).
        self.waiting = 0  # network

    @property
    def in_flight(self) -> int:
        """Messages that a connection has taken and not reported."""
        return self.taken - self.reported

    @property
    def group(self) -> int:
        """Results that are recorded together: half of what may be accepted and unrecorded, see ``take``."""
        return max(1, (3 + self.found.in_flight) * self.max_connections // 2)

    @property
    def ready_bytes(self) -> int:
        """Bytes that wait for a connection."""
        return self.pushed_bytes - self.taken_bytes

    def push(self, messages: Iterable[ClaimedMessage]) -> None:
        """Caller: hand over rendered messages."""
        for message in messages:
            self.pushed_bytes += len(message.body)
            self.ready.append(message)

    def withdraw(self) -> list[ClaimedMessage]:
        """Caller: take back what no connection has taken."""
        messages: list[ClaimedMessage] = []
        while True:
            try:
                message = self.ready.popleft()
            except IndexError:
                return messages
            self.pushed_bytes -= len(message.body)
            message.drop_body()
            messages.append(message)

    def take(self) -> ClaimedMessage | None:
        """Network: the next message.

        None also where too much is accepted and unrecorded: a kill then copies at most (4 + window) × connections
        messages; the window is 1 where messages go by DATA, and at most ``max_in_flight``.  Of these, so many are
        unrecorded that each connection may have one unanswered.
        """
        if not self.ready or self.stopped:
            return None
        unrecorded = self.accepted - self.recorded  # not in the database yet: a kill would send them again
        most, in_flight = self.max_connections, self.taken - self.reported
        most_copies = (4 + self.found.in_flight) * most
        if unrecorded >= most_copies - most or unrecorded + in_flight >= most_copies:
            return None
        if self.is_on_hold():
            return None
        room = self.refusals.room
        if room is not None and in_flight >= room:
            return None  # no more may be refused than it takes to suspect the account
        try:
            message = self.ready.popleft()
        except IndexError:  # the calling thread has taken it back
            return None
        self.taken += 1
        self.taken_bytes += len(message.body)
        return message

    def is_on_hold(self) -> bool:
        """Whether nothing goes for some seconds, since the server said that the account sends too fast."""
        return bool(self.hold_until) and monotonic() < self.hold_until

    def heard(self, outcome: Outcome) -> None:
        """Network: count an outcome that a connection has reported."""
        self.reported += 1
        if outcome.trouble and outcome.trouble is Trouble.RATE:
            self.hold_until = max(self.hold_until, monotonic() + FIRST_WAIT)
        if outcome.ending is _ACCEPTED:
            self.accepted += 1
            self.refusals.clear()
        elif (refusal := refusal_of(outcome)) is not None:
            self.refused += 1
            self.refusals.add(refusal)

    def wake_connections(self) -> None:
        """Network: something has changed for connections that wait."""
        for connection in self.connections:
            connection.wake()
