"""Which accounts have something to send now: the accounts that a drain opens connections for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from time import monotonic

from django.db.models import Q

from prx_email_django.limits.pace import is_slowed_down
from prx_email_django.limits.pauses import end_expired_pause, known_state
from prx_email_django.limits.rate_windows import has_permits
from prx_email_django.limits.refusals import early_probe
from prx_email_django.limits.slots import with_state_and_slots
from prx_email_django.models import Account
from prx_email_django.models.declared import SETTINGS, settings_problem
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.pauses import is_paused
from prx_email_django.rules.rates import rates_are_readable
from prx_email_django.store.absence import may_pass
from prx_email_django.store.db import retried
from prx_email_django.store.declared import keep_equal, make_missing, missing_names
from prx_email_django.store.due import accounts_with_due, first_claimable, open_recipients
from prx_email_django.worker.claim_source import empty_handed
from prx_email_django.worker.current import CurrentAccount, CurrentOutbox
from prx_email_django.worker.idle import IdleConnections

logger = logging.getLogger("prx_email_django")

#: Seconds after which a loop with nothing due reads all accounts: a pause may have ended, a declared row may differ.
READ_ALL_EVERY = 10.0


class ReadyAccounts:
    """The accounts of one drain, looked at again and again while it runs."""

    def __init__(
        self, outbox: CurrentOutbox, *, named: Sequence[Account] | None, clock: Clock, idle: IdleConnections | None
    ) -> None:
        self.outbox = outbox
        #: The accounts that the caller named; None: all.
        self.named = named
        self.clock = clock
        self._idle = idle
        #: When the queue was last looked at, on the monotonic clock.
        self.looked_at = 0.0
        #: Somebody has asked for this drain.
        self.is_asked = False
        #: Accounts whose work ended by an unexpected error: they are left out for the rest of the drain.
        self.barred: set[int] = set()
        #: Accounts with something due, as of the last look; None: not asked.
        self._due: set[int] | None = None
        #: Declared accounts without a row, which this drain has tried to make.
        self._made: set[str] = set()
        #: Messages that are tried although their account is paused, by account.
        self._early_probes: dict[int, int] = {}

    def look(self, *, running: Collection[int] = ()) -> list[CurrentAccount]:
        """Look for active accounts that are not paused, have something due, and no limit that is used up.

        Not for those that are ``running``: their own workers look for more.
        """
        self.looked_at = monotonic()
        due = accounts_with_due(clock=self.clock) if self._asks_first() else None
        only = None if due is None or self._idle is None else due | self._idle.accounts()
        if only is not None and not only:
            return []
        is_paused_everywhere = self.outbox.is_paused(self.clock.now)
        candidates = [] if is_paused_everywhere else self.candidates(only)
        self._due = accounts_with_due(clock=self.clock) if due is None and len(candidates) > 1 else due
        ready = [account for account in candidates if account.pk not in running and self._is_ready(account)]
        if self._idle is not None:
            if only is None:
                self._idle.is_alone = len(candidates) == 1
            unpaused = [account for account in candidates if not is_paused(known_state(account), now=self.clock.now)]
            self._idle.review(unpaused, needed={*running, *[account.pk for account in ready]}, clock=self.clock)
        return [
            CurrentAccount(account, outbox=self.outbox, early_probe=self._early_probes.get(account.pk))
            for account in ready
        ]

    def _asks_first(self) -> bool:
        """Whether to ask first who has something due: a loop does not read a hundred accounts for each message.

        Where there is one account, it is read at once for a message that has asked for this drain.
        """
        if self._idle is None or (self.is_asked and self._idle.is_alone):
            return False
        if monotonic() < self._idle.read_all_at:
            return True
        self._idle.read_all_at = monotonic() + READ_ALL_EVERY
        return False

    def _is_ready(self, account: Account) -> bool:
        """Whether the account may send its next due message; an account that fails unexpectedly is left out."""
        if account.pk in self.barred:
            return False
        try:
            return self._has_work(account)
        except Exception as error:
            if may_pass(error):
                raise
            logger.exception("account %s: the drain goes on without it", account)
            self.barred.add(account.pk)
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
        if self.is_asked and self._idle is not None and self._idle.keeps(account):
            return is_due  # a claim costs no login, and is the answer to whether there is something to claim
        head = first_claimable(account.pk, clock=self.clock) if is_due else None
        if head is None:
            return False
        empty_handed.expect(account.pk, head)
        if empty_handed.waits(account.pk) and self.clock.given is None:
            return False
        if not rates_are_readable(account.rate_limits):
            return True  # the first connection says so, and pauses the account
        # Checked before connecting: otherwise a reached limit would cost a login a second.
        return has_permits(account, recipients=lambda: open_recipients(head), clock=self.clock)

    def candidates(self, only: Collection[int] | None = None) -> list[Account]:
        """Accounts that may send; those that the settings declare are made, and are as the settings say.

        ``only``: not all are read; what is missing is made when they are.
        """
        found = self._active_accounts(only)
        reads_all = self.named is None and only is None
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
        active = with_state_and_slots(self.clock).filter(Q(is_active=True) | Q(source=SETTINGS))
        if only is not None:
            active = active.filter(pk__in=only)
        if self.named is not None:
            active = active.filter(pk__in=[account.pk for account in self.named])
        return list(active.order_by("pk"))
