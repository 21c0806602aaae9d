"""What is known of one account during a drain: read once, handed down, and read again after a second."""

from __future__ import annotations

from datetime import datetime
from time import monotonic

from prx_email_django.limits.pauses import known_state, read_account
from prx_email_django.models import Account, AccountState, OutboxState
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.pauses import is_paused
from prx_email_django.store.outbox import end_expired_pause_of_everything, outbox_state

#: Seconds for which nobody looks again whether a person, or another worker, has changed something.
LOOK_AFTER = 1.0


def is_stopped(account_id: int, *, now: datetime) -> bool:
    """Whether the account, or everything, is paused or switched off at this moment."""
    account = read_account(account_id)
    return not account.is_active or is_paused(known_state(account), now=now) or is_paused(outbox_state(), now=now)


class CurrentOutbox:
    """The state of the whole outbox, shared by all accounts of a drain."""

    def __init__(self, state: OutboxState) -> None:
        self._state = state
        self._look_at = monotonic() + LOOK_AFTER

    @property
    def last_drain_at(self) -> datetime | None:
        """When a drain was noted last, as of the last second."""
        return self._state.last_drain_at

    @property
    def was_asked_for_drain(self) -> bool:
        """Whether a drain had been asked for, as of the last second."""
        return self._state.wake_requested_at is not None

    def is_paused(self, now: datetime) -> bool:
        """Whether everything is paused, as of the last second."""
        if monotonic() >= self._look_at:
            self._state = outbox_state()
            self._look_at = monotonic() + LOOK_AFTER
        if is_paused(self._state, now=now):
            return True
        end_expired_pause_of_everything(self._state, now=now)
        return False


class CurrentAccount:
    """An account, with what workers learned of it.

    ``outbox`` None: a person asked for this attempt, and no pause is heeded.
    """

    def __init__(self, account: Account, *, outbox: CurrentOutbox | None, early_probe: int | None = None) -> None:
        self.account = account
        self.outbox = outbox
        #: A message that is tried although the server refuses the account (``limits.refusals.early_probe``).
        self.early_probe = early_probe
        self._look_at = monotonic() + LOOK_AFTER

    @property
    def heeds_pause(self) -> bool:
        """Whether a pause keeps this account from sending."""
        return self.outbox is not None

    @property
    def state(self) -> AccountState:
        """What workers learned of the account."""
        return known_state(self.account)

    def look(self) -> None:
        """Read account and state again, at most once a second: a person may have mended the credentials."""
        if monotonic() >= self._look_at:
            self.account = read_account(self.account.pk)
            self._look_at = monotonic() + LOOK_AFTER

    def look_again(self) -> None:
        """Something has been learned: the next look must read it."""
        self._look_at = 0.0

    def is_account_paused(self, now: datetime) -> bool:
        """Whether the account itself is paused."""
        self.look()
        if self.early_probe is not None and self.state.pause_code == Trouble.REFUSING:
            return False
        return is_paused(self.state, now=now)

    def may_send(self, now: datetime) -> bool:
        """Whether account and outbox are still active and not paused."""
        if self.outbox is None:
            return True
        return not self.outbox.is_paused(now) and not self.is_account_paused(now) and self.account.is_active
