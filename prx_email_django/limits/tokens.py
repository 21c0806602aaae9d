"""Access tokens that workers fetched: stored in the runtime state, refreshed by one worker at a time."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.db.models import Q

from prx_email_django.models import Account, AccountState
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import lease_until, retried

#: A token is refreshed at the latest this long before it ends.
REFRESH_MARGIN = timedelta(seconds=60)
REFRESH_LEASE = timedelta(seconds=60)


def may_refresh(account: Account) -> bool:
    """Whether a fresh token can be fetched: a provider is set."""
    return bool(account.oauth_provider)


def access_token(account: Account, state: AccountState, *, clock: Clock) -> str:
    """The token to use now; empty if a token must be fetched first.

    A fixed token without a provider is used as it is, whatever its expiry says.
    """
    soon = clock.running + REFRESH_MARGIN
    if state.access_token and _is_fresh(state.access_token_expires_at, soon):
        return state.access_token
    if account.oauth_token and (not may_refresh(account) or _is_fresh(account.oauth_token_expires_at, soon)):
        return account.oauth_token
    return ""


def _is_fresh(expires_at: datetime | None, soon: datetime) -> bool:
    return expires_at is None or expires_at > soon


@retried
def take_refresh_lease(account: Account, *, clock: Clock) -> uuid.UUID | None:
    """The right to refresh; None: another worker is doing it."""
    token = uuid.uuid4()
    free = Q(refresh_lease__isnull=True) | Q(refresh_lease_expires_at__lte=clock.running)
    taken = AccountState.objects.filter(free, account_id=account.pk).update(
        refresh_lease=token, refresh_lease_expires_at=lease_until(clock, REFRESH_LEASE)
    )
    return token if taken else None


@retried
def store_token(
    account: Account, lease: uuid.UUID, *, access: str, expires_at: datetime | None, refresh: str | None
) -> bool:
    """Store the provider's tokens and end the lease, if the lease is still ours.

    A new refresh token replaces the last one: some providers issue a new refresh token with every refresh.
    """
    fields: dict[str, object] = {
        "access_token": access,
        "access_token_expires_at": expires_at,
        "refresh_lease": None,
        "refresh_lease_expires_at": None,
    }
    if refresh:
        fields["refresh_token"] = refresh
    return bool(AccountState.objects.filter(account_id=account.pk, refresh_lease=lease).update(**fields))


@retried
def drop_token(account: Account, refused: str, *, lease: uuid.UUID | None = None) -> None:
    """Forget a token that the server refused, if it is the stored token, and end a lease without a result."""
    rows = AccountState.objects.filter(account_id=account.pk)
    if lease is not None:
        rows.filter(refresh_lease=lease).update(refresh_lease=None, refresh_lease_expires_at=None)
    state = rows.first()
    if refused and state is not None and state.access_token == refused:
        rows.update(access_token="", access_token_expires_at=None)
