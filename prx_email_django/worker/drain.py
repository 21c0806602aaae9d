"""A drain: everything that is due goes out, as far as limits allow, and then it returns."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic

from django.db import DatabaseError

from prx_email_django.limits.pauses import account_state, end_expired_pause
from prx_email_django.limits.windows import has_permits
from prx_email_django.models import Account
from prx_email_django.results import DrainReport
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.pauses import is_paused
from prx_email_django.store.claims import has_due, next_due, next_recipients
from prx_email_django.store.outbox import begin_drain, outbox_state
from prx_email_django.worker.account import FAILED, AccountRun
from prx_email_django.worker.connection import Mailbox
from prx_email_django.worker.loop import Engine
from prx_email_django.worker.network import Network
from prx_email_django.worker.recorder import Recorder
from prx_email_django.worker.tokens import transport

logger = logging.getLogger("prx_email_django")

#: Results of one group, per connection: three quarters of what may be accepted and unrecorded.
GROUP_PER_CONNECTION = 3
#: Seconds between two looks at the queue: for other accounts, or while a waiting drain has nothing to do.
POLL = 1.0


class Drain:
    """One call of ``drain``."""

    def __init__(  # noqa: PLR0913  (the options of the public function)
        self,
        *,
        clock: Clock,
        limit: int | None = None,
        accounts: Sequence[Account] | None = None,
        time_budget: float | None = None,
        wait: bool = False,
        progress: Callable[[DrainReport], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.clock = clock
        self.limit = limit
        self.accounts = accounts
        self.deadline = None if time_budget is None else monotonic() + time_budget
        self.wait = wait
        self.progress = progress
        self.stop = stop
        self.begun = monotonic()
        self.recorder = Recorder(clock)
        self._look_at = 0.0
        #: Accounts that something unexpected has ended: not again in this drain.
        self._barred: set[int] = set()

    def run(self) -> DrainReport:
        """Recover, then send until nothing can go now (with ``wait``: until the time budget ends)."""
        begin_drain(clock=self.clock)
        with ExitStack() as stack:
            network: Network | None = None
            while not self._should_stop():
                self.recorder.recover()
                ready = self._ready_accounts() if self._budget(1) > 0 else []
                if ready:
                    network = network or stack.enter_context(Network())
                    self._round(ready, network)
                    self._tick()
                if not self.wait or not self._wait_for_due():
                    break
        return self.recorder.counts.report(monotonic() - self.begun)

    def _round(self, accounts: Sequence[Account], network: Network) -> None:
        mailbox = Mailbox(1)
        engine = Engine(clock=self.clock, mailbox=mailbox, recorder=self.recorder)
        carrier = transport()

        def add(accounts: Sequence[Account]) -> None:
            for account in accounts:
                self.recorder.names[account.pk] = account.name
                run = AccountRun(
                    account,
                    clock=self.clock,
                    network=network,
                    mailbox=mailbox,
                    recorder=self.recorder,
                    transport=carrier,
                    budget=self._budget,
                )
                engine.runs.append(run)
            mailbox.group = max(1, GROUP_PER_CONNECTION * sum(run.account.max_connections for run in engine.runs))

        def tick() -> None:
            self._tick()
            add(self._newcomers(engine))

        add(accounts)
        self._look_at = monotonic() + POLL
        try:
            engine.run(should_stop=self._should_stop, tick=tick)
        except BaseException:
            engine.leave()
            raise

    def _newcomers(self, engine: Engine) -> list[Account]:
        """Once a second: accounts that have become ready, since one that waits for its server holds up no other."""
        self._barred |= {run.account.pk for run in engine.runs if run.stop_reason == FAILED}
        if monotonic() < self._look_at or self._should_stop() or self._budget(1) <= 0:
            return []
        self._look_at = monotonic() + POLL
        self.recorder.recover()
        running = {run.account.pk for run in engine.runs}
        return [account for account in self._ready_accounts() if account.pk not in running]

    def _budget(self, wanted: int) -> int:
        if self.limit is None:
            return wanted
        counts = self.recorder.counts
        return max(0, min(wanted, self.limit - (counts.claimed - counts.released)))

    def _should_stop(self) -> str:
        if self.stop is not None and self.stop():
            return "stopped"
        if self.deadline is not None and monotonic() >= self.deadline:
            return "budget"
        return ""

    def _tick(self) -> None:
        if self.progress is not None:
            self.progress(self.recorder.counts.report(monotonic() - self.begun))

    def _ready_accounts(self) -> list[Account]:
        """Active accounts that are not paused, have something due, and no limit that is used up."""
        if is_paused(outbox_state(), now=self.clock.now):
            return []
        return [account for account in self._candidates() if self._may_go(account)]

    def _may_go(self, account: Account) -> bool:
        """Whether it is ready; one that cannot even be judged (a limit that is none) holds up no other."""
        if account.pk in self._barred:
            return False
        try:
            return self._is_ready(account)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("account %s: the drain goes on without it", account)
            self._barred.add(account.pk)
            return False

    def _is_ready(self, account: Account) -> bool:
        state = account_state(account)
        end_expired_pause(state, now=self.clock.now)
        if is_paused(state, now=self.clock.now) or not has_due(account.pk, clock=self.clock):
            return False
        # Asked before connecting: a login a second, only to learn that nothing may go, would annoy any provider.
        return has_permits(account, recipients=lambda: next_recipients(account.pk, clock=self.clock), clock=self.clock)

    def _candidates(self) -> list[Account]:
        active = Account.objects.filter(is_active=True)
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
