"""How long an account waits because its server said that it sends too fast; shared by all workers."""

from __future__ import annotations

from datetime import timedelta

from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import retried


@retried
def note_wait(account: Account, seconds: int, *, clock: Clock) -> None:
    """Send nothing for so many seconds."""
    account_state(account)
    until = clock.running + timedelta(seconds=seconds)
    AccountState.objects.filter(account_id=account.pk).update(slow_until=until, slow_seconds=seconds)


@retried
def note_no_wait(account: Account) -> None:
    """A message was accepted: the next wait is a short one again."""
    slow = AccountState.objects.filter(account_id=account.pk, slow_seconds__gt=0)
    slow.update(slow_until=None, slow_seconds=0)


def is_slowed_down(state: AccountState, *, clock: Clock) -> bool:
    """Whether the account waits now."""
    return state.slow_until is not None and state.slow_until > clock.running
