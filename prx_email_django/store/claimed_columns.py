"""What the claim on PostgreSQL returns of a message, and the instances that it makes of it.

Through Django's and psycopg's conversion of each value, reading a message cost more than claiming it.  Nearly all
messages have their content in few columns, and the default in the others: of such a message only the few are returned.
Of another one all the others come too, as one JSON array.  Instants come as microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

from django.db import models
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from prx_email_django.models import OutboxMessage
from prx_email_django.models.managers import outbox_alias

#: Returned of every message.
ALWAYS = (
    "id",
    "to",
    "from_email",
    "envelope_from",
    "subject",
    "body_text",
    "body_html",
    "size",
    "claim_rank",
    "created_at",
    "next_attempt_at",
)
#: Known without the row: the claim sets them, the same for all messages, or has asked for them.
KNOWN = ("account_id", "status", "claim_token", "claim_expires_at", "dismissed_at", "updated_at")
#: Equal to ``next_attempt_at`` until an attempt has failed or a person asks.
_SAME_INSTANT = "due_since"
#: The name of the column that holds the others; NULL: they are as in most messages.
_OTHERS = "others"

_DECODER = json.JSONDecoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def returning(quote: Callable[[str], str]) -> dict[str, str]:
    """Name -> SQL of what the statement returns of the row ``m``; ``quote`` quotes a column's name."""
    fields = {field.attname: field for field in OutboxMessage._meta.concrete_fields}
    sql = {name: _sql(field, quote) for name, field in fields.items()}
    is_usual = [f"m.{quote(_SAME_INSTANT)} = m.next_attempt_at"]
    is_usual += [_is_default(fields[name], f"m.{quote(str(fields[name].column))}") for name in _defaults()]
    others = f"JSON_BUILD_ARRAY({', '.join(sql[name] for name in _others())})::text"
    found = {name: f"{sql[name]}::text" if name == "to" else sql[name] for name in ALWAYS}
    return found | {_OTHERS: f"CASE WHEN {' AND '.join(is_usual)} THEN NULL ELSE {others} END"}


def microseconds(column: str) -> str:
    """SQL of an instant as microseconds after 1970.

    Those of this era are exact in a double, others in the slower numeric.  What Python has no date for is its first or
    last instant: an instant that cannot be read would stop the whole account.
    """
    fitting = f"GREATEST(LEAST({column}, '9999-12-31 23:59:59.999999+00'), '0001-01-01 00:00:00+00')"
    return (
        f"CASE WHEN {column} BETWEEN '1900-01-01' AND '2200-01-01'"
        f" THEN (DATE_PART('epoch', {column}) * 1000000)::bigint WHEN {column} IS NOT NULL"
        f" THEN (EXTRACT(EPOCH FROM {fitting}::timestamptz) * 1000000)::bigint END"
    )


def instances_of(
    columns: Sequence[Sequence[Any]], *, known: dict[str, Any], lease: int
) -> tuple[list[OutboxMessage], set[int]]:
    """The instances of columns that ``returning`` names, and the ids of those with nothing in ``others``.

    ``known``: the columns of ``KNOWN``; ``lease`` is ``claim_expires_at``, in microseconds.
    """
    ids, to, *plain, created, instants, others = columns
    alias, due = outbox_alias(), list(map(_instant, instants))
    known = known | {"claim_expires_at": _instant(lease)}
    # A copy has room for all keys: a dictionary that grows to so many is made anew four times.
    usual: dict[str, Any] = dict.fromkeys(ALWAYS) | _defaults() | known | {"_state": None}
    own = [(name, type(value)) for name, value in usual.items() if isinstance(value, list | dict)]
    values = zip(ids, decoded_all(to), *plain, map(_instant, created), due, strict=True)
    rows: list[dict[str, Any]] = []
    for row, instant, more in zip(values, due, decoded_all(others), strict=True):
        attributes = usual.copy()
        for name, value in zip(ALWAYS, row, strict=True):
            attributes[name] = value
        if more is None:
            attributes[_SAME_INSTANT] = instant
            for name, new in own:
                attributes[name] = new()
        else:
            attributes.update(_named(more))
        rows.append(attributes)
    make = _listened if pre_init.has_listeners(OutboxMessage) or post_init.has_listeners(OutboxMessage) else _made
    return list(map(make, rows, repeat(alias))), {pk for pk, more in zip(ids, others, strict=True) if more is None}


def decoded_all(texts: Iterable[str | None]) -> list[Any]:
    """The values of JSON texts, None for None; one call for all costs a third."""
    given = ["null" if text is None else text for text in texts]
    values: list[Any] = _DECODER.raw_decode(f"[{','.join(given)}]")[0]
    return values


def _made(attributes: dict[str, Any], alias: str) -> OutboxMessage:
    """The instance, as ``from_db`` makes it where nobody listens."""
    message = OutboxMessage.__new__(OutboxMessage)
    message.__dict__ = attributes
    attributes["_state"] = state = ModelState.__new__(ModelState)
    state.__dict__ = {"adding": False, "db": alias, "fields_cache": {}}
    return message


def _listened(attributes: dict[str, Any], alias: str) -> OutboxMessage:
    """The instance, where the host listens to instances."""
    in_order = [field.attname for field in OutboxMessage._meta.concrete_fields]
    return OutboxMessage.from_db(alias, in_order, [attributes[name] for name in in_order])


@lru_cache(maxsize=1024)
def _instant(given: int | None) -> datetime | None:
    """Messages that were queued together share their instants, and most of those of one message are equal."""
    return None if given is None else _EPOCH + timedelta(microseconds=given)


@cache
def _others() -> tuple[str, ...]:
    names = (field.attname for field in OutboxMessage._meta.concrete_fields)
    return tuple(name for name in names if name not in ALWAYS + KNOWN)


@cache
def _instants() -> tuple[int, ...]:
    """The places of the instants among the others."""
    fields = OutboxMessage._meta
    return tuple(
        place for place, name in enumerate(_others()) if isinstance(fields.get_field(name), models.DateTimeField)
    )


def _named(others: list[Any]) -> Iterable[tuple[str, Any]]:
    for place in _instants():
        others[place] = _instant(others[place])
    return zip(_others(), others, strict=True)


@cache
def _defaults() -> dict[str, Any]:
    """The others -> what most messages have there; a list and a dictionary are not for use."""
    fields = {field.attname: field for field in OutboxMessage._meta.concrete_fields}
    return {name: fields[name].get_default() for name in _others() if name != _SAME_INSTANT}


def _sql(field: models.Field[Any, Any], quote: Callable[[str], str]) -> str:
    column = f"m.{quote(str(field.column))}"
    return microseconds(column) if isinstance(field, models.DateTimeField) else column


def _is_default(field: models.Field[Any, Any], column: str) -> str:
    """SQL: whether the column has its default."""
    value = field.get_default()
    if value is None:
        return f"{column} IS NULL"
    if isinstance(value, list | dict):
        return f"{column} = '{json.dumps(value)}'::jsonb"
    return f"NOT {column}" if value is False else f"{column} = '{value}'"
