"""enqueue on PostgreSQL: one statement checks the account, writes everything and asks for a drain.

It writes all drafts or none.  What it does not write (files, large bodies, a draft that no longer fits its account) is
left to ``store.insert``, whose errors say what is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from django.db import connections
from django.db.models import Field, JSONField
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from prx_email_django.models import Account, AccountState, Content, ContentChunk, OutboxMessage, OutboxState, Recipient
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.models.foreign_text import holds_all_text
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store import prepared
from prx_email_django.store.contents import REUSED_FOR
from prx_email_django.store.db import atomic, refusing_text, retried_after_conflict
from prx_email_django.store.draft import Draft, columns, idempotency_hash
from prx_email_django.store.outbox import WAKE_AGAIN

#: Bytes of all rendered messages of one statement, which holds them in base64.
MAX_RENDERED = 4 * 1024 * 1024
#: Columns whose values a draft gives.
_GIVEN = frozenset(
    {
        *("to", "cc", "bcc", "reply_to", "from_email", "envelope_from", "subject", "body_text", "body_html", "headers"),
        *("in_reply_to_message_id", "references", "fixed_message_id", "priority", "expires_at", "on_unknown", "tag"),
        *("metadata", "is_sensitive", "idempotency_key", "idempotency_hash", "size"),
    }
)
#: Columns that the statement computes.
_COMPUTED = {
    "id": "g.id",
    "account": "g.account_id",
    "raw": "b.id",
    "next_attempt_at": "g.due",
    "due_since": "g.due",
    "created_at": "g.moment",
    "updated_at": "g.moment",
}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode
#: A NUL as JSON writes it; PostgreSQL refuses it.
_NUL = "\\u0000"


class Unfit(Exception):
    """Nothing was written: account, size or time do not allow a draft any more, or the statement cannot hold it."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What the statement did."""

    #: In order; None: the key is known.
    messages: list[OutboxMessage | None]
    #: Whether a message is due now.
    is_due: bool
    #: Whether a drain was asked for by this statement; None: the statement had no say in that.
    asked: bool | None


def can_insert() -> bool:
    """Whether the outbox's database knows the statement."""
    connection: Any = connections[outbox_alias()]
    return connection.vendor == "postgresql" and not connection.Database.__version__.startswith("2")


@refusing_text()
@retried_after_conflict
def insert_together(drafts: Sequence[Draft], *, now: datetime | None) -> Inserted:
    """Write all drafts, or none; ``now`` None: the database's clock at the statement.

    Outside a transaction the statement asks for a drain too, if a message is due: its commit is that of the messages,
    so a drain that answers finds them.

    Raises:
        Unfit: nothing was written.
    """
    connection: Any = connections[outbox_alias()]
    asks = not connection.in_atomic_block and connection.get_autocommit()
    if len(drafts) == 1 and drafts[0].raw is None:
        return _insert_one(drafts[0], now=now, asks=asks)
    text, bodies = _as_json(drafts)
    sql = _sql(connection.vendor, with_bodies=bool(bodies), asks=asks)
    rows = _execute(sql, [now, text, _encode(bodies), REUSED_FOR] if bodies else [now, text], in_savepoint=not asks)
    if not rows or not int(rows[0][1]):
        raise Unfit
    _, _, moment, asked, is_due = rows[0][:5]
    written = {int(row[6]): row for row in rows if row[5] is not None}
    made = _maker(_instant(moment))
    messages = [
        made(draft, int(row[5]), None if row[7] is None else int(row[7])) if (row := written.get(place)) else None
        for place, draft in enumerate(drafts)
    ]
    return Inserted(messages, is_due=bool(int(is_due)), asked=_flag(asked) if asks else None)


def _insert_one(draft: Draft, *, now: datetime | None, asks: bool) -> Inserted:
    """The same for one message, which is the common case: a simpler statement takes half the time to plan."""
    if draft.parts:
        raise Unfit
    row = {**draft.fields, "size": draft.size}
    row["idempotency_key"], row["idempotency_hash"] = draft.idempotency_key, idempotency_hash(draft.idempotency_key)
    names = _given_by(frozenset(row))
    given = [_json(row[name]) if is_json else row[name] for name, is_json in names]
    if any(is_json and _NUL in value for value, (_, is_json) in zip(given, names, strict=True)):
        raise Unfit
    sql = _sql_of_one(frozenset(row), recipients=len(draft.recipients), asks=asks, versioned=bool(draft.version))
    which = [draft.account.pk, *([draft.version] if draft.version else ()), draft.least_size]
    params = [*given, draft.due_at, now, *which, draft.fields.get("expires_at"), *chain(*draft.recipients)]
    rows = _execute(sql, params, in_savepoint=not asks)
    if not rows and draft.idempotency_key is None:
        raise Unfit
    if not rows:
        return Inserted([None], is_due=False, asked=None)
    _, pk, moment, is_due, asked = rows[0]
    message = _maker(_instant(moment))(draft, int(pk), None)
    return Inserted([message], is_due=bool(int(is_due)), asked=_flag(asked))


def _json(value: Any) -> str:
    if not value and isinstance(value, list | dict):  # most columns of most messages
        return "{}" if isinstance(value, dict) else "[]"
    return _encode(value)


def _instant(seconds: Any) -> datetime:
    # Microseconds of this era are exact in a double.
    return datetime.fromtimestamp(float(seconds), UTC)


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(int(value))


def _as_json(drafts: Sequence[Draft]) -> tuple[str, list[dict[str, Any]]]:
    """The drafts, and the rendered messages that they refer to: one that several share once."""
    bodies: dict[tuple[str, int], dict[str, Any]] = {}
    rows = []
    rendered = 0
    for place, draft in enumerate(drafts):
        if draft.parts:
            raise Unfit
        body = None
        if draft.raw is not None:
            rendered += len(draft.raw)
            if rendered > MAX_RENDERED or len(draft.raw) > CHUNK_SIZE:
                raise Unfit
            key = (hashlib.sha256(draft.raw).hexdigest(), place if draft.is_sensitive else -1)
            if key not in bodies:
                bodies[key] = {
                    "k": len(bodies),
                    "sha256": key[0],
                    "size": len(draft.raw),
                    "is_private": draft.is_sensitive,
                    "data": base64.b64encode(draft.raw).decode("ascii"),
                }
            body = bodies[key]["k"]
        rows.append(_row(draft, place, body))
    text = _encode(rows)
    if _NUL in text:
        raise Unfit
    return text, list(bodies.values())


def _row(draft: Draft, place: int, body: int | None) -> dict[str, Any]:
    return {
        **columns(draft),
        "n": place,
        "k": body,
        "account_id": draft.account.pk,
        "version": draft.version,
        "least_size": draft.least_size,
        "due_at": draft.due_at,
        "recipients": draft.recipients,
        "size": draft.size,
        "idempotency_key": draft.idempotency_key,
        "idempotency_hash": idempotency_hash(draft.idempotency_key),
    }


def _maker(moment: datetime) -> Callable[[Draft, int, int | None], OutboxMessage]:
    """A function that makes the instance of a row that was written at ``moment``.

    By ``from_db`` only where the host listens to instances.  An account by which the draft was made is read again when
    it is used.
    """
    alias, (names, constants, defaults) = outbox_alias(), _attributes()
    account: Any = OutboxMessage._meta.get_field("account")
    is_listened_to = pre_init.has_listeners(OutboxMessage) or post_init.has_listeners(OutboxMessage)

    def make(draft: Draft, pk: int, raw_id: int | None) -> OutboxMessage:
        given = columns(draft)
        values = {**constants, **given}
        for name, make_default in defaults:
            if name not in given:
                values[name] = make_default()
        values["id"], values["account_id"], values["raw_id"] = pk, draft.account.pk, raw_id
        values["next_attempt_at"] = values["due_since"] = draft.due_at or moment
        values["created_at"] = values["updated_at"] = moment
        values["size"], values["claim_rank"] = draft.size, -given.get("priority", 0)
        if draft.idempotency_key is not None:
            values["idempotency_key"] = draft.idempotency_key
            values["idempotency_hash"] = idempotency_hash(draft.idempotency_key)
        if is_listened_to:
            message = OutboxMessage.from_db(alias, names, [values[name] for name in names])
        else:
            message = OutboxMessage.__new__(OutboxMessage)
            message._state = ModelState()
            message._state.adding, message._state.db = False, alias
            message.__dict__.update(values)
        if not draft.version:
            account.set_cached_value(message, draft.account)  # the descriptor asks the routers, for each message
        return message

    return make


#: What a message of a long list is known by; the rest of its columns is read when it is used.
_SHORT = ("id", "account_id", "status", "next_attempt_at", "created_at", "priority")


def without_content(message: OutboxMessage) -> OutboxMessage:
    """The same row, with few of its columns in memory."""
    short = OutboxMessage.from_db(message._state.db, _SHORT, [getattr(message, name) for name in _SHORT])
    if "account" in message._state.fields_cache:
        short.account = message.account
    return short


def _fields() -> list[Any]:
    return list(OutboxMessage._meta.concrete_fields)


@lru_cache(maxsize=1)
def _attributes() -> tuple[list[str], dict[str, Any], list[tuple[str, Callable[[], Any]]]]:
    """Names of the model's attributes, their defaults that never change, and what makes the other defaults."""
    fields = OutboxMessage._meta.concrete_fields
    constants = {
        field.attname: field.get_default()
        for field in fields
        if not callable(field.default) and isinstance(field.get_default(), str | int | None)
    }
    known = {*constants, *_COMPUTED}
    others = [
        (field.attname, field.get_default) for field in fields if field.name not in known and field.attname not in known
    ]
    return [field.attname for field in fields], constants, others


def _execute(sql: str, params: Sequence[Any], *, in_savepoint: bool) -> list[tuple[Any, ...]]:
    """The statement's rows, the first column being the server's process; prepared, where that is possible.

    In a transaction an error undoes the statement only, as ``atomic`` would.
    """
    connection: Any = connections[outbox_alias()]
    if not in_savepoint:
        with suppress(prepared.NotPrepared):
            return prepared.execute(connection, sql, params)
    # A server that cannot read the statement because of its characters has not set the savepoint before it either.
    elif not connection.features.uses_server_side_binding and holds_all_text(connection):
        return _execute_in_savepoint(connection, sql, params)
    with atomic() if in_savepoint else nullcontext(), connection.cursor() as cursor:
        cursor.execute(sql, params)
        return _learned(connection, cursor.fetchall())


def _execute_in_savepoint(connection: Any, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One round trip; a driver that binds on the server would take one statement at a time."""
    text, is_prepared, prepares = sql, False, False
    if prepared.is_ready(connection, sql):
        is_prepared = True
        text, prepares = prepared.as_execute(connection, sql)
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"SAVEPOINT prx_email_enqueue; {text}; RELEASE SAVEPOINT prx_email_enqueue", params)
        except Exception as error:
            _roll_back_to_savepoint(connection)
            if not is_prepared or not prepared.is_lost(error):
                raise
            prepared.forget(connection)
            return _execute_in_savepoint(connection, sql, params)
        if prepares:
            prepared.note(connection, sql)
            cursor.nextset()
        cursor.nextset()
        return _learned(connection, cursor.fetchall())


def _learned(connection: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if rows:
        prepared.learn(connection, rows[0][0])
    return rows


def _roll_back_to_savepoint(connection: Any) -> None:
    """Leave the transaction as it was, unless the connection is lost or the driver refused before it sent anything."""
    if connection.connection is None or connection.connection.closed:
        return
    if connection.connection.info.transaction_status.name == "INERROR":
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT prx_email_enqueue")
            cursor.execute("RELEASE SAVEPOINT prx_email_enqueue")


@lru_cache(maxsize=4)
def _sql(vendor: str, *, with_bodies: bool, asks: bool) -> str:
    """The statement; its parameters are the time, the drafts and, ``with_bodies``, rendered messages and their age."""
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    message, recipient, account, account_state, state = (
        quote(model._meta.db_table) for model in (OutboxMessage, Recipient, Account, AccountState, OutboxState)
    )
    fields: list[Any] = [field for field in _fields() if not getattr(field, "generated", False)]
    given = [field for field in fields if field.name in _GIVEN]
    record = ", ".join(f"{quote(field.column)} {field.db_type(connection)}" for field in given)
    written = {field.column: value for field in fields if (value := _value(field, quote, with_bodies)) is not None}
    asked = f"EXISTS (SELECT FROM asking) OR CASE WHEN EXISTS (SELECT FROM {state} WHERE id = 1) THEN FALSE END"
    return f"""
WITH clock AS MATERIALIZED (SELECT COALESCE(%s::timestamptz, STATEMENT_TIMESTAMP()) AS moment),
given AS MATERIALIZED (
  SELECT NEXTVAL(PG_GET_SERIAL_SEQUENCE('{message}', 'id')) AS id, clock.moment,
    COALESCE(r.due_at, clock.moment) AS due, r.*
  FROM JSON_TO_RECORDSET(%s::json) AS r(
    n integer, k integer, account_id bigint, version text, least_size bigint, due_at timestamptz, recipients json,
    {record}), clock),
fit AS MATERIALIZED (
  SELECT NOT EXISTS (
    SELECT FROM given g LEFT JOIN {account} a ON a.id = g.account_id LEFT JOIN {account_state} s ON s.account_id = a.id
    WHERE a.id IS NULL OR (g.version <> '' AND g.version <> {version_of("a")})
      OR (s.size_limit > 0 AND g.least_size > s.size_limit) OR g.expires_at <= g.moment) AS ok),
{_bodies(quote) if with_bodies else ""}
inserted AS (
  INSERT INTO {message} ({", ".join(map(quote, written))})
  SELECT {", ".join(written.values())} FROM given g {"LEFT JOIN body b ON b.k = g.k" if with_bodies else ""}
  WHERE (SELECT ok FROM fit) ORDER BY g.n
  ON CONFLICT (account_id, idempotency_hash) DO NOTHING
  RETURNING id, next_attempt_at),
envelope AS (
  INSERT INTO {recipient} (message_id, kind, address, result, text)
  SELECT g.id, r.value->>0, r.value->>1, '', ''
  FROM given g JOIN inserted i ON i.id = g.id, JSON_ARRAY_ELEMENTS(g.recipients) WITH ORDINALITY AS r(value, n)
  ORDER BY g.n, r.n),
due AS MATERIALIZED (SELECT EXISTS (SELECT FROM inserted, clock WHERE next_attempt_at <= moment) AS is_due)
{_asking(state, "(SELECT is_due FROM due)") if asks else ""}
SELECT PG_BACKEND_PID(), fit.ok::int, EXTRACT(EPOCH FROM clock.moment)::float8, ({asked if asks else "NULL"})::int,
  due.is_due::int, i.id, g.n,
  {"b.id" if with_bodies else "NULL"}
FROM given g LEFT JOIN inserted i ON i.id = g.id {"LEFT JOIN body b ON b.k = g.k" if with_bodies else ""},
  fit, clock, due"""


@lru_cache(maxsize=64)
def _given_by(names: frozenset[str]) -> list[tuple[str, bool]]:
    """The columns that a draft gives, in order, and whether each holds JSON."""
    fields = OutboxMessage._meta.concrete_fields
    return [(field.name, isinstance(field, JSONField)) for field in fields if field.name in names]


@lru_cache(maxsize=256)
def _sql_of_one(names: frozenset[str], *, recipients: int, asks: bool, versioned: bool) -> str:
    """The statement for one message whose draft gives these columns."""
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    message, recipient, account, account_state, state = (
        quote(model._meta.db_table) for model in (OutboxMessage, Recipient, Account, AccountState, OutboxState)
    )
    computed = {"account": "a.id", "next_attempt_at": "t.due", "due_since": "t.due"}
    computed |= {"created_at": "t.moment", "updated_at": "t.moment"}
    written: dict[str, str] = {}
    for field in _fields():
        if field.name in names:
            written[field.column] = f"%s::{field.db_type(connection)}"
        elif field.name in computed:
            written[field.column] = computed[field.name]
        elif not field.null and not field.primary_key and not getattr(field, "generated", False):
            written[field.column] = _literal(field)
    given = [column for column, value in written.items() if value.startswith("%s")]
    columns = [*given, *(column for column in written if column not in given)]
    asked = f"EXISTS (SELECT FROM asking) OR CASE WHEN EXISTS (SELECT FROM {state} WHERE id = 1) THEN FALSE END"
    is_due = "EXISTS (SELECT FROM inserted WHERE is_due)"
    return f"""
WITH inserted AS (
  INSERT INTO {message} ({", ".join(map(quote, columns))})
  SELECT {", ".join(written[column] for column in columns)}
  FROM (SELECT d.moment, COALESCE(%s::timestamptz, d.moment) AS due
    FROM (SELECT COALESCE(%s::timestamptz, STATEMENT_TIMESTAMP()) AS moment) d) t,
    {account} a LEFT JOIN {account_state} s ON s.account_id = a.id
  WHERE a.id = %s {f"AND {version_of('a')} = %s" if versioned else ""}
    AND (COALESCE(s.size_limit, 0) = 0 OR %s <= s.size_limit) AND COALESCE(%s::timestamptz > t.moment, TRUE)
  ON CONFLICT (account_id, idempotency_hash) DO NOTHING
  RETURNING id, created_at, next_attempt_at <= created_at AS is_due),
envelope AS (
  INSERT INTO {recipient} (message_id, kind, address, result, text)
  SELECT i.id, r.kind, r.address, '', ''
  FROM inserted i, (VALUES {", ".join(["(%s, %s)"] * recipients)}) AS r(kind, address))
{_asking(state, is_due) if asks else ""}
SELECT PG_BACKEND_PID(), id, EXTRACT(EPOCH FROM created_at)::float8, is_due::int,
  ({asked if asks else "NULL"})::int FROM inserted"""


def version_of(table: str) -> str:
    """SQL for the version of a row: it changes with every UPDATE, whoever writes it (transaction and place)."""
    return f"({table}.tableoid::text || {table}.ctid::text || {table}.xmin::text)"


def _value(field: Field[Any, Any], quote: Any, with_bodies: bool) -> str | None:
    """SQL for the value of a column; None: the column is left NULL."""
    if field.name in _COMPUTED:
        return _COMPUTED[field.name] if with_bodies or field.name != "raw" else None
    if field.name not in _GIVEN:
        return None if field.null else _literal(field)
    column = f"g.{quote(field.column)}"
    return (
        column
        if field.null or not field.has_default() and not field.blank
        else f"COALESCE({column}, {_literal(field)})"
    )


def _literal(field: Field[Any, Any]) -> str:
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
