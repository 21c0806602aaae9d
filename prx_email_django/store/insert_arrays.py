"""enqueue on PostgreSQL: the statement for many messages, whose columns are arrays."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from prx_email_django.models import OutboxMessage
from prx_email_django.models.content import CHUNK_SIZE
from prx_email_django.rules.clock import instant_of
from prx_email_django.store.contents import REUSED_FOR
from prx_email_django.store.draft import Draft, columns, idempotency_hash, row_of
from prx_email_django.store.insert_execution import JSON_NUL, Inserted, Unfit, Unsuited, as_json, encode, execute, flag
from prx_email_django.store.insert_sql import holds_json, in_order, sql_of_many
from prx_email_django.store.inserted_rows import attributes, instance_maker

#: Bytes of all rendered messages of one statement, which holds them in base64.
MAX_RENDERED = 4 * 1024 * 1024
#: Types whose equal values are the same for the database.
_COMPARED = {str, int, bool, type(None), datetime, list, dict}


def insert_arrays(connection: Any, drafts: Sequence[Draft], *, now: datetime | None, asks: bool) -> Inserted:
    """Write drafts, all or none.

    Raises:
        Unfit: nothing was written.
    """
    bodies, numbers = _bodies_of(drafts)
    sql, params = _statement(drafts, bodies, numbers, now=now, asks=asks)
    rows = execute(connection, sql, params, in_savepoint=not asks)
    if not rows or not int(rows[0][1]):
        raise Unfit
    _, _, moment, asked, is_due, ids, raw_ids = rows[0]
    made = instance_maker(instant_of(float(moment)), alias=connection.alias)
    written = zip(_numbers(ids), _numbers(raw_ids), strict=True)
    messages: list[OutboxMessage | None] = [
        made(draft, row_of(draft), pk or 0, raw_id) for draft, (pk, raw_id) in zip(drafts, written, strict=bool(ids))
    ]
    return Inserted(messages or [None], is_due=bool(int(is_due)), asked=flag(asked) if asks else None)


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
            raise Unsuited
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
    recipients = [
        (str(n), kind, address) for n, draft in enumerate(drafts, start=1) for kind, address in draft.recipients
    ]
    arrays = [
        *(_texts(values[name], is_json=holds_json(name)) for name in in_order(different)),
        *map(_texts, zip(*recipients, strict=True)),
    ]
    constants = [
        as_json(values[name][0]) if isinstance(values[name][0], list | dict) else values[name][0]
        for name in in_order(same)
    ]
    if any("\x00" in value for value in constants if isinstance(value, str)):
        raise Unsuited
    params = [now, encode(_demands(drafts)), *([encode(bodies), REUSED_FOR] if bodies else []), *constants, *arrays]
    return sql_of_many(same, different, with_bodies=bool(bodies), is_keyed=is_keyed, asks=asks), params


def _texts(values: Sequence[Any], *, is_json: bool = False) -> list[str | None]:
    """The values as PostgreSQL reads them."""
    texts: list[str | None]
    if is_json:
        texts, nul = [as_json(value) for value in values], JSON_NUL
    else:
        texts, nul = [value if type(value) is str else _text(value) for value in values], "\x00"
    if nul in "\n".join(filter(None, texts)):
        raise Unsuited
    return texts


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else encode(value)


def _by_column(drafts: Sequence[Draft]) -> dict[str, list[Any]]:
    """The values of each column that a draft gives, in the order of the drafts."""
    rows = [columns(draft) for draft in drafts]
    if all(row.keys() == rows[0].keys() for row in rows):  # nearly always
        values = {name: list(map(itemgetter(name), rows)) for name in rows[0]}
    else:
        _, constants, defaults = attributes()
        default = constants | {name: make() for name, make in defaults}
        values = {name: [row.get(name, default[name]) for row in rows] for name in set().union(*rows)}
    values["account"] = [draft.account.id for draft in drafts]
    values["due_at"] = [draft.due_at for draft in drafts]
    values["size"] = [draft.size for draft in drafts]
    keys = [draft.idempotency_key for draft in drafts]
    if any(key is not None for key in keys):
        if len(drafts) > 1:
            raise Unsuited  # which of them is known would be unknown
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
        groups.setdefault((draft.account.id, draft.version), []).append(draft)
    return [
        {
            "account_id": pk,
            "version": version,
            "least_size": max(draft.least_size for draft in group),
            "expires_at": min(filter(None, (draft.fields.get("expires_at") for draft in group)), default=None),
        }
        for (pk, version), group in groups.items()
    ]
