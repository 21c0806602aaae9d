"""Writes what a process did: its counts by the hour, and that it is alive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError
from django.db.models import F, QuerySet

from prx_email_django.models import HourlyCount, Worker
from prx_email_django.rules.text import MAX_COLUMN
from prx_email_django.store.db import atomic, retried_after_conflict, worker_name

#: Fields of ``HourlyCount`` -> what is added.
Amounts = Mapping[str, float]


@retried_after_conflict
def add_hourly(account_id: int, hour: datetime, amounts: Amounts) -> None:
    """Add to this process's row of the hour."""
    ours = {"account_id": account_id, "hour": hour, "worker": worker_name()[:MAX_COLUMN]}
    changes = {name: F(name) + amount for name, amount in amounts.items()}
    _update_or_make(HourlyCount.objects.filter(**ours), changes, {**ours, **amounts})


@retried_after_conflict
def seen(*, kind: str, state: str, sent: int, at: datetime) -> None:
    """Note that this process is alive, and how many messages more it has sent."""
    ours = {"name": worker_name()[:MAX_COLUMN]}
    values = {"kind": kind, "state": state, "last_seen_at": at}
    changes = {**values, "sent": F("sent") + sent}
    _update_or_make(Worker.objects.filter(**ours), changes, {**ours, **values, "started_at": at, "sent": sent})


def _update_or_make(rows: QuerySet[Any], changes: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Change this process's row, or make it with these columns."""
    if rows.update(**changes):
        return
    try:
        with atomic():
            rows.model.objects.create(**columns)
    except IntegrityError:  # another thread of this process was faster, or the account is gone
        rows.update(**changes)
