"""Counts of queues and of what was done, in a fixed number of statements that read no row of a sent message."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, Min, Q, Sum

from prx_email_django.models import HourlyCount, OutboxMessage, OutboxState, Worker
from prx_email_django.models.conditions import AT_REST, FAILED, IS_WAITING, NEEDS_PERSON

HOUR = timedelta(hours=1)
#: Workers in the figures.
MAX_WORKERS = 100


def hourly_figures(*, now: datetime) -> list[dict[str, Any]]:
    """Return what was sent and what failed in each of the last 24 hours and the present one, by account; oldest first.

    Hours without any are left out.
    """
    rows = HourlyCount.objects.filter(hour__gt=now - timedelta(hours=25)).values_list("account__name", "hour")
    sums = rows.annotate(all_sent=Sum("sent"), all_failed=Sum("failed")).order_by("hour", "account__name")
    return [
        {"account": name, "hour": text_of(hour), "sent": sent, "failed": failed} for name, hour, sent, failed in sums
    ]


def sums_by_hour(*, since: datetime) -> dict[datetime, tuple[int, int]]:
    """Return hour -> messages sent and failed over all accounts."""
    rows = HourlyCount.objects.filter(hour__gte=since).values_list("hour")
    sums = rows.annotate(all_sent=Sum("sent"), all_failed=Sum("failed")).order_by("hour")
    return {hour: (sent, max(0, failed)) for hour, sent, failed in sums}


def worker_figures() -> list[dict[str, Any]]:
    """Return the workers of the last day, the one that was seen last first."""
    return [
        {
            "name": worker.name,
            "kind": worker.kind,
            "state": worker.state,
            "started_at": text_of(worker.started_at),
            "last_seen_at": text_of(worker.last_seen_at),
            "sent": worker.sent,
        }
        for worker in Worker.objects.order_by("-last_seen_at")[:MAX_WORKERS]
    ]


def worker_facts() -> dict[str, Any]:
    """Return the workers and the last drain, as ``outbox_status`` does."""
    last_drain = OutboxState.objects.filter(pk=1).values_list("last_drain_at", flat=True).first()
    return {"workers": worker_figures(), "last_drain_at": text_of(last_drain)}


@dataclass(slots=True)
class LastHour:
    """What one account did in the last sixty minutes."""

    sent: int = 0
    failed: int = 0


def last_hours(now: datetime) -> dict[int, LastHour]:
    """Account -> what it did in the last sixty minutes.

    Counts are kept by the clock's hour: of the hour before, the part is taken that sixty minutes reach back into.
    """
    hour = now.replace(minute=0, second=0, microsecond=0)
    part = 1 - (now - hour) / HOUR
    found: dict[int, LastHour] = {}
    rows = HourlyCount.objects.filter(hour__in=[hour - HOUR, hour]).values_list("account_id", "hour")
    for pk, of, sent, failed in rows.annotate(all_sent=Sum("sent"), all_failed=Sum("failed")).order_by():
        weight = 1 if of == hour else part
        last = found.setdefault(pk, LastHour())
        last.sent += round(weight * sent)
        last.failed += round(weight * failed)
    return found


@dataclass(frozen=True, slots=True)
class Queue:
    """The messages of one account that wait, and those at rest."""

    waiting: int = 0
    due: int = 0
    oldest_due: datetime | None = None
    #: Failed messages that will be tried again.
    deferred: int = 0
    at_rest: int = 0
    needs_person: int = 0


def queue_of_each(account_ids: Collection[int], *, now: datetime) -> dict[int, Queue]:
    """Account -> its queue, in two statements, which read no row of a sent message."""
    # By the claim's index, which has each queued row once; the accounts are named so that MariaDB uses it.
    queued = OutboxMessage.objects.filter(IS_WAITING, account_id__in=account_ids)
    is_due = Q(next_attempt_at__lte=now)
    counts = queued.values("account_id").annotate(
        all=Count("pk"),
        due=Count("pk", filter=is_due),
        oldest=Min("next_attempt_at", filter=is_due),
        deferred=Count("pk", filter=FAILED),
    )
    found = {
        row["account_id"]: Queue(row["all"] - row["due"], row["due"], row["oldest"], row["deferred"])
        for row in counts.order_by()
    }
    resting = OutboxMessage.objects.filter(AT_REST).values("account_id")
    for row in resting.annotate(all=Count("pk"), needing=Count("pk", filter=NEEDS_PERSON)).order_by():
        pk = row["account_id"]
        found[pk] = replace(found.get(pk, Queue()), at_rest=row["all"], needs_person=row["needing"])
    return found


def text_of(moment: datetime | None) -> str | None:
    """Return the instant as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat() if moment else None
