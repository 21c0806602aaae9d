"""The claim on PostgreSQL: one statement over all ranks that locks, claims and returns the messages.

``claims`` does the same by the ORM on the other databases; a test holds the two against each other.  The rows come back
as tuples and become instances without ``Model.__init__``, and instants come as seconds: through Django's and psycopg's
conversion of each value, reading a message cost more than claiming it.

The recipients of a message that has not changed since it was queued come along: nobody can have written a result of
theirs, or erased one.  Those of others are read by a statement of their own after the claim (``claimed.claims_of``): a
late result may have been committed after this statement took its snapshot and before it locked the row.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock, instant_of
from prx_email_django.states import WAITING, Status
from prx_email_django.store import prepared, prepared_sessions
from prx_email_django.store.claimed import ClaimedRecipient, Taken
from prx_email_django.store.cursor import Bounds

#: Ranks are priorities with the opposite sign.
RANKS = range(-10, 11)
#: Columns to which the claim gives values that are known here.
_SET = ("status", "claim_token", "dismissed_at", "updated_at")

# The lateral query runs rank by rank in the order of the ranks, and ends at the outer LIMIT.  The ids go to the UPDATE
# as an array: with a join the planner might read the whole table.  ``first`` is the place of the first message that
# must not be sent twice; NULL: there is none.
_CLAIM = """WITH due AS MATERIALIZED (
 SELECT start.claim_rank, row.* FROM unnest(%s::smallint[], %s::timestamptz[], %s::bigint[])
 AS start(claim_rank, next_attempt_at, id) CROSS JOIN LATERAL (
  SELECT m.id, m.next_attempt_at, m.on_unknown = 'hold' OR m.on_unknown = '' AND %s AS is_hold,
  m.claim_token IS NULL AND m.updated_at = m.created_at AS is_new FROM {messages} AS m
  WHERE m.account_id = %s AND m.next_attempt_at IS NOT NULL AND m.claim_rank = start.claim_rank
  AND (m.next_attempt_at, m.id) > (start.next_attempt_at, start.id) AND m.next_attempt_at <= %s
  AND m.status = ANY(%s::text[]) ORDER BY m.next_attempt_at, m.id LIMIT %s FOR UPDATE SKIP LOCKED) AS row LIMIT %s),
placed AS (SELECT id, is_hold, is_new, row_number() OVER (ORDER BY claim_rank, next_attempt_at, id) AS place FROM due),
hold AS (SELECT min(place) AS first FROM placed WHERE is_hold),
claimed AS (UPDATE {messages} AS m SET status = %s, claim_token = %s, dismissed_at = NULL, updated_at = %s,
 claim_expires_at = GREATEST(%s, STATEMENT_TIMESTAMP()) + %s
 WHERE m.id = ANY(ARRAY(SELECT id FROM placed, hold WHERE COALESCE(place < first OR first = 1 AND place <= %s, true)))
 AND m.status = ANY(%s::text[]) AND m.next_attempt_at <= %s RETURNING {columns})
SELECT hold.first, PG_BACKEND_PID(), CASE WHEN placed.is_new THEN
 (SELECT JSON_AGG(JSON_BUILD_ARRAY({recipient}) ORDER BY r.id)::text FROM {recipients} AS r
 WHERE r.message_id = placed.id) END, claimed.* FROM hold LEFT JOIN claimed ON true
 LEFT JOIN placed ON placed.id = claimed.id"""


_DECODER = json.JSONDecoder()


@lru_cache(maxsize=1024)
def _instant(seconds: float | None) -> datetime | None:
    """Messages that were queued together share their instants, and most of those of one message are equal."""
    return None if seconds is None else instant_of(seconds)


class Column(NamedTuple):
    """A column of the claimed messages: its attribute, its SQL, and the function that converts the SQL's values."""

    attname: str
    sql: str
    convert: Callable[[Sequence[Any]], Iterable[Any]] | None


def claim_in_one_statement(  # noqa: PLR0913  (what a claim needs)
    account_id: int,
    *,
    limit: int,
    hold_limit: int,
    hold_by_default: bool,
    token: uuid.UUID,
    length: timedelta,
    bounds: Bounds,
    clock: Clock,
) -> Taken:
    """Claim due messages behind ``bounds`` (by rank)."""
    connection = connections[outbox_alias()]
    columns = _columns(outbox_alias())
    now, waiting = clock.now, [status.value for status in WAITING]
    statement = _statement(outbox_alias())
    params: list[Any] = [*_starts(bounds), hold_by_default, account_id, now, waiting, limit, limit]
    params += [Status.SENDING.value, str(token), now, clock.running, length, hold_limit, waiting, now]
    rows = prepared.fetch(connection, statement, params, plan_for=prepared.PLAN_FOR, loads=True)
    prepared_sessions.note_process(connection, rows[0][1])
    taken = Taken(stopped_at_hold=rows[0][0] is not None)
    if rows[0][3] is None:  # nothing was claimed
        return taken
    known = {"status": Status.SENDING.value, "claim_token": token, "dismissed_at": None, "updated_at": now}
    make = _maker(columns, known)
    _, _, recipients, *values = zip(*rows, strict=True)
    converted = (
        column.convert(given) if column.convert else given for column, given in zip(columns, values, strict=True)
    )
    taken.messages = list(map(make, *converted))
    for message, found in zip(taken.messages, recipients, strict=True):
        if found is not None:
            taken.recipients[message.id] = [ClaimedRecipient(message.id, *read) for read in _decoded(found)]
    taken.messages.sort(key=attrgetter("claim_rank", "next_attempt_at", "id"))
    return taken


@lru_cache(maxsize=4)
def _statement(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    return _CLAIM.format(
        messages=quote(OutboxMessage._meta.db_table),
        recipients=quote(Recipient._meta.db_table),
        columns=", ".join(column.sql for column in _columns(alias)),
        recipient=", ".join(f"r.{quote(name)}" for name in ("id", *ClaimedRecipient._fields[2:])),
    )


def _starts(bounds: Bounds) -> tuple[str, str, str]:
    """Rank, instant and id behind which to begin, as array literals: psycopg takes long over an array's elements."""
    found = [bounds.get(rank) for rank in RANKS]
    instants = ("-infinity" if bound is None else bound.next_attempt_at.isoformat() for bound in found)
    ids = ("0" if bound is None else str(bound.pk) for bound in found)
    return f"{{{','.join(map(str, RANKS))}}}", f"{{{','.join(instants)}}}", f"{{{','.join(ids)}}}"


@lru_cache(maxsize=4)
def _columns(alias: str) -> tuple[Column, ...]:
    """The columns of a message that the claim does not set; the primary key first, so that a missing row shows."""
    given = [field for field in OutboxMessage._meta.concrete_fields if field.name not in _SET]
    fields = sorted(given, key=lambda field: not field.primary_key)
    return tuple(_column(field, connections[alias].ops.quote_name(str(field.column))) for field in fields)


def _column(field: models.Field[Any, Any], name: str) -> Column:
    if isinstance(field, models.DateTimeField):
        return Column(field.attname, f"DATE_PART('epoch', m.{name})", _instants)
    if isinstance(field, models.JSONField):
        return Column(field.attname, f"m.{name}::text", _json_values)
    return Column(field.attname, f"m.{name}", None)


def _instants(seconds: Sequence[float | None]) -> Iterable[datetime | None]:
    return map(_instant, seconds)


def _json_values(texts: Sequence[str]) -> list[Any]:
    # Most columns of most messages are empty, and each message has lists of its own.
    return [[] if text == "[]" else {} if text == "{}" else _decoded(text) for text in texts]


def _decoded(text: str) -> Any:
    return _DECODER.raw_decode(text)[0]  # no white space before or behind it


def _maker(columns: tuple[Column, ...], known: dict[str, Any]) -> Callable[..., OutboxMessage]:
    """A function that makes the instance of the columns' values and of those that the claim has set.

    By ``from_db`` only where the host listens to instances.
    """
    alias = outbox_alias()
    names = [column.attname for column in columns]
    in_order = [field.attname for field in OutboxMessage._meta.concrete_fields]

    def listened(*values: Any) -> OutboxMessage:
        row = known | dict(zip(names, values, strict=True))
        return OutboxMessage.from_db(alias, in_order, [row[name] for name in in_order])

    # A copy has room for all keys: a dictionary that grows to so many is made anew four times.
    empty = {"_state": None, **dict.fromkeys(names), **known}

    def make(*values: Any) -> OutboxMessage:
        message = OutboxMessage.__new__(OutboxMessage)
        message.__dict__ = attributes = empty.copy()
        attributes.update(zip(names, values, strict=True))
        message._state = state = ModelState()
        state.adding, state.db = False, alias
        return message

    return listened if pre_init.has_listeners(OutboxMessage) or post_init.has_listeners(OutboxMessage) else make
