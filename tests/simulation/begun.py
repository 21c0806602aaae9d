"""Statements that are begun, and whose results are taken later, as on PostgreSQL: the simulated database has none.

The database executes such a statement at once, or when its result is waited for; its error comes then in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from django.db import Error

from prx_email_django.store import claims, finalize
from prx_email_django.store.absence import waiting_for_database
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.lease import Lease
from tests.simulation.world import World

R = TypeVar("R")

#: How often a statement must be executed in the ordinary way: it is to be planned anew.
NOT_BEGUN = 0.2


def install() -> None:
    """Let claims be begun, and groups of acceptances."""
    claims._begin_to_take = _begin_to_take
    finalize.begin_to_record = _begin_to_record


def _begin_to_take(account_id: int, *, lease: Lease, **options: Any) -> Callable[[], Any] | None:
    return _begun(lambda: claims._take_by_orm(account_id, lease=lease, **options))


def _begin_to_record(group: Sequence[FinishedAttempt], *, now: datetime) -> Callable[[], set[int]] | None:
    parts = [list(part) for part in finalize._by_claim(group)]
    return _begun(lambda: {pk for part in parts for pk in finalize.record_sent(part, now=now)})


def _begun(execute: Callable[[], R]) -> Callable[[], R] | None:
    random = World.current.random
    if random.random() < NOT_BEGUN:
        return None
    World.current.meet("begun", World.current.me.name)
    if random.random() < 0.5:
        return lambda: _unrepeated(execute)
    try:
        result = _unrepeated(execute)
    except Error as error:
        return partial(_raise, error)
    return lambda: result


def _unrepeated(execute: Callable[[], R]) -> R:
    with waiting_for_database(None):
        return execute()


def _raise(error: Error) -> Any:
    raise error
