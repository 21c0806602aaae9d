"""Access tokens that workers fetched: stored in the runtime state, refreshed by one worker at a time.

Tokens are judged by real time (the database's clock), whatever ``now`` a caller has given: it is the provider who ends
them.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db.models import F, Q

from prx_email_django.conf.references import absence, resolve
from prx_email_django.models import Account, AccountState
from prx_email_django.oauth.token import Token
from prx_email_django.rules.clock import Clock
from prx_email_django.store.db import lease_until, retried

#: A token is refreshed so long before it ends, or a tenth of its lifetime before, whichever is shorter.
REFRESH_MARGIN = timedelta(seconds=60)
REFRESH_LEASE = timedelta(seconds=60)


def may_refresh(account: Account) -> bool:
    """Whether a fresh token can be fetched: a provider is set."""
    return bool(account.oauth_provider)


def access_token(account: Account, state: AccountState, *, clock: Clock, refused: Collection[str] = ()) -> str:
    """The token to use now; empty if a token must be fetched first.

    Without a provider the pasted token is used as it is, whatever its expiry says.  Beside a provider it is only the
    first token: it never comes back once a token was fetched or the server has refused it.

    Raises:
        SecretAbsent: the pasted token is a reference that names nothing here.
    """
    if not may_refresh(account):
        return resolve(account.oauth_token)
    if state.access_token and state.access_token not in refused and _is_fresh(state, clock.running):
        return state.access_token
    if not account.oauth_token or state.pasted_token_is_over:
        return ""
    pasted, ends_at = resolve(account.oauth_token), account.oauth_token_expires_at
    if pasted not in refused:
        return pasted if ends_at is None or ends_at > clock.running else ""
    return ""


def _is_fresh(state: AccountState, now: datetime) -> bool:
    ends_at, fetched_at = state.access_token_expires_at, state.access_token_fetched_at
    if ends_at is None:
        return True
    margin = REFRESH_MARGIN if fetched_at is None else min(REFRESH_MARGIN, (ends_at - fetched_at) / 10)
    return ends_at > now + margin


def expiry(token: Token, *, asked_at: datetime, now: datetime) -> datetime | None:
    """When a token ends, on the clock of ``asked_at``; None: not known.

    An expiry that has passed already when the token arrives says nothing: two clocks differ, or the source keeps the
    token longer than it says.  Such a token is used until the server refuses it, and is not fetched again and again.
    """
    ends_at = token.expires_at if token.lifetime is None else asked_at + token.lifetime
    return ends_at if ends_at is not None and ends_at > now else None


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
def end_refresh_lease(account_id: int, lease: uuid.UUID) -> bool:
    """End a refresh lease, if it is still ours; False: another worker has taken it."""
    rows = AccountState.objects.filter(account_id=account_id, refresh_lease=lease)
    return bool(rows.update(refresh_lease=None, refresh_lease_expires_at=None))


@retried
def store_token(account_id: int, token: Token, *, version: int, asked_at: datetime, now: datetime) -> bool:
    """Store the provider's tokens, unless others were stored, or the credentials changed, since it was asked.

    ``version`` is ``token_version`` as it was read before the request.  The lease is no condition: a token server may
    answer after the lease has ended, and has revoked the refresh token of before.
    """
    fields: dict[str, object] = {
        "access_token": token.access_token,
        "access_token_expires_at": expiry(token, asked_at=asked_at, now=now),
        "access_token_fetched_at": asked_at,
        "pasted_token_is_over": True,
        "token_version": F("token_version") + 1,
    }
    if token.refresh_token:
        fields["refresh_token"] = token.refresh_token
    return bool(AccountState.objects.filter(account_id=account_id, token_version=version).update(**fields))


def is_replaced(account_id: int, *, version: int) -> bool:
    """Whether tokens were stored, or credentials changed, since ``version`` was read."""
    return not AccountState.objects.filter(account_id=account_id, token_version=version).exists()


@retried
def drop_token(account: Account, refused: str) -> None:
    """Forget a token that the server refused: the stored token, or the pasted one."""
    rows = AccountState.objects.filter(account_id=account.pk)
    state = rows.first()
    if not refused or state is None:
        return
    if state.access_token == refused:
        unchanged = rows.filter(token_version=state.token_version)
        unchanged.update(access_token="", access_token_expires_at=None, access_token_fetched_at=None)
    if not absence(account.oauth_token) and resolve(account.oauth_token) == refused:
        rows.update(pasted_token_is_over=True)
