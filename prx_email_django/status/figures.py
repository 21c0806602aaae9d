"""The state of the outbox as data, for ``outbox_status --json`` and for a monitoring endpoint.  Reads only.

Why one message or account waits: ``facts`` reads what it depends on, ``reasons`` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from django.db.models import Count, Min
from django.utils.translation import gettext as _

from prx_email_django.models import OutboxMessage, OutboxState
from prx_email_django.models.conditions import FAILED, IN_DOUBT, MAY_HAVE_BEEN_DELIVERED, SENDING, claim_has_run_out
from prx_email_django.rules.outcomes import Trouble
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
from prx_email_django.status.facts import account_facts, outbox_pause, suspicious
from prx_email_django.status.reasons import AccountFacts, account_sentence
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import is_copy


class Health(IntEnum):
    """Health of the outbox; the value is the exit code of ``outbox_status --check``."""

    WELL = 0
    LATE = 1
    BROKEN = 2


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
    everything = outbox_pause(state, moment)
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


def _age(moment: datetime | None, now: datetime) -> float | None:
    return round((now - moment).total_seconds(), 3) if moment else None
