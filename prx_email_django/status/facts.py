"""Facts about accounts, as the sentences of ``reasons`` need them, read by a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db.models import Count
from django.utils.translation import gettext as _

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.refusals import refusal_row
from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage, OutboxState, RateWindow
from prx_email_django.models.account_validation import connection_problem
from prx_email_django.models.declared import settings_problem
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.models.runtime_state import PausedBy
from prx_email_django.rules.obstacles import ReachedLimit
from prx_email_django.rules.rates import RateLimit, parse_rate_limits, reached, spent_now
from prx_email_django.rules.words import in_words
from prx_email_django.status.reasons import AccountFacts, Pause, lasting_obstacle, message_sentence, pause_in_force
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import is_copy

#: ``REFUSALS_IN_A_ROW`` where it is switched off.
REFUSALS_BY_DEFAULT = 10


def account_facts(
    accounts: Iterable[Account] | None = None, *, now: datetime, state: OutboxState | None = None
) -> dict[int, AccountFacts]:
    """Return the facts about these accounts (None: all), by primary key; the number of queries is fixed."""
    rows = list(Account.objects.all() if accounts is None else accounts)
    keys = [account.pk for account in rows]
    outbox = state or OutboxState.objects.filter(pk=1).first() or OutboxState()
    runtime_state = AccountState.objects.defer("access_token", "refresh_token").in_bulk(keys)
    live = ConnectionSlot.objects.filter(account_id__in=keys, token__isnull=False, expires_at__gt=now)
    slots = dict(live.values_list("account_id").annotate(Count("pk")))
    windows = {(row.account_id, row.limit_key): row for row in RateWindow.objects.filter(account_id__in=keys)}
    everything = outbox_pause(outbox, now)
    return {
        account.pk: AccountFacts(
            name=account.name,
            is_active=account.is_active,
            awaits_sign_in=account.awaits_sign_in,
            is_copy=is_copy(outbox),
            outbox=everything,
            pause=_pause(runtime_state.get(account.pk), now),
            reached=_reached(account, windows, now),
            used=_used(account, windows, now),
            token_expires_at=_token_expires_at(account, runtime_state.get(account.pk)),
            connections=slots.get(account.pk, 0),
            max_connections=account.max_connections,
            problem=_problem(account),
            last_trouble=runtime_state[account.pk].last_trouble if account.pk in runtime_state else "",
            connection_failures=runtime_state[account.pk].connection_failures if account.pk in runtime_state else 0,
            refused_in_a_row=_refused_in_a_row(runtime_state.get(account.pk)),
            probing=account.pk in runtime_state and runtime_state[account.pk].pause_count > 0,
        )
        for account in rows
    }


def pause_facts(outbox: OutboxState, state: AccountState, *, now: datetime) -> tuple[Pause | None, Pause | None]:
    """Return the pause of the whole outbox and that of an account, each None unless in force; makes no query."""
    return outbox_pause(outbox, now), _pause(state, now)


def message_reason(message: OutboxMessage, *, now: datetime | None = None) -> str:
    """Say why a message waits and when the next attempt is; of many messages: ``account_facts``, once."""
    moment = now or clock_for(None).running
    return message_sentence(message, account_facts([message.account], now=moment)[message.account_id], now=moment)


def held_back(message: OutboxMessage, *, now: datetime) -> str:
    """Say what would keep the message from being sent if it were due now; empty if nothing lasting does."""
    return lasting_obstacle(account_facts([message.account], now=now)[message.account_id], now=now)


def outbox_pause(outbox: OutboxState, now: datetime) -> Pause | None:
    """Return the pause of the whole outbox if it is in force; makes no query."""
    return pause_in_force(outbox.pause_reason, outbox.paused_until, by_person=True, now=now)


def _pause(runtime_state: AccountState | None, now: datetime) -> Pause | None:
    if runtime_state is None:
        return None
    by_person = runtime_state.paused_by == PausedBy.PERSON
    reason, until, code = runtime_state.pause_reason, runtime_state.paused_until, runtime_state.pause_code
    return pause_in_force(reason, until, by_person=by_person, code=code, now=now)


def _refused_in_a_row(runtime_state: AccountState | None) -> int:
    """How many messages were refused since the last accepted one, without those about dead addresses."""
    if runtime_state is None or not runtime_state.refused_in_a_row:
        return 0
    if runtime_state.refused_in_a_row < suspicious():
        return runtime_state.refused_in_a_row
    row = refusal_row(runtime_state, clock=clock_for(None))
    return row.total if row.limit else runtime_state.refused_in_a_row


def suspicious() -> int:
    """After so many refusals in a row an account is late; also where nothing is done about them."""
    return outbox_settings().refusals_in_a_row or REFUSALS_BY_DEFAULT


def _problem(account: Account) -> str:
    """Return what keeps the account from ever connecting, by the rule that each connection asks."""
    try:
        return in_words(settings_problem(account), _) or connection_problem(account)
    except DecryptionFailed as error:
        return str(error)


def _reached(
    account: Account, windows: Mapping[tuple[int, str], RateWindow], now: datetime
) -> tuple[ReachedLimit, ...]:
    spent = _spent(account, windows)
    found = (reached(limit, bucket=row.bucket, counts=row.counts, now=now) for limit, row in spent)
    return tuple(limit for limit in found if limit is not None)


def _used(
    account: Account, windows: Mapping[tuple[int, str], RateWindow], now: datetime
) -> tuple[tuple[str, int, int], ...]:
    """Return each limit that something was spent of, how much is spent now, and how much it allows."""
    return tuple(
        (str(limit), spent_now(limit, bucket=row.bucket, counts=row.counts, now=now), limit.count)
        for limit, row in _spent(account, windows)
    )


def _spent(account: Account, windows: Mapping[tuple[int, str], RateWindow]) -> list[tuple[RateLimit, RateWindow]]:
    try:
        limits = parse_rate_limits(account.rate_limits)
    except ValueError:  # written without the model's validation: the other figures must still be shown
        return []
    return [(limit, windows[account.pk, limit.key]) for limit in limits if (account.pk, limit.key) in windows]


def _token_expires_at(account: Account, state: AccountState | None) -> datetime | None:
    """Return the end of the access token in use: a fetched one takes the place of a pasted one."""
    fetched = state.access_token_expires_at if state else None
    return fetched or account.oauth_token_expires_at
