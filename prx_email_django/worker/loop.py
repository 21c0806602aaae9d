"""The loop of the calling thread: results in, claims out, leases renewed; it ends when no account can go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from operator import methodcaller
from time import monotonic

from django.db import InterfaceError, OperationalError

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.slots import renew_slots
from prx_email_django.rules.clock import Clock
from prx_email_django.store.claims import renew
from prx_email_django.store.db import fresh_connection
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder

logger = logging.getLogger("prx_email_django")

#: Seconds for which a result may wait for further results while connections are busy.
GROUP_WAIT = 0.1
#: All leases are renewed at least so often, in seconds.
RENEW_EVERY = 20.0


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
        #: Results that are being recorded.
        self._unrecorded: dict[AccountWorker, list[ClaimedMessage]] = {}

    def add(self, worker: AccountWorker) -> None:
        """Add the worker of an account."""
        self.workers.append(worker)
        self._by_account[worker.account_id] = worker

    def run(
        self,
        *,
        should_stop: Callable[[], str] = lambda: "",
        tick: Callable[[], None] = lambda: None,
        wake_in: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Run until every account has finished.

        ``should_stop`` gives the reason to end early, or an empty string; ``tick`` is called in every turn, and
        ``wake_in`` says after how many seconds it has something to do.
        """
        while True:
            if reason := should_stop():
                for worker in self.workers:
                    if not worker.stop_reason:
                        self._guarded(worker, methodcaller("stop", reason))
            heard = [worker.collect() for worker in self.workers]
            self.record(everything=any(heard))
            self._renew()
            for worker in self.workers:
                self._guarded(worker, methodcaller("advance"))
            tick()
            self.workers = [worker for worker in self.workers if not worker.finished]
            if not self.workers and not self.results.results:
                return
            self.results.wait(min(self._timeout(), wake_in()))

    def record(self, *, everything: bool = False) -> None:
        """Write the results that have come back: a group, or fewer where a connection is idle or time has passed."""
        if not self.results.results or not (everything or self._is_time()):
            return
        self._sort()
        for worker in list(self._unrecorded):
            self._guarded(worker, self._record_group)
        self._recorded_at = monotonic()

    def _record_group(self, worker: AccountWorker) -> None:
        worker.record(self._unrecorded[worker])
        del self._unrecorded[worker]

    def _sort(self) -> None:
        """Sort the results by account; whenever a signal interrupts, each result is in exactly one place."""
        results = self.results.results
        for _ in range(len(results)):
            worker = self._by_account[results[0].claim.message.account_id]
            self._unrecorded.setdefault(worker, []).append(results[0])
            results.popleft()

    def leave(self) -> None:
        """Clean up after an exception or a SystemExit: cut the connections, record the results, release the rest."""
        for worker in self.workers:
            worker.abort()
        for worker in self.workers:
            worker.network.close()
        self._sort()
        fresh_connection()
        for worker in {*self.workers, *self._unrecorded}:
            try:
                worker.leave(self._rescue(worker))
            except Exception:
                account = worker.current.account
                logger.exception(
                    "account %s: a drain could not release everything; the rest is recovered when its leases end",
                    account,
                )

    def _rescue(self, worker: AccountWorker) -> set[int]:
        """Record each result by itself; returns the messages whose results could not be recorded."""
        lost: set[int] = set()
        for message in self._unrecorded.pop(worker, []):
            try:
                self.recorder.rescue(message)
            except Exception:
                logger.exception(
                    "message %s: its result could not be recorded; it is recovered when its lease ends", message.id
                )
                lost.add(message.id)
            else:
                worker.prefetch.claims.pop(message.id, None)
        return lost

    def _is_time(self) -> bool:
        if len(self.results.results) >= self.results.group or monotonic() - self._recorded_at >= GROUP_WAIT:
            return True
        idle = any(connection.idle for worker in self.workers for connection in worker.ready.connections.copy())
        return idle or not any(worker.ready.in_flight for worker in self.workers)

    def _renew(self) -> None:
        if monotonic() < self._renew_at:
            return
        self._renew_at = monotonic() + self._renew_every
        claims = [claim for worker in self.workers for claim in worker.prefetch.claims.values()]
        renew({claim.lease for claim in claims}, clock=self.clock)
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
        """Run a step of one account: an unexpected error ends that account's work only, a database error all work."""
        try:
            step(worker)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            if all(other is worker for other in self.workers):
                raise
            logger.exception("account %s: the drain goes on without it", worker.current.account)
            self._rescue(worker)
            worker.fail()
