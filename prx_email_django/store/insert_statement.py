"""enqueue on PostgreSQL: one statement checks the account, writes everything and asks for a drain.

It writes all drafts or none.  What it does not write (files, large bodies, a draft that no longer fits its account) is
left to ``store.insert``, whose errors say what is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from json.encoder import encode_basestring
from typing import Any

from django.db import connections

from prx_email_django.models import OutboxMessage
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.models.foreign_text import holds_all_text
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import instant_of
from prx_email_django.store import prepared
from prx_email_django.store.contents import REUSED_FOR
from prx_email_django.store.db import atomic, refusing_text, retried_after_conflict
from prx_email_django.store.draft import Draft, columns, idempotency_hash
from prx_email_django.store.insert_sql import given_by, holds_json, in_order, sql_of_many, sql_of_one
from prx_email_django.store.inserted_rows import attributes, instance_maker

#: Bytes of all rendered messages of one statement, which holds them in base64.
MAX_RENDERED = 4 * 1024 * 1024
#: The columns of nearly every message; one that has no other is written by a shorter statement.
_USUAL = frozenset({"to", "from_email", "envelope_from", "subject", "body_text", "body_html", "size"})
#: Types whose equal values are the same for the database.
_COMPARED = {str, int, bool, type(None), datetime, list, dict}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode
_ONLY_TEXTS = frozenset({str})
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
    if any(draft.parts for draft in drafts):
        raise Unfit
    bodies, numbers = _bodies_of(drafts)
    sql, params = _statement(drafts, bodies, numbers, now=now, asks=asks)
    rows = _execute(sql, params, in_savepoint=not asks)
    if not rows or not int(rows[0][1]):
        raise Unfit
    _, _, moment, asked, is_due, ids, raw_ids = rows[0]
    made = instance_maker(instant_of(float(moment)))
    written = zip(_numbers(ids), _numbers(raw_ids), strict=True)
    messages: list[OutboxMessage | None] = [
        made(draft, pk or 0, raw_id) for draft, (pk, raw_id) in zip(drafts, written, strict=bool(ids))
    ]
    return Inserted(messages or [None], is_due=bool(int(is_due)), asked=_flag(asked) if asks else None)


def _insert_one(draft: Draft, *, now: datetime | None, asks: bool) -> Inserted:
    """The same for one message, which is the common case: a simpler statement takes half the time to plan."""
    if draft.parts:
        raise Unfit
    row = {**draft.fields, "size": draft.size}
    if draft.idempotency_key is not None:
        row["idempotency_key"], row["idempotency_hash"] = draft.idempotency_key, idempotency_hash(draft.idempotency_key)
    if _is_usual(row):
        row = {name: value for name, value in row.items() if name in _USUAL}
    names = given_by(frozenset(row))
    given = [_json(row[name]) if is_json else row[name] for name, is_json in names]
    if any(is_json and _NUL in value for value, (_, is_json) in zip(given, names, strict=True)):
        raise Unfit
    sql = sql_of_one(frozenset(row), recipients=len(draft.recipients), asks=asks, versioned=bool(draft.version))
    which = [draft.account.pk, *([draft.version] if draft.version else ()), draft.least_size]
    params = [*given, draft.due_at, now, *which, draft.fields.get("expires_at"), *chain(*draft.recipients)]
    rows = _execute(sql, params, in_savepoint=not asks)
    if not rows and draft.idempotency_key is None:
        raise Unfit
    if not rows:
        return Inserted([None], is_due=False, asked=None)
    _, pk, moment, is_due, asked = rows[0]
    message = instance_maker(instant_of(float(moment)))(draft, int(pk), None)
    return Inserted([message], is_due=bool(int(is_due)), asked=_flag(asked))


def _json(value: Any) -> str:
    if not value and isinstance(value, list | dict):  # most columns of most messages
        return "{}" if isinstance(value, dict) else "[]"
    if type(value) is list and _ONLY_TEXTS.issuperset(map(type, value)):  # addresses: the encoder takes much longer
        return f"[{','.join(map(encode_basestring, value))}]"
    return _encode(value)


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(int(value))


def _is_usual(row: Mapping[str, Any]) -> bool:
    """Whether all columns but the usual ones have their defaults."""
    return not any(value for name, value in row.items() if name not in _USUAL) and row.get("metadata", {}) == {}


def _numbers(aggregated: Any) -> list[int | None]:
    """Numbers that the server has joined by commas; None where there is nothing between two of them."""
    if aggregated is None:
        return []
    text = aggregated.decode() if isinstance(aggregated, bytes) else aggregated
    return [int(number) if number else None for number in text.split(",")]


def _bodies_of(drafts: Sequence[Draft]) -> tuple[list[dict[str, Any]], list[int | None]]:
    """The rendered messages, one that several drafts share once, and the number of each draft's one."""
    bodies: dict[tuple[str, int], dict[str, Any]] = {}
    numbers: list[int | None] = []
    rendered = 0
    for place, draft in enumerate(drafts):
        if draft.raw is None:
            numbers.append(None)
            continue
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
        numbers.append(bodies[key]["k"])
    return list(bodies.values()), numbers


def _statement(
    drafts: Sequence[Draft],
    bodies: list[dict[str, Any]],
    numbers: list[int | None],
    *,
    now: datetime | None,
    asks: bool,
) -> tuple[str, list[Any]]:
    """SQL and parameters for many drafts: what is the same in all of them is sent once, the rest by column."""
    values = _by_column(drafts)
    if bodies:
        values["body"] = numbers
    same = frozenset(name for name, given in values.items() if name != "size" and _is_same(given))
    different = frozenset(values) - same
    is_keyed = "idempotency_key" in values
    recipients = [(n, kind, address) for n, draft in enumerate(drafts, start=1) for kind, address in draft.recipients]
    arrays = [
        *(_texts(values[name], is_json=holds_json(name)) for name in in_order(different)),
        *map(_texts, zip(*recipients, strict=True)),
    ]
    constants = [
        _json(values[name][0]) if isinstance(values[name][0], list | dict) else values[name][0]
        for name in in_order(same)
    ]
    if any("\x00" in value for value in constants if isinstance(value, str)):
        raise Unfit
    params = [now, _encode(_demands(drafts)), *([_encode(bodies), REUSED_FOR] if bodies else []), *constants, *arrays]
    return sql_of_many(same, different, with_bodies=bool(bodies), is_keyed=is_keyed, asks=asks), params


def _texts(values: Sequence[Any], *, is_json: bool = False) -> list[str | None]:
    """The values as PostgreSQL reads them."""
    texts: list[str | None]
    if is_json:
        texts, nul = [_json(value) for value in values], _NUL
    else:
        texts, nul = [value if type(value) is str else _text(value) for value in values], "\x00"
    if any(nul in text for text in texts if text is not None):
        raise Unfit
    return texts


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.isoformat() if isinstance(value, datetime) else _encode(value)


def _array(texts: list[str | None]) -> str:
    """A ``text[]`` as PostgreSQL reads it; a driver's own way takes several times as long."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"


def _by_column(drafts: Sequence[Draft]) -> dict[str, list[Any]]:
    """The values of each column that a draft gives, in the order of the drafts."""
    rows = [columns(draft) for draft in drafts]
    _, constants, defaults = attributes()
    default = constants | {name: make() for name, make in defaults}
    values = {name: [row.get(name, default[name]) for row in rows] for name in set().union(*rows)}
    values["account"] = [draft.account.pk for draft in drafts]
    values["due_at"] = [draft.due_at for draft in drafts]
    values["size"] = [draft.size for draft in drafts]
    keys = [draft.idempotency_key for draft in drafts]
    if any(key is not None for key in keys):
        if len(drafts) > 1:
            raise Unfit  # which of them is known would be unknown
        values["idempotency_key"], values["idempotency_hash"] = keys, [idempotency_hash(key) for key in keys]
    return values


def _is_same(values: list[Any]) -> bool:
    """Whether all are equal; JSON only where it is empty, since ``1``, ``1.0`` and ``True`` are equal within it."""
    first = values[0]
    if isinstance(first, list | dict) and first:
        return False
    return type(first) in _COMPARED and values.count(first) == len(values)


def _demands(drafts: Sequence[Draft]) -> list[dict[str, Any]]:
    """What the statement demands of each account: its version, room for the largest draft, and time for all."""
    groups: dict[tuple[int, str], list[Draft]] = {}
    for draft in drafts:
        groups.setdefault((draft.account.pk, draft.version), []).append(draft)
    return [
        {
            "account_id": pk,
            "version": version,
            "least_size": max(draft.least_size for draft in group),
            "expires_at": min(filter(None, (draft.fields.get("expires_at") for draft in group)), default=None),
        }
        for (pk, version), group in groups.items()
    ]


def _execute(sql: str, params: Sequence[Any], *, in_savepoint: bool) -> list[tuple[Any, ...]]:
    """The statement's rows, the first column being the server's process; prepared, where that is possible.

    In a transaction an error undoes the statement only, as ``atomic`` would.
    """
    connection: Any = connections[outbox_alias()]
    if not in_savepoint:
        with suppress(prepared.NotPrepared):
            return prepared.execute(connection, sql, params)
    params = [_array(value) if isinstance(value, list) else value for value in params]
    # A server that cannot read the statement because of its characters has not set the savepoint before it either.
    if in_savepoint and not connection.features.uses_server_side_binding and holds_all_text(connection):
        return _execute_in_savepoint(connection, sql, params)
    with atomic() if in_savepoint else nullcontext(), connection.cursor() as cursor:
        cursor.execute(sql, params)
        return _noted(connection, cursor.fetchall())


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
        return _noted(connection, cursor.fetchall())


def _noted(connection: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if rows:
        prepared.note_process(connection, rows[0][0])
    return rows


def _roll_back_to_savepoint(connection: Any) -> None:
    """Leave the transaction as it was, unless the connection is lost or the driver refused before it sent anything."""
    if connection.connection is None or connection.connection.closed:
        return
    if connection.connection.info.transaction_status.name == "INERROR":
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT prx_email_enqueue")
            cursor.execute("RELEASE SAVEPOINT prx_email_enqueue")
