"""A drain: everything that is due goes out, as far as limits allow, and then it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic

from prx_email_django.clock import Clock
from prx_email_django.delivery.account import AccountRun
from prx_email_django.delivery.engine import Engine
from prx_email_django.delivery.lanes import Mailbox
from prx_email_django.delivery.login import transport
from prx_email_django.delivery.network import Network
from prx_email_django.delivery.recorder import Recorder
from prx_email_django.limits import account_state, end_expired_pause, is_paused
from prx_email_django.models import Account
from prx_email_django.results import DrainReport
from prx_email_django.store import begin_drain, has_due, next_due, outbox_state
from prx_email_django.store import is_paused as is_outbox_paused

#: Results of one group, per connection: three quarters of what may be accepted and unrecorded.
GROUP_PER_CONNECTION = 3
#: Seconds between two looks at the queue while a waiting drain has nothing to do.
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

    def run(self) -> DrainReport:
        """Recover, then send until nothing can go now (with ``wait``: until the time budget ends)."""
        begin_drain(clock=self.clock)
        with ExitStack() as stack:
            network: Network | None = None
            while not self._should_stop():
                self.recorder.recover()
                ready = self._ready_accounts()
                if ready:
                    network = network or stack.enter_context(Network())
                    self._round(ready, network)
                    self._tick()
                if not self.wait or not self._wait_for_due():
                    break
        return self.recorder.counts.report(monotonic() - self.begun)

    def _round(self, accounts: Sequence[Account], network: Network) -> None:
        group = max(1, GROUP_PER_CONNECTION * sum(account.max_connections for account in accounts))
        mailbox = Mailbox(group)
        engine = Engine(clock=self.clock, mailbox=mailbox, recorder=self.recorder)
        carrier = transport()
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
        try:
            engine.run(should_stop=self._should_stop, tick=self._tick)
        except BaseException:
            engine.leave()
            raise

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
        """Active accounts that are not paused and have something due."""
        if is_outbox_paused(outbox_state(), now=self.clock.now):
            return []
        return [account for account in self._candidates() if self._may_go(account)]

    def _may_go(self, account: Account) -> bool:
        state = account_state(account)
        end_expired_pause(state, now=self.clock.now)
        return not is_paused(state, now=self.clock.now) and has_due(account.pk, clock=self.clock)

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
