"""The state of the outbox as data, and the reasons why messages and accounts wait.

``outbox_status`` is printed by ``outbox_status --json`` and can be served by a monitoring endpoint.  The command and
the admin show the sentences of ``message_reason`` and ``account_reason``.  Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from django.db.models import Count, Min
from django.utils.translation import gettext as _

from prx_email_django.conf import outbox_settings
from prx_email_django.limits.refusals import refusal_row
from prx_email_django.models import (
    Account,
    AccountState,
    ConnectionSlot,
    OutboxMessage,
    OutboxState,
    RateWindow,
)
from prx_email_django.models.account_validation import connection_problem
from prx_email_django.models.conditions import FAILED, IN_DOUBT, MAY_HAVE_BEEN_DELIVERED, SENDING, claim_has_run_out
from prx_email_django.models.declared import settings_problem
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.models.runtime_state import PausedBy
from prx_email_django.rules.obstacles import ReachedLimit
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.rates import RateLimit, parse_rate_limits, reached, spent_now
from prx_email_django.rules.words import in_words
from prx_email_django.status.configured_accounts import unusable_accounts
from prx_email_django.status.counts import (
    LastHour,
    Queue,
    hourly_figures,
    last_hours,
    queue_of_each,
    text_of,
    worker_figures,
)
from prx_email_django.status.reasons import (
    AccountFacts,
    Pause,
    account_sentence,
    message_sentence,
    obstacle,
    pause_in_force,
)
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import is_copy


class Health(IntEnum):
    """Health of the outbox; the value is the exit code of ``outbox_status --check``."""

    WELL = 0
    LATE = 1
    BROKEN = 2


#: ``REFUSALS_IN_A_ROW`` where it is switched off.
REFUSALS_BY_DEFAULT = 10
#: Increased when a key of ``outbox_status`` is removed or changes its meaning, not when a key is added.
VERSION = 1


def outbox_status(*, now: datetime | None = None) -> dict[str, Any]:
    """Return the figures of the whole outbox as JSON-serializable values; instants are ISO 8601 in UTC.

    ``due`` (messages that may be sent now), ``oldest_due_seconds`` (time since the oldest of them became due; None
    if no message is due), ``waiting`` (due later), ``deferred`` (failed, and tried again), ``sending``,
    ``at_rest``, ``needs_person`` (at rest, and neither cancelled, adopted nor dismissed), ``unknown`` (failed
    messages that may have been delivered), ``in_doubt`` (those of them that nobody has cancelled, adopted or
    dismissed), ``expired_leases`` (messages whose worker was lost), ``accounts_paused``, ``paused`` (reason and end
    of the pause of the whole outbox, else None), ``instance_matches`` (False in a copied database: nothing is sent
    until it is adopted), ``last_drain_at``, ``last_purge_at``, ``unusable_accounts`` (what settings name and cannot
    be used: ``named_by``, ``name``, ``problem``), ``accounts``: figures for each account, with ``sent_last_hour``,
    ``failed_last_hour``, ``refused_in_a_row`` (messages refused since the last accepted one), ``limits`` (what is
    used of each rate limit), ``pause_code``, ``last_trouble`` and the sentence ``why``; ``hours`` (see
    ``hourly_figures``) and ``workers`` (see ``worker_figures``).

    Raises:
        ImproperlyConfigured: the settings are invalid.
    """
    moment = now or clock_for(None).running
    state = OutboxState.objects.filter(pk=1).first() or OutboxState()
    facts = account_facts(now=moment, state=state)
    queues, hours = queue_of_each(facts.keys(), now=moment), last_hours(moment)
    accounts = [
        _account_figures(pk, account, queues.get(pk, Queue()), hours.get(pk, LastHour()), now=moment)
        for pk, account in facts.items()
    ]
    ages = [account["oldest_due_seconds"] for account in accounts if account["oldest_due_seconds"] is not None]
    doubtful = OutboxMessage.objects.filter(FAILED & MAY_HAVE_BEEN_DELIVERED)
    doubts = doubtful.aggregate(all=Count("pk"), open=Count("pk", filter=IN_DOUBT))
    is_expired = claim_has_run_out(moment)
    leases = OutboxMessage.objects.filter(SENDING).aggregate(
        all=Count("pk"), expired=Count("pk", filter=is_expired), oldest=Min("claim_expires_at", filter=is_expired)
    )
    everything = _outbox_pause(state, moment)
    return {
        "version": VERSION,
        "at": text_of(moment),
        "instance": state.instance,
        "instance_matches": not is_copy(state),
        "due": sum(account["due"] for account in accounts),
        "oldest_due_seconds": max(ages, default=None),
        "waiting": sum(account["waiting"] for account in accounts),
        "deferred": sum(account["deferred"] for account in accounts),
        "sending": leases["all"],
        "at_rest": sum(account["at_rest"] for account in accounts),
        "needs_person": sum(account["needs_person"] for account in accounts),
        "unknown": doubts["all"],
        "in_doubt": doubts["open"],
        "expired_leases": leases["expired"],
        "oldest_expired_lease_seconds": _age(leases["oldest"], moment),
        "accounts_paused": sum(account.pause is not None for account in facts.values()),
        "paused": {"reason": everything.reason, "until": text_of(everything.until)} if everything else None,
        "last_drain_at": text_of(state.last_drain_at),
        "last_purge_at": text_of(state.last_purge_at),
        "unusable_accounts": [asdict(found) for found in unusable_accounts()],
        "accounts": accounts,
        "hours": hourly_figures(now=moment),
        "workers": worker_figures(),
    }


def judge(figures: Mapping[str, Any], *, max_age: timedelta) -> tuple[Health, str]:
    """Return the health that a monitor should report for the figures of ``outbox_status``, and the reason.

    Late: a due message, or a message of a lost worker, has waited for longer than ``max_age``, whatever the cause; or
    the last outcomes of an account were all refusals.
    Broken: nothing can be sent, or mail is lost when it is queued, until a person acts.
    """
    if not figures["instance_matches"]:
        text = _("the database belongs to another instance, “%(instance)s”: run outbox_adopt")
        return Health.BROKEN, text % {"instance": figures["instance"]}
    if figures["unusable_accounts"]:
        return Health.BROKEN, figures["unusable_accounts"][0]["problem"]
    limit = max_age.total_seconds()
    if (figures["oldest_due_seconds"] or 0) > limit:
        text = _("the oldest due message has waited for %(seconds)d s")
        return Health.LATE, text % {"seconds": figures["oldest_due_seconds"]}
    if (figures["oldest_expired_lease_seconds"] or 0) > limit:
        return Health.LATE, _("messages of a lost worker wait for a drain")
    for account in figures["accounts"]:
        if account["pause_code"] == Trouble.REFUSING or account["refused_in_a_row"] >= suspicious():
            text = _("the server refuses every message of the account %(name)s: %(why)s")
            return Health.LATE, text % {"name": account["name"], "why": account["why"]}
    return Health.WELL, _("well")


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
    everything = _outbox_pause(outbox, now)
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
    return _outbox_pause(outbox, now), _pause(state, now)


def message_reason(message: OutboxMessage, *, account: AccountFacts | None = None, now: datetime | None = None) -> str:
    """Say why a message waits and when the next attempt is; makes no query if ``account`` and ``now`` are given."""
    moment = now or clock_for(None).running
    facts = account or account_facts([message.account], now=moment)[message.account_id]
    return message_sentence(message, facts, now=moment)


def held_back(message: OutboxMessage, *, now: datetime) -> str:
    """Say what would keep the message from being sent if it were due now; empty if nothing does.

    That all connections are in use at this moment is nothing that lasts.
    """
    facts = account_facts([message.account], now=now)[message.account_id]
    return obstacle(replace(facts, connections=0), now=now)


def account_reason(account: Account, *, facts: AccountFacts | None = None, now: datetime | None = None) -> str:
    """Say why an account sends nothing and when it continues; makes no query if ``facts`` and ``now`` are given."""
    moment = now or clock_for(None).running
    known = facts or account_facts([account], now=moment)[account.pk]
    return account_sentence(known, now=moment)


def _account_figures(
    pk: int, facts: AccountFacts, queue: Queue, last_hour: LastHour, *, now: datetime
) -> dict[str, Any]:
    return {
        "id": pk,
        "name": facts.name,
        "is_active": facts.is_active,
        "due": queue.due,
        "waiting": queue.waiting,
        "deferred": queue.deferred,
        "oldest_due_seconds": _age(queue.oldest_due, now),
        "at_rest": queue.at_rest,
        "needs_person": queue.needs_person,
        "sent_last_hour": last_hour.sent,
        "failed_last_hour": last_hour.failed,
        "connections": facts.connections,
        "max_connections": facts.max_connections,
        "refused_in_a_row": facts.refused_in_a_row,
        "pause_code": facts.pause.code if facts.pause else "",
        "paused_until": text_of(facts.pause.until) if facts.pause else None,
        "pause_reason": facts.pause.reason if facts.pause else "",
        "last_trouble": facts.last_trouble,
        "problem": facts.problem,
        "limits": [{"limit": limit, "used": used, "count": count} for limit, used, count in facts.used],
        "token_expires_at": text_of(facts.token_expires_at),
        "why": account_sentence(facts, now=now),
    }


def _outbox_pause(outbox: OutboxState, now: datetime) -> Pause | None:
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


def _age(moment: datetime | None, now: datetime) -> float | None:
    return round((now - moment).total_seconds(), 3) if moment else None
