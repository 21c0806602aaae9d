"""Executes the statements that queue messages on PostgreSQL, in autocommit or in the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from typing import Any

from prx_email_django.models import OutboxMessage
from prx_email_django.models.foreign_text import holds_all_text
from prx_email_django.store import prepared, prepared_sessions
from prx_email_django.store.db import atomic
from prx_email_django.store.libpq_parameters import NotPrepared

#: A NUL as JSON writes it; PostgreSQL refuses it.
JSON_NUL = "\\u0000"
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode
_ONLY_TEXTS = frozenset({str})


class Unfit(Exception):
    """Nothing was written: account, size or time do not allow a draft any more, or the statement cannot hold it."""


class Unsuited(Unfit):
    """Nothing was written: the statement cannot hold a draft, whatever its account is."""


@dataclass(slots=True)
class Inserted:
    """What the statement did.  Nobody changes it."""

    #: In order; None: the key is known.
    messages: list[OutboxMessage | None]
    #: Whether a message is due now.
    is_due: bool
    #: Whether a drain was asked for by this statement; None: the statement had no say in that.
    asked: bool | None


def as_json(value: Any) -> str:
    """The value as JSON."""
    if not value and isinstance(value, list | dict):  # most columns of most messages
        return "{}" if isinstance(value, dict) else "[]"
    if type(value) is list and _ONLY_TEXTS.issuperset(map(type, value)):  # addresses: the encoder takes much longer
        return f"[{','.join(map(encode_basestring, value))}]"
    return encode(value)


def flag(value: Any) -> bool | None:
    """A boolean that the server wrote as a number."""
    return None if value is None else bool(int(value))


def execute(connection: Any, sql: str, params: Sequence[Any], *, in_savepoint: bool) -> list[tuple[Any, ...]]:
    """The statement's rows, the first column being the server's process; prepared, where that is possible.

    In a transaction an error undoes the statement only, as ``atomic`` would.
    """
    if not in_savepoint:
        try:  # ``suppress`` takes three calls, for each message
            return prepared.execute(connection, sql, params)
        except NotPrepared:
            pass
        with suppress(NotPrepared):
            return _noted(connection, prepared.execute_once(connection, sql, params))
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
    if prepared_sessions.is_ready(connection, sql):
        is_prepared = True
        text, prepares = prepared_sessions.as_execute(connection, sql)
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"SAVEPOINT prx_email_enqueue; {text}; RELEASE SAVEPOINT prx_email_enqueue", params)
        except Exception as error:
            _roll_back_to_savepoint(connection)
            if not is_prepared or not prepared_sessions.is_lost(error):
                raise
            prepared_sessions.forget(connection)
            return _execute_in_savepoint(connection, sql, params)
        if prepares:
            prepared_sessions.note(connection, sql)
            cursor.nextset()
        cursor.nextset()
        return _noted(connection, cursor.fetchall())


def _noted(connection: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if rows:
        prepared_sessions.note_process(connection, int(rows[0][0]))
    return rows


def _roll_back_to_savepoint(connection: Any) -> None:
    """Leave the transaction as it was, unless the connection is lost or the driver refused before it sent anything."""
    if connection.connection is None or connection.connection.closed:
        return
    if connection.connection.info.transaction_status.name == "INERROR":
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT prx_email_enqueue")
            cursor.execute("RELEASE SAVEPOINT prx_email_enqueue")


def _array(texts: list[str | None]) -> str:
    """A ``text[]`` as PostgreSQL reads it; a driver's own way takes several times as long."""
    quoted = ["NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"
