"""What an account's worker does when one of its connections opens, fails to open, or ends."""

from __future__ import annotations

import logging
from collections import deque

from prx_email_django.limits.pauses import note_ahead_broken, note_size, note_window
from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.rules.text import clean
from prx_email_django.transports.base import ConnectError, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.worker.claim_source import ClaimSource
from prx_email_django.worker.connection import Connection, ConnectionEvent, Ended, Opened, OpeningCancelled
from prx_email_django.worker.connections import Connections, pause_reason
from prx_email_django.worker.trouble import Troubles

logger = logging.getLogger("prx_email_django")

#: The level that bears what is left of a level.
_INSTEAD = {Ahead.ENVELOPE: "off", Ahead.OVERLAP: "envelope", Ahead.CHUNKING: "full"}


class ConnectionEvents:
    """Receives the events of an account's connections on the network's thread, and handles them on the caller's."""

    def __init__(self, connections: Connections, *, source: ClaimSource, troubles: Troubles) -> None:
        self.connections = connections
        self.current, self.clock = connections.current, connections.clock
        self.source = source
        self.troubles = troubles
        #: Events that have arrived (the network's thread appends), and those to handle next.
        self._arrived: deque[ConnectionEvent] = deque()
        self._heard: deque[ConnectionEvent] = deque()
        self._size, self._window = self.current.state.size_limit, self.current.state.window

    def listen(self, event: ConnectionEvent) -> None:
        """Receive an event, on the network's thread; ``handle`` comes to it."""
        self._arrived.append(event)
        self.connections.results.wake()

    def collect(self) -> None:
        """Collect the events that have arrived, for ``handle``."""
        while self._arrived:
            self._heard.append(self._arrived.popleft())

    @property
    def are_any(self) -> bool:
        """Whether events were collected."""
        return bool(self._heard)

    @property
    def are_routine(self) -> bool:
        """Whether connections have only been opened, or were closed in good order to be opened again.

        Not with a token: what the server said of it before counts first.
        """
        return all(_is_routine(event) for event in self._heard)

    def handle(self) -> None:
        """Handle the events that were collected."""
        while self._heard:
            self._hear(self._heard.popleft())
        self.connections.release_dropped()

    def _hear(self, event: ConnectionEvent) -> None:
        match event:
            case Opened():
                self._opened(event)
            case OpeningCancelled():
                self._opening_cancelled(event.connection, event.reached)
            case Ended():
                self._ended(event.connection, event.end)
            case _:
                self._opening_failed(event.connection, event.error)

    def _opened(self, event: Opened) -> None:
        self.connections.greeted += 1
        self.connections.tokens.logged_in(event.connection.token)
        if event.session.size_limit != self._size:
            self._size = event.session.size_limit
            note_size(self.current.account, self._size)

    def _opening_cancelled(self, connection: Connection, reached: ConnectError | None) -> None:
        """Drop a connection that is not needed any more; after the caller's deadline it counts as failed."""
        if self.source.time_is_over:
            phase, peer = (reached.phase, reached.peer) if reached else (Phase.CONNECT, "")
            late = self.source.late_reason
            text = clean(f"{late}: {reached}") if reached else late
            self.source.fail(Outcome(Ending.TEMPORARY, phase=phase, peer=peer, error=text))
            self.troubles.note(Trouble.CONNECTION, f"connection failed ({text})")
        self.connections.drop(connection)  # a pause first: the next holder of the slot must know of it

    def _opening_failed(self, connection: Connection, error: ConnectError) -> None:
        with self.connections.retired_on_error(connection):
            if not self.connections.goes_on(connection, error):
                self.refused(error)
        self.connections.drop(connection)  # a pause first: the next holder of the slot must know of it

    def refused(self, error: ConnectError) -> None:
        """Note that no connection can be opened: trouble of the account, not of a message."""
        self.source.fail(error.as_outcome())
        self.troubles.note(error.trouble, pause_reason(error), at_least=error.retry_after)

    def _ended(self, connection: Connection, end: SessionEnd) -> None:
        self.connections.greeted -= 1
        if end.idle is not None:
            with self.connections.retired_on_error(connection):
                self._note_window()
                self.connections.rest(connection, end.idle)
            return
        if self._asks_for_login(connection, end):
            end = SessionEnd(reconnect=True)
        if not end.reconnect or self.source.time_is_over:
            peer = connection.session.peer if connection.session else ""
            self.source.fail(
                Outcome(Ending.TEMPORARY, error_code=end.error_code, error=end.error, phase=Phase.MAIL, peer=peer)
            )
        with self.connections.retired_on_error(connection):
            self._note_window()
            if end.broken is not None:
                self._do_without(end.broken, end.error)
            is_news = end.trouble is not Trouble.NONE and not connection.trouble_noted
            if is_news and not self.connections.is_corrected(connection):
                self.troubles.note(end.trouble, end.error)
        if end.trouble is Trouble.NONE and end.reconnect and not self.troubles.work.stop_reason:
            self.connections.retire(connection)
            if len(self.connections) >= self.connections.most:
                self.connections.release_spare()
        else:
            self.connections.drop(connection)  # a pause first: the next holder of the slot must know of it

    def _asks_for_login(self, connection: Connection, end: SessionEnd) -> bool:
        """Whether a session ended because its token is no longer accepted, and a fresh token may be tried."""
        if end.trouble is not Trouble.AUTH or not connection.token:
            return False
        if not connection.token_ended and not connection.trouble_noted:
            connection.token_ended = self.connections.tokens.refused(connection.token, logged_in=True)
        return connection.token_ended

    def _do_without(self, broken: Ahead, error: str) -> None:
        """Write less ahead from now on: the server does not bear it, and no message pays for that."""
        account = self.current.account
        is_news = note_ahead_broken(account, broken, clock=self.clock)
        if is_news and broken is Ahead.WINDOW:
            logger.warning(
                "account %s: a connection was lost with more than one message unanswered (%s); the account sends one "
                "message at a time over each connection for a day; set its field max_in_flight to 1 to make this "
                "permanent",
                account,
                error,
                extra={"account": account.name},
            )
        elif is_news:
            advised = _INSTEAD[broken]
            logger.warning(
                'account %s: the server does not bear pipelining "%s" (%s); the account uses "%s" for a week; set its '
                "field pipelining to %s to make this permanent",
                account,
                broken.value,
                error,
                advised,
                advised,
                extra={"account": account.name},
            )
        self.current.look_again()

    def _note_window(self) -> None:
        """Store how far the window has grown; a window that fell is noted by ``_do_without``."""
        found = self.connections.found
        if found.may_chunk and found.window.size != self._window:
            self._window = found.window.size
            note_window(self.current.account, self._window, clock=self.clock)


def _is_routine(event: ConnectionEvent) -> bool:
    if event.connection.token:
        return False
    return isinstance(event, Opened) or (isinstance(event, Ended) and event.end == SessionEnd(reconnect=True))
