"""enqueue on PostgreSQL: the statement for one message, which is the common case."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from prx_email_django.rules.clock import instant_of
from prx_email_django.store.draft import Draft, row_of
from prx_email_django.store.insert_execution import JSON_NUL, Inserted, Unfit, Unsuited, as_json, execute, flag
from prx_email_django.store.insert_sql import given_by, sql_of_one
from prx_email_django.store.inserted_rows import instance_maker

#: The columns of nearly every message; one that has no other is written by a shorter statement.
_USUAL = frozenset({"to", "from_email", "envelope_from", "subject", "body_text", "body_html", "size"})


def insert_one(connection: Any, draft: Draft, *, now: datetime | None, asks: bool) -> Inserted:
    """Write a draft without files; the statement takes half as long to plan as that for many.

    Raises:
        Unfit: nothing was written.
    """
    row = row_of(draft)
    names = _USUAL if row.keys() == _USUAL or _is_usual(row) else frozenset(row)
    given, size = _values(row, names)
    expires_at = row.get("expires_at")
    timed = (now, draft.due_at, expires_at) != (None, None, None)
    sql = sql_of_one(names, len(draft.recipients), asks, bool(draft.version), timed)
    # Without files the least size of the message is the size of its texts.
    which = [str(draft.account.id), draft.version, size] if draft.version else [str(draft.account.id), size]
    params = [*given, draft.due_at, now, *which, expires_at] if timed else given + which
    params += chain.from_iterable(draft.recipients)
    rows = execute(connection, sql, params, in_savepoint=not asks)
    if not rows and draft.idempotency_key is None:
        raise Unfit
    if not rows:
        return Inserted([None], is_due=False, asked=None)
    _, pk, moment, is_due, asked = rows[0]
    message = instance_maker(instant_of(float(moment)), alias=connection.alias)(draft, row, int(pk), None)
    return Inserted([message], is_due=bool(int(is_due)), asked=flag(asked))


def _values(row: Mapping[str, Any], names: frozenset[str]) -> tuple[list[Any], str]:
    """The values of these columns as the statement takes them, size and JSON as text, and the size."""
    values_of, place_of_size, places_of_json = given_by(names)
    values = list(values_of(row))
    values[place_of_size] = size = str(row["size"])
    for place in places_of_json:
        values[place] = as_json(values[place])
        if JSON_NUL in values[place]:
            raise Unsuited
    return values, size


def _is_usual(row: Mapping[str, Any]) -> bool:
    """Whether the usual columns are given, and all others have their defaults."""
    others = row.keys() - _USUAL
    return len(row) - len(others) == len(_USUAL) and not any(map(row.get, others)) and row.get("metadata", {}) == {}
