"""Pauses of an account and of the whole outbox: when a pause is in force, and when a worker sets one.

A pause is two columns: ``pause_reason`` (empty: no pause) and ``paused_until`` (NULL: until a person resumes).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from django.db.models import Q

from prx_email_django.rules.outcomes import Trouble

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
#: Connections that may fail in a row, without a completed transaction between, before the account pauses.
CONNECTION_FAILURES = 3


class Pausable(Protocol):
    """A row that holds a pause: ``AccountState`` and ``OutboxState``."""

    pause_reason: str
    paused_until: datetime | None


def is_in_force(reason: str, until: datetime | None, *, now: datetime) -> bool:
    """Whether these columns mean a pause that is in force at ``now``; a pause ends at the instant ``until``."""
    return bool(reason) and (until is None or until > now)


def is_paused(state: Pausable, *, now: datetime) -> bool:
    """Whether the row's pause is in force at ``now``."""
    return is_in_force(state.pause_reason, state.paused_until, now=now)


def in_force(now: datetime) -> Q:
    """The condition of ``is_in_force`` for a query over ``AccountState`` or ``OutboxState``."""
    return ~Q(pause_reason="") & (Q(paused_until__isnull=True) | Q(paused_until__gt=now))


def pause_length(pauses_before: int) -> timedelta:
    """How long a worker's pause lasts: 30 s, doubled with every pause in a row, at most an hour."""
    doubled: timedelta = FIRST_PAUSE * 2 ** min(pauses_before, 20)
    return min(doubled, LONGEST_PAUSE)


def pauses_account(trouble: Trouble, connection_failures: int) -> bool:
    """Whether the account pauses now; ``connection_failures`` counts the failures in a row, this one included."""
    if trouble is Trouble.CONNECTION:
        return connection_failures >= CONNECTION_FAILURES
    return trouble is not Trouble.NONE and not trouble.is_throttle
