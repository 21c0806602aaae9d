"""Writes what a process did: its counts by the hour, and that it is alive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.db import IntegrityError
from django.db.models import F

from prx_email_django.models import HourlyCount, Worker
from prx_email_django.rules.text import MAX_COLUMN
from prx_email_django.store.db import atomic, retried_after_conflict, worker_name

#: Fields of ``HourlyCount`` -> what is added.
Amounts = Mapping[str, float]


@retried_after_conflict
def add_hourly(account_id: int, hour: datetime, amounts: Amounts) -> None:
    """Add to this process's row of the hour."""
    ours = {"account_id": account_id, "hour": hour, "worker": worker_name()[:MAX_COLUMN]}
    rows = HourlyCount.objects.filter(**ours)
    added = {name: F(name) + amount for name, amount in amounts.items()}
    if rows.update(**added):
        return
    try:
        with atomic():
            HourlyCount.objects.create(**ours, **amounts)
    except IntegrityError:  # another thread of this process was faster, or the account is gone
        rows.update(**added)


@retried_after_conflict
def seen(*, kind: str, state: str, sent: int, at: datetime) -> None:
    """Note that this process is alive, and how many messages more it has sent."""
    name = worker_name()[:MAX_COLUMN]
    rows = Worker.objects.filter(name=name)
    values = {"kind": kind, "state": state, "last_seen_at": at}
    if rows.update(**values, sent=F("sent") + sent):
        return
    try:
        with atomic():
            Worker.objects.create(name=name, **values, started_at=at, sent=sent)
    except IntegrityError:  # another thread of this process was faster
        rows.update(**values, sent=F("sent") + sent)
