"""A transaction of two or three statements, as queueing needs it on databases where one does not write two tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

from prx_email_django.store.db import atomic

_NAME = "prx_email_enqueue"


@contextmanager
def short_transaction(connection: Any, *, in_autocommit: bool) -> Iterator[Any]:
    """A transaction of the block, or a savepoint where the caller has one open; yields a cursor.

    On SQLite, where nobody waits for a server, Django's ``atomic`` and the rewriting of each statement took a sixth of
    a message's time.  Nothing in the block asks for hooks (``on_commit``).
    """
    cursor = _sqlite_cursor(connection, in_autocommit=in_autocommit) if connection.vendor == "sqlite" else None
    if cursor is None:
        with atomic(), connection.cursor() as ordinary:
            yield ordinary
        return
    raw = connection.connection
    begin, end = ("BEGIN IMMEDIATE", "COMMIT") if in_autocommit else (f"SAVEPOINT {_NAME}", f"RELEASE {_NAME}")
    with connection.wrap_database_errors, cursor:
        try:
            raw.execute(begin)
            yield cursor
            raw.execute(end)
        except BaseException:  # an exit too: Django would not know that a transaction is open
            if in_autocommit:
                raw.rollback()
            else:
                _back_to_savepoint(connection)
            raise


def _back_to_savepoint(connection: Any) -> None:
    try:
        connection.connection.execute(f"ROLLBACK TO {_NAME}")
        connection.connection.execute(f"RELEASE {_NAME}")
    except connection.Database.Error:  # the database has ended the transaction, as with a full disk
        connection.needs_rollback = True


def _sqlite_cursor(connection: Any, *, in_autocommit: bool) -> Any:
    """A cursor in Django's wrapper.

    None: cursors are made in another way (a backend of the host, a ``SimpleTestCase`` that forbids them), or somebody
    has begun a transaction by hand.
    """
    from django.db.backends.sqlite3.base import DatabaseWrapper  # here: a Python may be built without sqlite3

    if type(connection).create_cursor is not DatabaseWrapper.create_cursor or "cursor" in vars(connection):
        return None
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    raw = connection.connection
    if raw.in_transaction is in_autocommit or connection.in_atomic_block is in_autocommit:
        return None
    return connection._prepare_cursor(raw.cursor(_cursor_class()))


@cache
def _cursor_class() -> Any:
    """Django's cursor, which rewrites each statement once."""
    from django.db.backends.sqlite3.base import SQLiteCursorWrapper

    class Cursor(SQLiteCursorWrapper):
        def convert_query(self, query: str, *, param_names: Any = None) -> str:
            return _converted(query) if param_names is None else super().convert_query(query, param_names=param_names)

    return Cursor


@lru_cache(maxsize=256)
def _converted(query: str) -> str:
    """A parameter as SQLite writes it; our statements hold no other percent sign."""
    return query.replace("%s", "?")
