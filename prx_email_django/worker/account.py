"""One account within a drain: connects, claims and records, until nothing more can be sent now.

The order is: slot, connection, permits, claim.  Everything here runs on the calling thread.  ``advance`` handles the
events of connections (``connection_events``), after the results that they reported before have been recorded.  What
follows from trouble stands in ``trouble`` and ``suspicion``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from prx_email_django.conf import outbox_settings
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.store.absence import unwritten
from prx_email_django.store.attempts import RecordedAttempt
from prx_email_django.transports.base import ConnectError, Transport
from prx_email_django.worker.claim_source import ClaimSource
from prx_email_django.worker.connection_events import ConnectionEvents
from prx_email_django.worker.connections import Connections
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.events import tells_sent
from prx_email_django.worker.idle import IdleConnections
from prx_email_django.worker.learning import Learning
from prx_email_django.worker.network import Network
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.prefetch import ClaimPrefetch
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.suspicion import Before, Next, Suspicion
from prx_email_django.worker.trouble import LIMITED, Pace, Troubles
from prx_email_django.worker.under_way import UnderWay

#: Why an account's work has stopped: something unexpected happened.
FAILED = "failed"


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
        under_way: UnderWay | None = None,
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
        self.pace = Pace(self.connections)
        self.troubles = Troubles(self.connections, work=self, tries_once=source.tries_once)
        self.events = ConnectionEvents(self.connections, source=source, troubles=self.troubles)
        #: See ``trouble.Work``.
        self.stop_reason = ""
        self.finished = False
        self.suspicion = Suspicion(current, ready=self.ready, clock=clock, tries_once=source.tries_once)
        self._suspected = self.suspicion.is_active
        self.learning = Learning(
            self.connections,
            work=self,
            source=source,
            prefetch=self.prefetch,
            pace=self.pace,
            troubles=self.troubles,
            suspicion=self.suspicion,
        )
        #: None: each statement is waited for.
        self.under_way = under_way
        if under_way is not None:
            self.prefetch.follow = partial(under_way.follow, self, is_claim=True)
            self.prefetch.may_begin = self._is_calm
        #: Groups of results whose statement is under way; until its work is done, nobody else holds them.
        self._groups: list[Sequence[ClaimedMessage]] = []
        self.prefetch.probing = self.troubles.needs_probe or self._suspected

    @property
    def account_id(self) -> int:
        """The account's primary key."""
        return self.current.account.pk

    # What the worker's loop calls

    def collect_events(self) -> bool:
        """Collect the events of connections; True: the results that were reported before them are recorded first.

        Not where connections come and go in good order, more waits for them and everything is accepted: an account that
        allows few messages on a connection would keep groups small, and the thread waiting for statements.
        """
        self.events.collect()
        if not self.events.are_any:
            return False
        if not (self.events.are_routine and self.prefetch.has_waiting() and self._is_calm()):
            return True
        return self.ready.is_on_hold() or any(not message.is_accepted for message in list(self.results.results))

    def advance(self) -> None:
        """Take one step: handle events, claim, connect, render, close."""
        if not self._is_calm():
            self.finish_under_way()
        self.events.handle()
        self.connections.look_at_clock()
        if self.pace.is_over():
            self._wake_connections()
        if self.finished:
            return
        if self.suspicion.is_active and not self.stop_reason:
            self._prepare_probe()
        if self.prefetch.would_claim():
            self._make_way()
        if not self.stop_reason and not self.prefetch.claim_more(self.connections.greeted):
            self.stop("paused")
        if not self.stop_reason:
            self._connect_more()
        if self.prefetch.rendering.render():
            self._wake_connections()
        if self.prefetch.lookahead.goes_on() or self.prefetch.rendering.may_render():
            self.results.wake()  # for the next step, after what has come back is recorded
        self._finish_if_idle()

    def wake_in(self) -> float | None:
        """Seconds until ``advance`` has something to do without an event; None: it needs an event."""
        waits = (self.connections.wake_in(), self.pace.wake_in(), self.prefetch.permits.wake_in())
        return None if self.finished else min((wait for wait in waits if wait is not None), default=None)

    def stop(self, reason: str) -> None:
        """Claim nothing more, release the messages that no connection has taken, and let the others end."""
        self.finish_under_way()
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
        waiting = self.prefetch.waiting()  # before the others: a connection may take one at this moment
        return waiting + [message for connection in self.connections for message in list(connection.taken.values())]

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
        self._groups, self.prefetch.is_claiming = [], False
        releases = self.prefetch.give_up()
        self.connections.give_up_opening()
        self.connections.abort()
        unwritten.write(releases)

    def unrecorded(self) -> list[ClaimedMessage]:
        """Messages whose result is being recorded by a statement that is under way."""
        return [message for group in self._groups for message in group]

    def finish_under_way(self) -> None:
        """Wait for the statement that is under way, of whatever account, and do what it has left to do."""
        if self.under_way is not None:
            self.under_way.finish()

    def record(self, messages: Sequence[ClaimedMessage]) -> None:
        """Record the outcomes that came back for this account; a group of acceptances may be under way afterwards."""
        accepted, had_failed = Ending.ACCEPTED, self.stop_reason == FAILED
        others = [message for message in messages if message.outcome.ending is not accepted]
        if not others and self._begins_to_record(messages):
            return
        self.finish_under_way()
        if self.stop_reason == FAILED and not had_failed:
            return  # by what was under way, and the loop has rescued these results too
        before = {message.id: Before.of(message) for message in others}
        untouched = [message for message in others if not message.is_touched]
        touched = [message for message in messages if message.is_touched] if untouched else messages
        recorded = self.recorder.finished([message.attempt() for message in touched])
        self._recorded(messages, untouched, before, recorded)

    def _begins_to_record(self, messages: Sequence[ClaimedMessage]) -> bool:
        """Begin to record messages that were all accepted; False: nothing was begun."""
        if tells_sent():  # as in ``_make_way``
            self.finish_under_way()
        if self.under_way is None or not self._is_calm():
            return False
        waited_for = self.recorder.begin([message.attempt() for message in messages])
        if waited_for is None:
            return False
        self._groups.append(messages)
        self.under_way.follow(self, partial(self._finish_group, messages, waited_for))
        return True

    def _finish_group(
        self, messages: Sequence[ClaimedMessage], waited_for: Callable[[], list[RecordedAttempt]]
    ) -> None:
        self._recorded(messages, [], {}, waited_for())
        if messages in self._groups:  # else its worker has failed by what followed
            self._groups.remove(messages)

    def _recorded(
        self,
        messages: Sequence[ClaimedMessage],
        untouched: Sequence[ClaimedMessage],
        before: dict[int, Before],
        recorded: Sequence[RecordedAttempt],
    ) -> None:
        """Do what follows from results that are recorded; ``before``: those that were not accepted, as they were."""
        self.ready.recorded += len([1 for message in messages if message.is_accepted])
        self.learning.note_tokens(messages)
        if untouched and not self.stop_reason:
            untouched = self.prefetch.keep(untouched)
        kept = self.prefetch.without_permits
        for message in messages:
            if message not in kept:
                self.prefetch.forget(message)
        if untouched:
            self._give_back(untouched)
            self.prefetch.look_again()
        self._suspect(self.suspicion.note(messages, before, recorded))
        self.learning.learn(messages)
        if any(attempt.progress for attempt in recorded):
            self.source.go_on()
            self.prefetch.look_again()
        self._wake_connections()

    def _is_calm(self) -> bool:
        """Whether nothing is known that could keep the account from going on, and no code of the host renders."""
        return not (self.stop_reason or self._is_in_trouble() or outbox_settings().calls_host)

    def _make_way(self) -> None:
        """Finish what is under way, where the next statement must not be begun before.

        The claim of another account: a limit of the drain needs to know what it takes.  Where the host's code learns of
        what was sent: it may wait for others, who wait for a row that a claim under way has locked.
        """
        if self.under_way is not None and (self.under_way.is_claim or tells_sent()):
            self.finish_under_way()

    def _suspect(self, found: Next) -> None:
        """Do what refusals in a row demand."""
        if found is Next.PAUSE:
            self.troubles.note(Trouble.REFUSING, self.suspicion.words)
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
            self.prefetch.forget(message)
            if not message.mail_written:
                self.recorder.release_permits(message.permits)
        self.prefetch.release([message for message in messages if message not in kept])

    def _wake_connections(self) -> None:
        """Let waiting connections look again; the others look before they wait."""
        if self.ready.waiting:
            self.network.call(self.ready.wake_connections)

    def _is_in_trouble(self) -> bool:
        """Whether the server has said lately that something is wrong with the account."""
        return self.troubles.are_known or self.prefetch.probing or self.suspicion.is_active

    # Connecting and ending

    def _connect_more(self) -> None:
        opened = False
        while not self.stop_reason and (wanted := self._wanted_connections()):
            if self.connections.retry_at or not self._open_connection(wanted):
                break
            opened = True
        if opened:
            self.connections.release_spare()  # slots that were taken together, and are not needed any more

    def _wanted_connections(self) -> int:
        """How many to open: the first at once, the others once it has greeted, as many as have work."""
        count = len(self.connections)
        if not count:
            return int(bool(self.prefetch.claims) or self.prefetch.may_find_some())
        if self.prefetch.probing or not self.connections.greeted:
            return 0
        return self.prefetch.wanted_connections(open_now=count, most=self.connections.most)

    def _open_connection(self, wanted: int) -> bool:
        try:
            settings = self.connections.settings()
        except ConnectError as error:
            self.events.refused(error)
            return False
        if settings is None:
            return False
        if self.connections.open(settings, self.events.listen, wanted=wanted):
            return True
        if not self.connections:
            self.stop(LIMITED)
        return False

    def _finish_if_idle(self) -> None:
        if self.prefetch.claims or self.prefetch.is_claiming or not (self.stop_reason or self.prefetch.is_empty()):
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
