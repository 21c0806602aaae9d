"""A drain: everything that is due goes out, as far as limits allow, and then it returns."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from time import monotonic

from django.db import Error

from prx_email_django.models import Account, OutboxState
from prx_email_django.results import DrainReport
from prx_email_django.rules.clock import Clock
from prx_email_django.store.absence import is_missing, waiting_for_database
from prx_email_django.store.db import fresh_connection_after_exit
from prx_email_django.store.due import accounts_with_due, next_due
from prx_email_django.store.outbox import LOOKS_FOR, begin_drain
from prx_email_django.worker.account import FAILED, AccountWorker
from prx_email_django.worker.claim_source import DueMessages
from prx_email_django.worker.current import CurrentAccount, CurrentOutbox
from prx_email_django.worker.cycle_collector import cycle_collector_at_ease
from prx_email_django.worker.heartbeat import Heartbeat, is_loop
from prx_email_django.worker.idle import idle_connections
from prx_email_django.worker.loop import FIRST_TRY, LONGEST_ABSENCE, WorkerLoop, next_try
from prx_email_django.worker.network import Network
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.ready_accounts import ReadyAccounts
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.token_keeper import transport

logger = logging.getLogger("prx_email_django")

#: Seconds between two looks at the queue: for other accounts, or while a waiting drain has nothing to do.
POLL = 1.0


class Drain:
    """One call of ``drain``."""

    def __init__(  # noqa: PLR0913  (the options of the public function)
        self,
        *,
        clock: Clock,
        outbox: OutboxState,
        limit: int | None = None,
        accounts: Sequence[Account] | None = None,
        time_budget: float | None = None,
        wait: bool = False,
        progress: Callable[[DrainReport], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.clock = clock
        self.outbox = CurrentOutbox(outbox)
        self.limit = limit
        self.deadline = None if time_budget is None else monotonic() + time_budget
        self.wait = wait
        self.progress = progress
        self.stop = stop
        self.begun = monotonic()
        self.recorder = Recorder(clock)
        self.heartbeat = Heartbeat(clock)
        self._look_at = 0.0
        #: Until when the queue must be looked at (``_looks_once_more``).
        self._look_until = 0.0
        #: Where the loop that this drain belongs to keeps connections.
        self._idle = idle_connections()
        self.ready = ReadyAccounts(self.outbox, named=accounts, clock=clock, idle=self._idle)

    def run(self) -> DrainReport:
        """Recover, then send until nothing can go now (with ``wait``: until the time budget ends)."""
        noted_at = self.outbox.last_drain_at if is_loop() else None
        answers = begin_drain(
            clock=self.clock, noted_at=noted_at, asked=self.outbox.was_asked_for_drain or not is_loop()
        )
        self.ready.is_asked = answers
        self._look_until = monotonic() + LOOKS_FOR if answers else 0.0
        if self._idle is not None:
            self._idle.look_at = math.inf
        with ExitStack() as stack:
            stack.enter_context(cycle_collector_at_ease())
            stack.callback(self._end)
            stack.enter_context(fresh_connection_after_exit())
            stack.enter_context(waiting_for_database(self._wait_for_database))
            network: Network | None = None
            while not self._should_stop():
                self._recover()
                ready = self.ready.look() if self._budget(1) > 0 else []
                if ready:
                    network = network or (self._idle.network() if self._idle else stack.enter_context(Network()))
                    self._round(ready, network)
                    self._tick()
                if not self._looks_once_more() and (not self.wait or not self._wait_for_due()):
                    break
        return self.recorder.report(monotonic() - self.begun)

    def _recover(self) -> None:
        """Recover; the drains of a loop do so once a second together, however many are asked for."""
        if self._idle is None or monotonic() >= self._idle.recover_at:
            self.recorder.recover()
            if self._idle is not None:
                self._idle.recover_at = monotonic() + POLL

    def _looks_once_more(self) -> bool:
        """Whether to look again, after a moment: who asked for a drain meanwhile may have been told that it was asked.

        See ``store.outbox.LOOKS_FOR``.  A loop does not wait here: it begins its next drain at that moment, or sooner.
        """
        if self.ready.looked_at >= self._look_until or self.clock.given is not None or self._budget(1) <= 0:
            return False
        until, self._look_until = self._look_until, 0.0
        if self._idle is not None and not self.wait:
            self._idle.look_at = until
            return False
        return self._sleep(until - monotonic()) and bool(accounts_with_due(clock=self.clock))

    def _end(self) -> None:
        """Write the counts, also of a drain that breaks off."""
        self.recorder.tally.write()
        self.heartbeat.end(self.recorder.counts["sent"])

    def _wait_for_database(self, error: Error, absent: float) -> bool:
        """Wait a moment between two rounds, when nothing is claimed; False: the drain ends first."""
        if is_missing(error):
            return False
        if is_first := absent < FIRST_TRY:  # perhaps only the session has ended
            logger.error("the database is away, nothing is claimed: %s", error)
        time.sleep(next_try(absent))
        return is_first or (not self._should_stop() and absent < LONGEST_ABSENCE)

    def _round(self, accounts: Iterable[CurrentAccount], network: Network) -> None:
        results = ResultQueue()
        loop = WorkerLoop(clock=self.clock, results=results, recorder=self.recorder)
        used_transport = transport()

        def add(accounts: Iterable[CurrentAccount]) -> None:
            for current in accounts:
                self.recorder.names[current.account.pk] = current.account.name
                loop.add(
                    AccountWorker(
                        current,
                        source=DueMessages(current, clock=self.clock, budget=self._budget),
                        clock=self.clock,
                        network=network,
                        results=results,
                        recorder=self.recorder,
                        transport=used_transport,
                        idle=self._idle,
                        under_way=loop.under_way,
                    )
                )
            results.group = max(1, sum(worker.ready.group for worker in loop.workers))

        def tick() -> None:
            self._tick()
            if self.heartbeat.beat(self.recorder.counts["sent"]):
                self.recorder.tally.write()
            add(self._newcomers(loop))

        add(accounts)
        self._look_at = monotonic() + POLL
        try:
            loop.run(should_stop=self._should_stop, tick=tick)
        except BaseException:
            if self._idle is not None:
                self._idle.cut()
            loop.leave(written=self._tick)
            if self._idle is not None:
                self._idle.leave()
            self._tick()  # what was sent counts, although the drain breaks off
            raise
        finally:
            results.close()

    def _newcomers(self, loop: WorkerLoop) -> list[CurrentAccount]:
        """Further accounts that have become ready, looked up once a second: an account that waits delays no other."""
        self.ready.barred |= {worker.account_id for worker in loop.workers if worker.stop_reason == FAILED}
        if monotonic() < self._look_at or self._should_stop() or self._budget(1) <= 0:
            return []
        self._look_at = monotonic() + POLL
        self._recover()
        return self.ready.look(running={worker.account_id for worker in loop.workers})

    def _budget(self, wanted: int) -> int:
        if self.limit is None:
            return wanted
        counts = self.recorder.counts
        return max(0, min(wanted, self.limit - (counts["claimed"] - counts["released"])))

    def _should_stop(self) -> str:
        if self.stop is not None and self.stop():
            return "stopped"
        if self.deadline is not None and monotonic() >= self.deadline:
            return "budget"
        return ""

    def _tick(self) -> None:
        if self.progress is not None:
            self.progress(self.recorder.report(monotonic() - self.begun))

    def _wait_for_due(self) -> bool:
        """Wait for a row that becomes due within the time budget; False: there is none."""
        if self._budget(1) <= 0:
            return False
        if self.deadline is None or self.clock.given is not None:
            return False
        # What is due already could not go: a limit or a pause.  It keeps nobody from waiting for others.
        moments = [next_due([account.pk]) for account in self.ready.candidates()]
        waits = [(moment - self.clock.now).total_seconds() for moment in moments if moment is not None]
        seconds = min((wait for wait in waits if wait > 0), default=None)
        if seconds is None or monotonic() + seconds >= self.deadline:
            return False
        return self._sleep(seconds)

    def _sleep(self, seconds: float) -> bool:
        until = monotonic() + seconds
        while not self._should_stop():
            left = until - monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, POLL))
        return False
