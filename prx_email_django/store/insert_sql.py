"""SQL of the statements that queue messages on PostgreSQL; ``insert_one`` and ``insert_arrays`` fill them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from django.db import connections
from django.db.models import Field, JSONField

from prx_email_django.models import Account, AccountState, Content, ContentChunk, OutboxMessage, OutboxState, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.outbox import WAKE_AGAIN

#: A known idempotency key: the row that has it stays.  The condition is that of the index (``PartialUnique``).
ON_CONFLICT = "ON CONFLICT (account_id, idempotency_hash) WHERE idempotency_hash IS NOT NULL DO NOTHING"
#: The instants of one message, as its caller gave them.
_INSTANTS = """(SELECT d.moment, COALESCE(%s::timestamptz, d.moment) AS due
    FROM (SELECT COALESCE(%s::timestamptz, STATEMENT_TIMESTAMP()) AS moment) d) t,"""
#: What the statement for many messages takes beside the columns: the instant of each, and the number of its body.
_MORE = {"account": "bigint", "due_at": "timestamptz", "body": "integer"}


@lru_cache(maxsize=64)
def sql_of_many(
    same: frozenset[str], different: frozenset[str], *, with_bodies: bool, is_keyed: bool, asks: bool
) -> str:
    """The statement for many messages.

    Its parameters are the time, the demands of the drafts, ``with_bodies`` rendered messages and their age, the values
    that are the ``same`` in all drafts, a list of texts of each column that is ``different``, and three of the
    recipients: number of the message, kind and address.
    """
    quote = connections[outbox_alias()].ops.quote_name
    message, recipient, account, account_state, state = (
        quote(model._meta.db_table) for model in (OutboxMessage, Recipient, Account, AccountState, OutboxState)
    )
    sources = {name: f"c.{quote(name)}" for name in same}
    sources |= {name: f"r.{quote(name)}::{_type(name)}" for name in different}
    written = _written(sources, with_bodies=with_bodies)
    arrays = ", ".join("%s::text[]" for _ in different)
    asked = f"EXISTS (SELECT FROM asking) OR CASE WHEN EXISTS (SELECT FROM {state} WHERE id = 1) THEN FALSE END"
    return f"""
WITH clock AS MATERIALIZED (SELECT COALESCE(%s::timestamptz, STATEMENT_TIMESTAMP()) AS moment),
fit AS MATERIALIZED (
  SELECT NOT EXISTS (
    SELECT FROM JSON_TO_RECORDSET(%s::json) AS g(
      account_id bigint, version text, least_size bigint, expires_at timestamptz) CROSS JOIN clock
    LEFT JOIN {account} a ON a.id = g.account_id LEFT JOIN {account_state} s ON s.account_id = a.id
    WHERE a.id IS NULL OR (g.version <> '' AND g.version <> {version_of("a")})
      OR (s.size_limit > 0 AND g.least_size > s.size_limit) OR g.expires_at <= clock.moment) AS ok),
{_bodies(quote) if with_bodies else ""}
inserted AS (
  INSERT INTO {message} ({", ".join(map(quote, written))})
  SELECT {", ".join(written.values())}
  FROM (SELECT {"".join(f"%s::{_type(name)} AS {quote(name)}, " for name in in_order(same))}
      (SELECT moment FROM clock) AS moment) c
    CROSS JOIN UNNEST({arrays}) WITH ORDINALITY AS r({", ".join(map(quote, in_order(different)))}, n)
    {f"LEFT JOIN body b ON b.k = {sources['body']}" if with_bodies else ""}
  WHERE (SELECT ok FROM fit) ORDER BY r.n
  {ON_CONFLICT if is_keyed else ""}
  RETURNING id, raw_id, next_attempt_at),
written AS MATERIALIZED (
  SELECT ARRAY_AGG(id ORDER BY id) AS ids, ARRAY_AGG(raw_id ORDER BY id) AS raw_ids,
    COALESCE(BOOL_OR(next_attempt_at <= moment), FALSE) AS is_due FROM inserted, clock),
envelope AS (
  INSERT INTO {recipient} (message_id, kind, address, result, text)
  SELECT w.ids[r.n::integer], r.kind, r.address, '', ''
  FROM written w CROSS JOIN UNNEST(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS r(n, kind, address, place)
  WHERE w.ids IS NOT NULL ORDER BY r.place)
{_asking(state, "(SELECT is_due FROM written)") if asks else ""}
SELECT PG_BACKEND_PID(), fit.ok::int, DATE_PART('epoch', clock.moment), ({asked if asks else "NULL"})::int,
  w.is_due::int, ARRAY_TO_STRING(w.ids, ','), ARRAY_TO_STRING(w.raw_ids, ',', '')
FROM fit, clock, written w"""


def in_order(names: frozenset[str]) -> list[str]:
    """The order of the parameters of ``sql_of_many``."""
    return sorted(names)


def _written(sources: dict[str, str], *, with_bodies: bool) -> dict[str, str]:
    """SQL for the value of each column that is written, by column."""
    due = f"COALESCE({sources['due_at']}, c.moment)"
    computed = {"account": sources["account"], "next_attempt_at": due, "due_since": due}
    computed |= {"created_at": "c.moment", "updated_at": "c.moment"} | ({"raw": "b.id"} if with_bodies else {})
    written: dict[str, str] = {}
    for field in _fields():
        if field.name in computed:
            written[field.column] = computed[field.name]
        elif field.name in sources:
            written[field.column] = sources[field.name]
        elif needs_value(field):
            written[field.column] = literal(field)
    return written


def _fields() -> list[Any]:
    return list(OutboxMessage._meta.concrete_fields)


@lru_cache(maxsize=64)
def _type(name: str) -> str:
    """The type of a column without its length: a cast to a length cuts, and the column itself refuses."""
    if name in _MORE:
        return _MORE[name]
    kind = OutboxMessage._meta.get_field(name).db_type(connections[outbox_alias()]) or ""
    return kind.partition("(")[0]


@lru_cache(maxsize=64)
def holds_json(name: str) -> bool:
    """Whether the column holds JSON."""
    return name not in _MORE and isinstance(OutboxMessage._meta.get_field(name), JSONField)


@lru_cache(maxsize=64)
def given_by(names: frozenset[str]) -> tuple[Callable[[Mapping[str, Any]], tuple[Any, ...]], int, list[int]]:
    """A function for the values of these columns in the statement's order, and the places of the size and of JSON."""
    fields = [field for field in OutboxMessage._meta.concrete_fields if field.name in names]
    places = [place for place, field in enumerate(fields) if isinstance(field, JSONField)]
    given = [field.name for field in fields]
    return itemgetter(*given), given.index("size"), places


@lru_cache(maxsize=256)
def sql_of_one(names: frozenset[str], recipients: int, asks: bool, versioned: bool, timed: bool) -> str:
    """The statement for one message whose draft gives these columns.

    ``timed``: a caller gave an instant (now, due, expiry).  Else the message is due at the statement's own.
    """
    quote = connections[outbox_alias()].ops.quote_name
    message, recipient, account, account_state, state = (
        quote(model._meta.db_table) for model in (OutboxMessage, Recipient, Account, AccountState, OutboxState)
    )
    moment, due = ("t.moment", "t.due") if timed else ("STATEMENT_TIMESTAMP()", "STATEMENT_TIMESTAMP()")
    computed = {"account": "a.id", "next_attempt_at": due, "due_since": due, "created_at": moment, "updated_at": moment}
    written: dict[str, str] = {}
    for field in _fields():
        if field.name in names:
            written[field.column] = f"%s::{_type(field.name)}"
        elif field.name in computed:
            written[field.column] = computed[field.name]
        elif needs_value(field):
            written[field.column] = literal(field)
    given = [column for column, value in written.items() if value.startswith("%s")]
    columns = [*given, *(column for column in written if column not in given)]
    asked = f"EXISTS (SELECT FROM asking) OR CASE WHEN EXISTS (SELECT FROM {state} WHERE id = 1) THEN FALSE END"
    is_due = "EXISTS (SELECT FROM inserted WHERE is_due)"
    return f"""
WITH inserted AS (
  INSERT INTO {message} ({", ".join(map(quote, columns))})
  SELECT {", ".join(written[column] for column in columns)}
  FROM {_INSTANTS if timed else ""}
    {account} a LEFT JOIN {account_state} s ON s.account_id = a.id
  WHERE a.id = %s {f"AND {version_of('a')} = %s" if versioned else ""}
    AND (COALESCE(s.size_limit, 0) = 0 OR %s <= s.size_limit)
    {"AND COALESCE(%s::timestamptz > t.moment, TRUE)" if timed else ""}
  {ON_CONFLICT if "idempotency_hash" in names else ""}
  RETURNING id, created_at, next_attempt_at <= created_at AS is_due),
envelope AS (
  INSERT INTO {recipient} (message_id, kind, address, result, text)
  SELECT i.id, r.kind, r.address, '', ''
  FROM inserted i, (VALUES {", ".join(["(%s, %s)"] * recipients)}) AS r(kind, address))
{_asking(state, is_due) if asks else ""}
SELECT PG_BACKEND_PID(), id, DATE_PART('epoch', created_at), is_due::int,
  ({asked if asks else "NULL"})::int FROM inserted"""


def version_of(table: str, alias: str = "") -> str:
    """SQL for the version of an account's row: it changes with every UPDATE that changes something, whoever writes it.

    PostgreSQL knows it (transaction and place); the others know only what the row holds.
    """
    connection = connections[alias or outbox_alias()]
    if connection.vendor == "postgresql":
        return f"({table}.tableoid::text || {table}.ctid::text || {table}.xmin::text)"
    names = [str(field.column) for field in Account._meta.concrete_fields]
    columns = ", ".join(f"{table}.{connection.ops.quote_name(name)}" for name in names)
    return f"JSON_ARRAY({columns})" if connection.vendor == "sqlite" else f"MD5(JSON_ARRAY({columns}))"


def needs_value(field: Any) -> bool:
    """Whether an INSERT must name the column: it has no NULL, and the database makes no value for it."""
    return not (field.null or field.primary_key or getattr(field, "generated", False))


def literal(field: Field[Any, Any]) -> str:
    """SQL for the default of a column."""
    value = field.get_default()
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, list | dict):
        return f"'{json.dumps(value)}'"
    return f"'{value}'"


def _asking(state: str, is_due: str) -> str:
    """Ask for a drain, unless somebody else has asked or asks at this moment; nobody waits for the row."""
    return f""", asking AS (
  UPDATE {state} SET wake_requested_at = STATEMENT_TIMESTAMP()
  WHERE id = (
    SELECT o.id FROM {state} o WHERE o.id = 1 AND {is_due}
      AND (o.wake_requested_at IS NULL
        OR o.wake_requested_at < STATEMENT_TIMESTAMP() - INTERVAL '{WAKE_AGAIN.total_seconds():g} seconds')
    FOR UPDATE OF o SKIP LOCKED)
  RETURNING id)"""


def _bodies(quote: Any) -> str:
    """Store the rendered messages, or find the copies of ``contents.store_contents``."""
    content, chunk = quote(Content._meta.db_table), quote(ContentChunk._meta.db_table)
    return f"""
found AS MATERIALIZED (
  SELECT b.*, c.id AS known FROM JSON_TO_RECORDSET(%s::json) AS b(
    k integer, sha256 text, size bigint, is_private boolean, data text)
  LEFT JOIN LATERAL (
    SELECT id FROM {content} o, clock WHERE o.sha256 = b.sha256 AND NOT o.is_private AND NOT b.is_private
      AND o.stored_at > GREATEST(clock.moment, STATEMENT_TIMESTAMP()) - %s::interval
    ORDER BY o.stored_at DESC LIMIT 1) c ON TRUE),
body AS MATERIALIZED (
  SELECT f.*, COALESCE(f.known, NEXTVAL(PG_GET_SERIAL_SEQUENCE('{content}', 'id'))) AS id FROM found f),
stored AS (
  INSERT INTO {content} (id, sha256, size, stored_at, is_private)
  SELECT b.id, b.sha256, b.size, clock.moment, b.is_private FROM body b, clock
  WHERE b.known IS NULL AND (SELECT ok FROM fit) RETURNING id),
chunks AS (
  INSERT INTO {chunk} (content_id, position, data)
  SELECT b.id, 0, DECODE(b.data, 'base64') FROM body b WHERE b.known IS NULL AND (SELECT ok FROM fit)),"""
