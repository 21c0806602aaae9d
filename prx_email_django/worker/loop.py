"""The loop of the calling thread: results in, claims out, leases renewed; it ends when no account can go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from operator import methodcaller
from time import monotonic

from django.db import Error

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.pauses import is_deleted
from prx_email_django.limits.slots import renew_slots
from prx_email_django.rules.clock import Clock
from prx_email_django.store.absence import is_missing, may_pass, unwritten, waiting_for_database
from prx_email_django.store.begun import descriptor_under_way
from prx_email_django.store.claims import renew
from prx_email_django.store.db import fresh_connection
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.under_way import UnderWay

logger = logging.getLogger("prx_email_django")

#: Seconds for which a result may wait for further results while connections are busy.
GROUP_WAIT = 0.1
#: All leases are renewed at least so often, in seconds.
RENEW_EVERY = 20.0
#: Seconds between two tries while the database is away: the first wait, doubled up to the longest.
FIRST_TRY, LAST_TRY = 0.05, 0.5
#: Seconds for which a worker that should end waits for the database, once nothing is on its way any more.
END_GRACE = 10.0
#: Seconds after which a worker that nobody has asked to end gives up.
LONGEST_ABSENCE = 600.0


def next_try(absent: float) -> float:
    """Seconds until the next try, when the database has been away for so many seconds."""
    return min(max(FIRST_TRY, absent), LAST_TRY)


class WorkerLoop:
    """Runs the workers of accounts side by side; a slow or failing account never delays another."""

    def __init__(self, *, clock: Clock, results: ResultQueue, recorder: Recorder) -> None:
        self.clock = clock
        self.results = results
        self.recorder = recorder
        #: Those that have not finished.
        self.workers: list[AccountWorker] = []
        #: The last worker of each account: results of a worker that has failed may come late.
        self._by_account: dict[int, AccountWorker] = {}
        self._renew_every = min(outbox_settings().lease / 3, timedelta(seconds=RENEW_EVERY)).total_seconds()
        self._renew_at = monotonic() + self._renew_every
        self._recorded_at = monotonic()
        self.under_way = UnderWay(lambda worker, work: self._guarded(worker, lambda _: work()))
        #: Results that are being recorded.
        self._unrecorded: dict[AccountWorker, list[ClaimedMessage]] = {}
        #: Whether the worker should end: asked while the database is away.
        self._is_over: Callable[[], bool] = lambda: False
        #: A worker that should end waits for the database only to record results; others also to release claims.
        self.waits_for_results_only = False
        #: Since when the worker should end, with nothing on its way.
        self._quiet_since: float | None = None

    def add(self, worker: AccountWorker) -> None:
        """Add the worker of an account."""
        self.workers.append(worker)
        self._by_account[worker.account_id] = worker

    def run(
        self,
        *,
        should_stop: Callable[[], str] = lambda: "",
        is_over: Callable[[], bool] | None = None,
        tick: Callable[[], None] = lambda: None,
        wake_in: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Run until every account has finished.

        ``should_stop`` gives the reason to end early, or an empty string; ``tick`` is called in every turn, and
        ``wake_in`` says after how many seconds it has something to do.  While the database is away, none of these is
        called but ``is_over`` (``should_stop`` if it is not given), which must not use the database.

        Raises:
            Error: the database was away, and the worker should end before it is back.
        """
        self._is_over = is_over or (lambda: bool(should_stop()))
        with self.waiting():
            self._turn_until_finished(should_stop, tick, wake_in)

    def waiting(self) -> AbstractContextManager[None]:
        """What ``run`` does when a statement finds the database away, for statements after it."""
        return waiting_for_database(self._wait_for_database)

    def _turn_until_finished(
        self, should_stop: Callable[[], str], tick: Callable[[], None], wake_in: Callable[[], float]
    ) -> None:
        while True:
            if reason := should_stop():
                for worker in self.workers:
                    if not worker.stop_reason:
                        self._guarded(worker, methodcaller("stop", reason))
            self._hand_out_again()
            come_first = [worker.collect_events() for worker in self.workers]
            self.record(everything=any(come_first))
            if any(come_first):
                self.under_way.finish()
            self._renew()
            self.under_way.has_worked = False
            for worker in self.workers:
                self._guarded(worker, methodcaller("advance"))
            tick()
            self.workers = [worker for worker in self.workers if not worker.finished]
            if not self.workers and not self.results.results:
                return
            if self.results.results and self._is_time():
                continue  # the next group is made ready while the database works
            if self.under_way.has_worked:
                continue  # what an account claimed, another one's step may have found out
            self._wait(min(self._timeout(), wake_in()))

    def _wait(self, seconds: float) -> None:
        """Wait for a wake-up and for the statement that is under way: what comes first is seen to first."""
        descriptor = descriptor_under_way() if self.under_way.is_any else None
        if descriptor is not None and self.results.wait_for_both(descriptor, seconds):
            return
        if not self.under_way.finish():
            self.results.wait(seconds)

    def record(self, *, everything: bool = False) -> None:
        """Write the results that have come back: a group, or fewer where a connection is idle or time has passed."""
        if not self.results.results or not (everything or self._is_time()):
            return
        self._sort()
        for worker in list(self._unrecorded):
            self._guarded(worker, self._record_group)
        self._recorded_at = monotonic()

    def _wait_for_database(self, error: Error, absent: float) -> bool:
        """Wait a moment for a database that is away; False: the worker ends first.

        The network goes on meanwhile with what the connections may take.  A worker that should end hands out nothing
        more, and lets what is on its way come to its end.  It too tries once more: perhaps only its session has ended.
        A worker that holds nothing does not wait for missing tables: perhaps a migration is missing.
        """
        if is_missing(error) and not self._is_sending() and not self._holds_something():
            return False
        if is_first := absent < FIRST_TRY:
            logger.error("the database is away, results are kept in memory: %s", error)
        until = monotonic() + next_try(absent)
        while (left := until - monotonic()) > 0:
            if not self._is_over() and absent < LONGEST_ABSENCE:
                self._quiet_since = None
            elif not self._becomes_quiet() and not is_first:
                return False
            time.sleep(min(left, FIRST_TRY))
        return True

    def _hand_out_again(self) -> None:
        """The database is back."""
        for worker in self.workers:
            if worker.ready.stopped:
                worker.ready.stopped = False
                worker.network.call(worker.ready.wake_connections)

    def _becomes_quiet(self) -> bool:
        """Hand out nothing more; False: nothing is left to write, or for long enough nothing has been on its way."""
        for worker in self.workers:
            worker.ready.stopped = True
        if self._is_sending():
            return True
        self._quiet_since = self._quiet_since or monotonic()
        return self._holds_something() and monotonic() < self._quiet_since + END_GRACE

    def _is_sending(self) -> bool:
        return any(worker.ready.in_flight for worker in self.workers)

    def _holds_something(self) -> bool:
        """Whether this process alone knows something that the database should know."""
        results = [*self.results.results, *(message for group in self._unrecorded.values() for message in group)]
        results += [message for worker in self.workers for message in worker.unrecorded()]
        holds = any(message.is_touched for message in results)
        if not self.waits_for_results_only:
            holds = holds or any(worker.prefetch.claims for worker in self.workers)
        return holds

    def _record_group(self, worker: AccountWorker) -> None:
        # A worker that has failed by what a group before had left to do has none: they are rescued.
        if (messages := self._unrecorded.get(worker)) is not None:
            worker.record(messages)
            self._unrecorded.pop(worker, None)

    def _sort(self) -> None:
        """Sort the results by account; whenever a signal interrupts, each result is in exactly one place."""
        results, by_account = self.results.results, self._by_account
        for _ in range(len(results)):
            message = results[0]
            worker = by_account[vars(message.claim.message)["account_id"]]  # a foreign key's attribute is a function
            if worker not in self._unrecorded:
                self._unrecorded[worker] = []
            self._unrecorded[worker].append(message)
            results.popleft()

    def leave(self, written: Callable[[], object] = lambda: None) -> None:
        """Clean up after an exception or a SystemExit: cut the connections, record the results, release the rest.

        ``written`` is called for each account whose results and releases are written, perhaps later and in another
        thread.
        """
        for worker in self.workers:
            worker.abort()
        for worker in self.workers:
            worker.network.close()
        fresh_connection()  # and the result of what is under way is taken
        for worker in self.workers:
            self._finish_left(worker)
        self._sort()
        for worker in {*self.workers, *self._unrecorded}:
            lost: set[int] = set()
            results = [*worker.unrecorded(), *self._unrecorded.pop(worker, [])]
            unwritten.write(
                [partial(self._rescue, worker, message, lost) for message in results]
                + [partial(worker.release_messages, lost), worker.connections.leave, written]
            )

    def _finish_left(self, worker: AccountWorker) -> None:
        """Do what the statement under way has left to do for a worker that ends: what it recorded is to be announced.

        Not where the database is away: each result is then written by itself.
        """
        if (work := self.under_way.taken_from(worker)) is not None:
            try:
                with waiting_for_database(None):
                    work()
            except Exception as error:
                if not may_pass(error):
                    logger.exception("account %s: its last statement", worker.current.account)

    def _rescue(self, worker: AccountWorker, message: ClaimedMessage, lost: set[int]) -> None:
        """Record one result by itself; a message whose result cannot be recorded is added to ``lost``."""
        try:
            self.recorder.rescue(message)
        except Exception as error:
            if may_pass(error):
                raise
            logger.exception(
                "message %s: its result could not be recorded; it is recovered when its lease ends", message.id
            )
            lost.add(message.id)
        else:
            worker.prefetch.forget(message)

    def _is_time(self) -> bool:
        if len(self.results.results) >= self.results.group or monotonic() - self._recorded_at >= GROUP_WAIT:
            return True
        idle = any(connection.idle for worker in self.workers for connection in worker.ready.connections.copy())
        return idle or not any(worker.ready.in_flight for worker in self.workers)

    def _renew(self) -> None:
        if monotonic() < self._renew_at:
            return
        self._renew_at = monotonic() + self._renew_every
        self.under_way.finish()
        claims = [claim for worker in self.workers for claim in worker.prefetch.held()]
        renew(claims, clock=self.clock)
        renew_slots([connection.slot for worker in self.workers for connection in worker.connections], clock=self.clock)
        for worker in self.workers:
            worker.network.call(worker.ready.wake_connections)

    def _timeout(self) -> float:
        waits: list[float] = [self._renew_at - monotonic(), 1.0]
        waits += [wait for wait in (worker.wake_in() for worker in self.workers) if wait is not None]
        if any(worker.ready.in_flight for worker in self.workers) or self.results.results:
            waits.append(GROUP_WAIT)
        return min(waits)

    def _guarded(self, worker: AccountWorker, step: Callable[[AccountWorker], object]) -> None:
        """Run a step of one account: an unexpected error ends that account's work only, a database error all work.

        Where there is no other account's work, the caller learns of it, unless a person has only deleted the account.
        """
        try:
            step(worker)
        except Exception as error:
            if may_pass(error):
                raise
            if any(other is not worker for other in self.workers):
                logger.exception("account %s: the drain goes on without it", worker.current.account)
            elif is_deleted(worker.current.account):
                logger.warning("account %s was deleted: the drain goes on without it", worker.current.account)
            else:
                raise
            self._finish_left(worker)
            results = [*worker.unrecorded(), *self._unrecorded.pop(worker, [])]
            unwritten.write([partial(self._rescue, worker, message, set()) for message in results])
            worker.fail()
