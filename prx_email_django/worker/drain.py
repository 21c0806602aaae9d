"""A drain: everything that is due goes out, as far as limits allow, and then it returns."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from time import monotonic

from django.db import Error
from django.db.models import Q

from prx_email_django.limits.pace import is_slowed_down
from prx_email_django.limits.pauses import end_expired_pause, known_state, with_state
from prx_email_django.limits.rate_windows import has_permits
from prx_email_django.limits.refusals import early_probe
from prx_email_django.models import Account, OutboxState
from prx_email_django.models.declared import SETTINGS, settings_problem
from prx_email_django.results import DrainReport
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.pauses import is_paused
from prx_email_django.rules.rates import rates_are_readable
from prx_email_django.store.absence import is_away, waiting_for_database
from prx_email_django.store.db import retried
from prx_email_django.store.declared import keep_equal, make_missing, missing_names
from prx_email_django.store.due import accounts_with_due, first_claimable, next_due, open_recipients
from prx_email_django.store.outbox import LOOKS_FOR, begin_drain
from prx_email_django.worker.account import FAILED, AccountWorker
from prx_email_django.worker.claim_source import DueMessages, empty_handed
from prx_email_django.worker.current import CurrentAccount, CurrentOutbox
from prx_email_django.worker.heartbeat import Heartbeat, is_loop
from prx_email_django.worker.idle import idle_connections
from prx_email_django.worker.loop import FIRST_TRY, LONGEST_ABSENCE, WorkerLoop, next_try
from prx_email_django.worker.network import Network
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.token_keeper import transport

logger = logging.getLogger("prx_email_django")

#: Results of one group, per connection: three quarters of what may be accepted and unrecorded.
GROUP_PER_CONNECTION = 2
#: Seconds between two looks at the queue: for other accounts, or while a waiting drain has nothing to do.
POLL = 1.0
#: Seconds after which a loop with nothing due reads all accounts: a pause may have ended, a declared row may differ.
READ_ALL_EVERY = 10.0


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
        self.accounts = accounts
        self.deadline = None if time_budget is None else monotonic() + time_budget
        self.wait = wait
        self.progress = progress
        self.stop = stop
        self.begun = monotonic()
        self.recorder = Recorder(clock)
        self.heartbeat = Heartbeat(clock)
        self._look_at = 0.0
        #: When the queue was last looked at, and until when it must be (``_looks_once_more``).
        self._looked_at = self._look_until = 0.0
        #: Accounts with something due, as of that look; None: not asked.
        self._due: set[int] | None = None
        #: Declared accounts without a row, which this drain has tried to make.
        self._made: set[str] = set()
        #: Accounts whose work ended by an unexpected error: they are left out for the rest of the drain.
        self._barred: set[int] = set()
        #: Messages that are tried although their account is paused, by account.
        self._early_probes: dict[int, int] = {}
        #: Somebody has asked for this drain.
        self._is_asked = False
        #: Where the loop that this drain belongs to keeps connections.
        self._idle = idle_connections()

    def run(self) -> DrainReport:
        """Recover, then send until nothing can go now (with ``wait``: until the time budget ends)."""
        noted_at = self.outbox.last_drain_at if is_loop() else None
        answers = begin_drain(
            clock=self.clock, noted_at=noted_at, asked=self.outbox.was_asked_for_drain or not is_loop()
        )
        self._is_asked = answers
        self._look_until = monotonic() + LOOKS_FOR if answers else 0.0
        if self._idle is not None:
            self._idle.look_at = math.inf
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.enter_context(waiting_for_database(self._wait_for_database))
            network: Network | None = None
            while not self._should_stop():
                self._recover()
                ready = self._ready_accounts() if self._budget(1) > 0 else []
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
        if self._looked_at >= self._look_until or self.clock.given is not None or self._budget(1) <= 0:
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
        if is_first := absent < FIRST_TRY:  # perhaps only the session has ended
            logger.error("the database is away, nothing is claimed: %s", error)
        time.sleep(next_try(absent))
        return is_first or (not self._should_stop() and absent < LONGEST_ABSENCE)

    def _round(self, accounts: Iterable[CurrentAccount], network: Network) -> None:
        results = ResultQueue(1)
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
                    )
                )
            connections = sum(worker.current.account.max_connections for worker in loop.workers)
            results.group = max(1, GROUP_PER_CONNECTION * connections)

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
            loop.leave()
            if self._idle is not None:
                self._idle.leave()
            self._tick()  # what was sent counts, although the drain breaks off
            raise

    def _newcomers(self, loop: WorkerLoop) -> list[CurrentAccount]:
        """Accounts that have become ready, looked up once a second: an account that waits delays no other."""
        self._barred |= {worker.account_id for worker in loop.workers if worker.stop_reason == FAILED}
        if monotonic() < self._look_at or self._should_stop() or self._budget(1) <= 0:
            return []
        self._look_at = monotonic() + POLL
        self._recover()
        running = {worker.account_id for worker in loop.workers}
        return [current for current in self._ready_accounts() if current.account.pk not in running]

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

    def _ready_accounts(self) -> list[CurrentAccount]:
        """Active accounts that are not paused, have something due, and no limit that is used up."""
        self._looked_at = monotonic()
        due = accounts_with_due(clock=self.clock) if self._asks_first() else None
        only = None if due is None or self._idle is None else due | self._idle.accounts()
        if only is not None and not only:
            return []
        is_paused_everywhere = self.outbox.is_paused(self.clock.now)
        candidates = [] if is_paused_everywhere else self._candidates(only)
        self._due = accounts_with_due(clock=self.clock) if due is None and len(candidates) > 1 else due
        ready = [account for account in candidates if self._is_ready(account)]
        if self._idle is not None:
            if only is None:
                self._idle.is_alone = len(candidates) == 1
            unpaused = [account for account in candidates if not is_paused(known_state(account), now=self.clock.now)]
            self._idle.review(unpaused, needed={account.pk for account in ready}, clock=self.clock)
        return [
            CurrentAccount(account, outbox=self.outbox, early_probe=self._early_probes.get(account.pk))
            for account in ready
        ]

    def _asks_first(self) -> bool:
        """Whether to ask first who has something due: a loop does not read a hundred accounts for each message.

        Where there is one account, it is read at once for a message that has asked for this drain.
        """
        if self._idle is None or (self._is_asked and self._idle.is_alone):
            return False
        if monotonic() < self._idle.read_all_at:
            return True
        self._idle.read_all_at = monotonic() + READ_ALL_EVERY
        return False

    def _is_ready(self, account: Account) -> bool:
        """Whether the account may send its next due message; an account that fails unexpectedly is left out."""
        if account.pk in self._barred:
            return False
        try:
            return self._has_work(account)
        except Exception as error:
            if is_away(error):
                raise
            logger.exception("account %s: the drain goes on without it", account)
            self._barred.add(account.pk)
            return False

    def _has_work(self, account: Account) -> bool:
        state = known_state(account)
        end_expired_pause(state, now=self.clock.now)
        self._early_probes.pop(account.pk, None)
        if is_paused(state, now=self.clock.now):
            probe = early_probe(account, state, clock=self.clock)
            if probe is not None:
                self._early_probes[account.pk] = probe
            return probe is not None
        if is_slowed_down(state, clock=self.clock):
            return False
        is_due = self._due is None or account.pk in self._due
        if self._is_asked and self._idle is not None and self._idle.keeps(account):
            return is_due  # a claim costs no login, and is the answer to whether there is something to claim
        head = first_claimable(account.pk, clock=self.clock) if is_due else None
        if head is None or empty_handed.waits(account.pk, head):
            return False
        if not rates_are_readable(account.rate_limits):
            return True  # the first connection says so, and pauses the account
        # Checked before connecting: otherwise a reached limit would cost a login a second.
        return has_permits(account, recipients=lambda: open_recipients(head), clock=self.clock)

    def _candidates(self, only: Collection[int] | None = None) -> list[Account]:
        """Accounts that may send; those that the settings declare are made, and are as the settings say.

        ``only``: not all are read; what is missing is made when they are.
        """
        found = self._active_accounts(only)
        reads_all = self.accounts is None and only is None
        missing = missing_names({account.name for account in found} | self._made) if reads_all else set()
        if missing:
            self._made |= missing  # a person may have given the name to another account
            make_missing(missing)
            found = self._active_accounts()
        for account in found:
            keep_equal(account)
        return [account for account in found if account.is_active and not settings_problem(account)]

    @retried
    def _active_accounts(self, only: Collection[int] | None = None) -> list[Account]:
        active = with_state().filter(Q(is_active=True) | Q(source=SETTINGS))
        if only is not None:
            active = active.filter(pk__in=only)
        if self.accounts is not None:
            active = active.filter(pk__in=[account.pk for account in self.accounts])
        return list(active.order_by("pk"))

    def _wait_for_due(self) -> bool:
        """Wait for a row that becomes due within the time budget; False: there is none."""
        if self._budget(1) <= 0:
            return False
        if self.deadline is None or self.clock.given is not None:
            return False
        # What is due already could not go: a limit or a pause.  It keeps nobody from waiting for others.
        moments = [next_due([account.pk]) for account in self._candidates()]
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
