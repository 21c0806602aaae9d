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
from prx_email_django.worker.account import AccountRun
from prx_email_django.worker.connection import Mailbox, Result
from prx_email_django.worker.recorder import Recorder

logger = logging.getLogger("prx_email_django")

#: Seconds for which a result may wait for company while connections are busy.
GROUP_WAIT = 0.1
#: All leases are renewed at least so often, in seconds.
RENEW_EVERY = 20.0


class Engine:
    """Runs accounts side by side; a slow or dead one never holds up another."""

    def __init__(self, *, clock: Clock, mailbox: Mailbox, recorder: Recorder) -> None:
        self.clock = clock
        self.mailbox = mailbox
        self.recorder = recorder
        self.runs: list[AccountRun] = []
        self._renew_every = min(outbox_settings().lease / 3, timedelta(seconds=RENEW_EVERY)).total_seconds()
        self._renew_at = monotonic() + self._renew_every
        self._recorded_at = monotonic()
        #: Results that are being recorded.
        self._unrecorded: dict[AccountRun, list[Result]] = {}

    def run(self, *, should_stop: Callable[[], str], tick: Callable[[], None] = lambda: None) -> None:
        """Until every account has finished.  ``should_stop`` gives the reason to end early, or an empty string."""
        while True:
            reason = should_stop()
            for run in self.runs:
                if reason and not run.stop_reason:
                    self._guarded(run, methodcaller("stop", reason))
            heard = [run.collect() for run in self.runs]
            self.record(everything=any(heard))
            self._renew()
            for run in self.runs:
                self._guarded(run, methodcaller("advance"))
            tick()
            self.runs = [run for run in self.runs if not run.finished]
            if not self.runs and not self.mailbox.results:
                return
            self.mailbox.wait(self._timeout())

    def record(self, *, everything: bool = False) -> None:
        """Write the results that have come back: a group, or fewer where a connection is idle or time has passed."""
        if not self.mailbox.results or not (everything or self._is_time()):
            return
        self._sort()
        for run in list(self._unrecorded):
            self._guarded(run, self._record_group)
        self._recorded_at = monotonic()

    def _record_group(self, run: AccountRun) -> None:
        run.results(self._unrecorded[run])
        del self._unrecorded[run]

    def _sort(self) -> None:
        """Results by account; each is always in one place or the other, whenever a signal strikes."""
        results = self.mailbox.results
        for _ in range(len(results)):
            self._unrecorded.setdefault(results[0].lane.run, []).append(results[0])
            results.popleft()

    def leave(self) -> None:
        """Ended by an exception or a SystemExit: cut the connections, record what came back, give back the rest."""
        for run in self.runs:
            run.abort()
        for run in self.runs:
            run.network.close()
        self._sort()
        fresh_connection()
        for run in {*self.runs, *self._unrecorded}:
            try:
                run.leave(self._rescue(run))
            except Exception:
                logger.exception("account %s: a drain could not give everything back; leases will tell", run.account)

    def _rescue(self, run: AccountRun) -> set[int]:
        """Record results one by one, as far as that goes; returns the messages of those that could not be."""
        lost: set[int] = set()
        for one in self._unrecorded.pop(run, []):
            try:
                self.recorder.rescue(one)
            except Exception:
                logger.exception("message %s: its result could not be recorded; its lease will tell", one.job.id)
                lost.add(one.job.id)
            else:
                run.intake.claims.pop(one.job.id, None)
        return lost

    def _is_time(self) -> bool:
        if len(self.mailbox.results) >= self.mailbox.group or monotonic() - self._recorded_at >= GROUP_WAIT:
            return True
        return any(lane.idle for run in self.runs for lane in run.pool.lanes.copy()) or not any(
            run.pool.in_flight for run in self.runs
        )

    def _renew(self) -> None:
        if monotonic() < self._renew_at:
            return
        self._renew_at = monotonic() + self._renew_every
        renew({claim.lease for run in self.runs for claim in run.intake.claims.values()}, clock=self.clock)
        renew_slots([lane.slot for run in self.runs for lane in run.connecting.lanes], clock=self.clock)
        for run in self.runs:
            run.network.call(run.pool.kick)

    def _timeout(self) -> float:
        waits: list[float] = [self._renew_at - monotonic(), 1.0]
        waits += [wait for wait in (run.wake_in() for run in self.runs) if wait is not None]
        if any(run.pool.in_flight for run in self.runs) or self.mailbox.results:
            waits.append(GROUP_WAIT)
        return min(waits)

    def _guarded(self, run: AccountRun, step: Callable[[AccountRun], object]) -> None:
        """One account's unexpected error ends that account's run, never the others'; the database's is everybody's."""
        try:
            step(run)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            if all(other is run for other in self.runs):
                raise
            logger.exception("account %s: the drain goes on without it", run.account)
            self._rescue(run)
            run.fail()
