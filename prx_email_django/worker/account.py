"""One account within a drain: connects, claims, records, and decides what to do when something is wrong.

The order is: slot, connection, permits, claim.  Everything here runs on the calling thread.  ``advance`` handles the
events of connections, after the results that they reported before have been recorded.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from time import monotonic

from prx_email_django.limits.pauses import note_ahead_broken, note_failure, note_size, note_success, note_window
from prx_email_django.rules.clock import Clock, uptime
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.rules.text import clean
from prx_email_django.store.absence import unwritten
from prx_email_django.transports.base import ConnectError, SessionEnd, Transport
from prx_email_django.transports.found import Ahead
from prx_email_django.worker.connection import Connection, ConnectionEvent, Ended, Opened, OpeningCancelled
from prx_email_django.worker.connections import Connections, pause_reason
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.events import announce_pause
from prx_email_django.worker.idle import IdleConnections
from prx_email_django.worker.network import Network
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.pace import Pace
from prx_email_django.worker.prefetch import ClaimPrefetch, ClaimSource
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.suspicion import Before, Next, Suspicion

logger = logging.getLogger("prx_email_django")

#: Seconds between two tries to connect: three in a row without success pause the account.
RECONNECT_AFTER = 1.0
#: The level that bears what is left of a level.
_INSTEAD = {Ahead.ENVELOPE: "off", Ahead.OVERLAP: "envelope", Ahead.CHUNKING: "full"}
#: Why an account's work has stopped: every connection is taken elsewhere, or something unexpected happened.
LIMITED, FAILED = "limited", "failed"


class AccountWorker:
    """Sends the messages of one account until nothing more can be sent now."""

    def __init__(  # noqa: PLR0913  (what a drain shares with its accounts)
        self,
        current: CurrentAccount,
        *,
        source: ClaimSource,
        clock: Clock,
        network: Network,
        results: ResultQueue,
        recorder: Recorder,
        transport: Transport,
        idle: IdleConnections | None = None,
    ) -> None:
        self.current = current
        self.source = source
        self.clock = clock
        self.network = network
        self.results = results
        self.recorder = recorder
        self.prefetch = ClaimPrefetch(current, source=source, clock=clock, recorder=recorder)
        self.ready = self.prefetch.ready
        self.connections = Connections(
            current, ready=self.ready, clock=clock, network=network, results=results, transport=transport, idle=idle
        )
        self.pace = Pace(current, ready=self.ready, connections=self.connections, clock=clock)
        #: Events of connections: those that have arrived (the network's thread appends), and those to handle next.
        self._events: deque[ConnectionEvent] = deque()
        self._heard: deque[ConnectionEvent] = deque()
        #: Why nothing more is claimed: ``paused``, ``limited``, ``stopped``; empty while the account goes on.
        self.stop_reason = ""
        self.finished = False
        state = current.state
        self.prefetch.probing = state.pause_count > 0 or state.connection_failures > 0
        self._troubled = self.prefetch.probing or bool(state.last_trouble)
        self.suspicion = Suspicion(current, ready=self.ready, clock=clock, tries_once=source.tries_once)
        self._suspected = self.suspicion.is_active
        self.prefetch.probing = self.prefetch.probing or self._suspected
        self._size = state.size_limit
        self._window = state.window
        self._failed_at = -RECONNECT_AFTER
        #: When this worker paused the account, on the clock of ``uptime()``.
        self._paused_at = -math.inf

    @property
    def account_id(self) -> int:
        """The account's primary key."""
        return self.current.account.pk

    # What the worker's loop calls

    def collect(self) -> bool:
        """Collect the events that have arrived; True: there are some, and results reported before them come first."""
        while self._events:
            self._heard.append(self._events.popleft())
        return bool(self._heard)

    def advance(self) -> None:
        """Take one step: handle events, claim, connect, render, close.  Never waits."""
        while self._heard:
            self._hear(self._heard.popleft())
        self.connections.look_at_clock()
        if self.pace.is_over():
            self._wake_connections()
        if self.finished:
            return
        if self.suspicion.is_active and not self.stop_reason:
            self._prepare_probe()
        if not self.stop_reason and not self.prefetch.claim_more(self.connections.greeted):
            self.stop("paused")
        if not self.stop_reason:
            self._connect_more()
        if self.prefetch.render():
            self._wake_connections()
        if self.prefetch.may_render():
            self.results.wake()  # for the next step, after what has come back is recorded
        self._finish_if_idle()

    def wake_in(self) -> float | None:
        """Seconds until ``advance`` has something to do without an event; None: it needs an event."""
        waits = (self.connections.wake_in(), self.pace.wake_in(), self.prefetch.wake_in())
        return None if self.finished else min((wait for wait in waits if wait is not None), default=None)

    def stop(self, reason: str) -> None:
        """Claim nothing more, release the messages that no connection has taken, and let the others end."""
        self.stop_reason = self.stop_reason or reason
        self.connections.retry_at = 0.0
        self._give_back(self.prefetch.withdraw())
        self.connections.give_up_opening()
        self.connections.release_spare()

    def abort(self) -> None:
        """Cut all connections at once."""
        self.connections.abort()

    def unreported(self) -> list[ClaimedMessage]:
        """Claimed messages that no connection has reported; one that is being taken at this moment may be missing."""
        waiting = [*self.prefetch.unrendered, *self.prefetch.without_permits, *list(self.ready.ready)]
        return waiting + [message for connection in self.connections for message in list(connection.taken)]

    def release_messages(self, doubtful: Collection[int]) -> None:
        """Release the claimed messages after the network was closed.

        Those that a connection had taken, and ``doubtful`` ones, are left to their leases.
        """
        self.prefetch.leave(self.connections.taken_ids().union(doubtful))

    def fail(self) -> None:
        """End after an unexpected error: cut the connections and handle their events; the leases cover the rest."""
        if self.stop_reason == FAILED:
            self.finished = True
        self.stop_reason, self.connections.retry_at = FAILED, 0.0
        untaken = self.prefetch.withdraw()
        self.prefetch.claims.clear()
        self.connections.give_up_opening()
        self.connections.abort()
        unwritten.write([partial(self.recorder.release, untaken)])

    def record(self, messages: Sequence[ClaimedMessage]) -> None:
        """Record the outcomes that came back for this account."""
        before = {message.id: Before.of(message) for message in messages if not message.is_accepted}
        recorded = self.recorder.finished([message.attempt() for message in messages if message.is_touched])
        self.ready.recorded += sum([message.is_accepted for message in messages])
        self._note_tokens(messages)
        untouched = [message for message in messages if not message.is_touched]
        if not self.stop_reason:
            untouched = self.prefetch.keep(untouched)
        for message in messages:
            if message not in self.prefetch.without_permits:
                self.prefetch.claims.pop(message.id, None)
        if untouched:
            self._give_back(untouched)
            self.prefetch.look_again()
        self._suspect(self.suspicion.note(messages, before, recorded))
        self._learn(messages)
        if any(attempt.progress for attempt in recorded):
            self.source.go_on()
            self.prefetch.look_again()
        self._wake_connections()

    def _suspect(self, found: Next) -> None:
        """Do what refusals in a row demand."""
        if found is Next.PAUSE:
            self.trouble(Trouble.REFUSING, self.suspicion.words)
            self.recorder.reinstated(self.suspicion.paused())
            return
        if found is Next.PROBE:
            self._give_back(self.prefetch.withdraw())
        was_suspected, self._suspected = self._suspected, self.suspicion.is_active
        if was_suspected or self._suspected:
            self.prefetch.probing = self._suspected
            self.prefetch.look_again()
        if not self.suspicion.is_active or self.suspicion.probe is None:
            self.source.only = None

    def _prepare_probe(self) -> None:
        """Let the most unlike message go next, once nothing else is on its way; without one the account pauses."""
        if self.prefetch.claims or self.source.tries_once:
            return
        if self.suspicion.probe is not None and self.prefetch.exhausted:
            self.suspicion.missed()
            self.prefetch.look_again()
        if self.suspicion.choose() is None and not self.suspicion.is_after_pause:
            self._suspect(Next.PAUSE)
            return
        self.source.only = self.suspicion.probe
        self.suspicion.let_probe_pass()

    def _give_back(self, messages: Sequence[ClaimedMessage]) -> None:
        """Release untouched messages, except those that the source keeps for its caller."""
        kept = [message for message in messages if self.source.keeps(message)]
        for message in kept:
            self.prefetch.claims.pop(message.id, None)
            if not message.mail_written:
                self.recorder.release_permits(message.permits)
        self.prefetch.release([message for message in messages if message not in kept])

    def _wake_connections(self) -> None:
        """Let waiting connections look again; the others look before they wait."""
        if self.ready.waiting:
            self.network.call(self.ready.wake_connections)

    # Events of connections

    def listen(self, event: ConnectionEvent) -> None:
        """Receive an event, on the network's thread; ``advance`` handles it."""
        self._events.append(event)
        self.results.wake()

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
            self.trouble(Trouble.CONNECTION, f"connection failed ({text})")
        self.connections.drop(connection)  # a pause first: the next holder of the slot must know of it

    def _opening_failed(self, connection: Connection, error: ConnectError) -> None:
        with self.connections.retired_on_error(connection):
            if not self.connections.goes_on(connection, error):
                self._connect_refused(error)
        self.connections.drop(connection)  # a pause first: the next holder of the slot must know of it

    def _connect_refused(self, error: ConnectError) -> None:
        """Note that no connection can be opened: trouble of the account, not of a message."""
        self.source.fail(error.as_outcome())
        self.trouble(error.trouble, pause_reason(error), at_least=error.retry_after)

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
            if end.trouble is not Trouble.NONE and not connection.trouble_noted:
                self.trouble(end.trouble, end.error)
        if end.trouble is Trouble.NONE and end.reconnect and not self.stop_reason:
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

    # Trouble, and what is learned

    def _note_tokens(self, messages: Sequence[ClaimedMessage]) -> None:
        """Tell the tokens what the server made of them; a session that demands a login anew gets a fresh token."""
        tokens = self.connections.tokens
        for message in messages:
            connection = message.connection
            if connection is None or not connection.token:
                continue
            if message.outcome.is_completed:
                tokens.completed(connection.token)
            elif message.outcome.trouble is Trouble.AUTH and not connection.token_ended:
                connection.token_ended = tokens.refused(connection.token, logged_in=True)

    def trouble(self, trouble: Trouble, reason: str, *, at_least: timedelta | None = None) -> None:
        """Count the trouble, and pause the account if the policy says so; else try again in a second.

        Connections that fail within a second of each other count as one failure: a restarting server drops all of them.
        """
        if trouble is Trouble.CONNECTION:
            if monotonic() < self._failed_at + RECONNECT_AFTER:
                return
            self._failed_at = monotonic()
        self._troubled = True
        account = self.current.account
        until = note_failure(account, trouble, reason, clock=self.clock, at_least=at_least)
        if until is not None:
            self._paused_at = uptime()
            announce_pause(account, reason=reason, until=until)
        if until is not None or trouble is not Trouble.CONNECTION or self.source.tries_once or self._is_paused():
            self.stop("paused")
        else:
            self.connections.retry_in(RECONNECT_AFTER)

    def _is_in_trouble(self) -> bool:
        """Whether the server has said lately that something is wrong with the account."""
        return self._troubled or self.prefetch.probing or self.suspicion.is_active

    def _throttled(self, trouble: Trouble) -> None:
        """Slow down; a caller who waits for one message does not wait for that."""
        self.pace.throttled(trouble)
        if self.source.tries_once:
            self.prefetch.limited_by = Obstacle(ObstacleKind.SLOW)
        elif self.pace.is_hopeless:
            self.stop(LIMITED)

    def _is_paused(self) -> bool:
        self.current.look_again()
        return self.current.is_account_paused(self.clock.now)

    def _learn(self, messages: Sequence[ClaimedMessage]) -> None:
        for message in messages:
            outcome = message.outcome
            if outcome.ending is Ending.ACCEPTED:
                self.pace.accepted()
            if outcome.trouble.is_throttle:
                self._throttled(outcome.trouble)
            elif outcome.trouble is not Trouble.NONE:
                if message.connection is not None:
                    message.connection.trouble_noted = True
                    if message.connection.token_ended and outcome.trouble is Trouble.AUTH:
                        continue
                self.trouble(outcome.trouble, outcome.error)
            elif outcome.is_completed and (not self.suspicion.is_active or outcome.ending is Ending.ACCEPTED):
                self.prefetch.note_completed()
                if (self._troubled or self.prefetch.after_pause) and message.mail_at > self._paused_at:
                    note_success(self.current.account, begun_at=message.started_at or self.clock.now)
                    self.current.look_again()  # the pause is over: the other connections may open
                    self._troubled = self.prefetch.probing = self.prefetch.after_pause = False
                    self.prefetch.look_again()

    # Connecting and ending

    def _connect_more(self) -> None:
        while not self.stop_reason and self._wants_connection():
            if self.connections.retry_at or not self._open_connection():
                return

    def _wants_connection(self) -> bool:
        """Whether to open a connection: the first at once, the others once it has greeted and while there is work."""
        count = len(self.connections)
        if not count:
            return bool(self.prefetch.claims) or self.prefetch.may_find_some()
        if self.prefetch.probing or not self.connections.greeted or count >= self.connections.most:
            return False
        return self.prefetch.wants_connection(open_now=count)

    def _open_connection(self) -> bool:
        try:
            settings = self.connections.settings()
        except ConnectError as error:
            self._connect_refused(error)
            return False
        if settings is None:
            return False
        if self.connections.open(settings, self.listen):
            return True
        if not self.connections:
            self.stop(LIMITED)
        return False

    def _finish_if_idle(self) -> None:
        if self.prefetch.claims or not (self.stop_reason or self.prefetch.is_empty()):
            return
        if not self.stop_reason and self.prefetch.looks_once_more():
            self.results.wake()
            return
        if not self.ready.closing:
            self.ready.keeps_one = not (self.stop_reason or self._is_in_trouble()) and self.connections.may_keep_one()
            self.ready.closing = True
            self.connections.give_up_opening()
            self.network.call(self.ready.wake_connections)
        if not self.connections and self.connections.tokens.is_settled():
            self.connections.release_spare()
            self.finished = True
