"""Statements that PostgreSQL plans once for each connection: to plan a small statement costs more than to execute it.

Outside a transaction libpq is called as psycopg's cursors call it, without the cursor, which took four times its CPU.
Whether a connection can prepare statements: ``prepared_sessions``.
"""

from __future__ import annotations

import threading
from asyncio import _get_running_loop
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import repeat
from time import monotonic
from typing import Any

from prx_email_django.store.libpq_parameters import Given, NotPrepared, dumped
from prx_email_django.store.prepared_sessions import (
    LOST,
    Session,
    forget,
    is_djangos_own,
    is_plain,
    numbered,
    ready_session,
    session_of,
)

#: Seconds after which a statement that reads large tables is planned anew for the first time: a plan for a nearly empty
#: table reads all of it.
PLAN_FOR = 1.0
#: A plan is kept as long as all before it together, since a table doubles ever more seldom; at most so many seconds.
LONGEST_PLAN = 60.0
#: libpq: a statement is being executed.
ACTIVE = 1


def fetch(
    connection: Any, sql: str, params: Sequence[Any], *, plan_for: float, loads: bool = False
) -> list[tuple[Any, ...]]:
    """Execute a statement, prepared where that is possible; its rows hold bytes, or what Django's cursor makes of them.

    ``plan_for``, ``loads``: see ``execute``.
    """
    if not connection.in_atomic_block:
        with suppress(NotPrepared):
            return execute(connection, sql, params, plan_for=plan_for, loads=loads)
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def execute(
    connection: Any, sql: str, params: Sequence[Any], *, plan_for: float | None = None, loads: bool = False
) -> list[tuple[Any, ...]]:
    """Execute a statement outside a transaction; its rows hold bytes, as PostgreSQL writes values.

    ``plan_for``: seconds after which it is prepared anew for the first time, because its best plan depends on the size
    of tables (``is_outdated``).  None: its plan stays.  ``loads``: the rows hold what psycopg makes of the values.

    Raises:
        NotPrepared: nothing was executed.
    """
    ensure_connection(connection)
    session = ready_session(connection, sql)
    if session is None:
        raise NotPrepared
    if connection._thread_ident != threading.get_ident():  # the same question, without a lock
        connection.validate_thread_sharing()
    given = PreparedCursor(connection.connection, session, plan_for, loads)
    try:
        # Django's wrapper: the host's ``execute_wrapper`` sees the statement, and errors are Django's.
        connection.make_cursor(given).execute(sql, params)
    except NotPrepared:
        forget(connection)
        raise
    return list(given.rows)


def execute_once(connection: Any, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """As ``execute``, but nothing stays prepared: for the first statement of a connection, and behind a pooler.

    Raises:
        NotPrepared: nothing was executed.
    """
    ensure_connection(connection)
    raw = connection.connection
    is_usual = session_of(connection) is not None and raw.info.encoding == "utf-8" and is_djangos_own(connection)
    if not is_usual or not is_plain(connection):
        raise NotPrepared
    connection.validate_thread_sharing()
    given = OnceCursor(raw)
    connection.make_cursor(given).execute(sql, params)
    return list(given.rows)


def ensure_connection(connection: Any) -> None:
    """Open the connection as Django's ``cursor`` does, with its errors; it makes a dozen calls where it is open."""
    is_open = connection.connection is not None and not connection.health_check_enabled
    if not is_open or _get_running_loop() is not None or not _ensures_as_django(connection):
        connection.close_if_health_check_failed()
        connection.ensure_connection()


def _ensures_as_django(connection: Any) -> bool:
    """Whether nobody has replaced ``ensure_connection``, to forbid access (pytest-django) or to connect again."""
    return bool(connection.ensure_connection.__module__ == "django.db.backends.base.base")


class OnceCursor:
    """As much of a cursor as Django's wrapper uses, for a statement that is not prepared."""

    _loads = False
    #: Empty where an ``execute_wrapper`` of the host has not executed the statement.
    rows: Sequence[tuple[Any, ...]] = ()
    rowcount = -1

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        values, formats = dumped(params)

        def exchange(pgconn: Any) -> Generator[Any, Any, list[Any]]:
            pgconn.send_query_params(numbered(sql)[1].encode(), values, None, formats)
            generator: Generator[Any, Any, list[Any]] = generators()[0](pgconn)
            return generator

        self.take(_wait(self._connection, exchange))

    def take(self, result: Any) -> None:
        """Read the rows of the result.

        Raises:
            Exception: the error of the statement, as psycopg's class.
        """
        if result.status != 2:  # TUPLES_OK
            raise _error(result)
        self.rows = _loaded(self._connection, result) if self._loads else _unloaded(result)
        self.rowcount = len(self.rows)

    def close(self) -> None:
        """Do nothing: the rows are read already."""


class PreparedCursor(OnceCursor):
    """The same for a prepared statement."""

    def __init__(self, connection: Any, session: Session, plan_for: float | None, loads: bool) -> None:
        self._connection, self._session, self._plan_for, self._loads = connection, session, plan_for, loads

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        name, text, _ = numbered(sql)
        given = dumped(params)
        session, encoded = self._session, name.encode()
        is_known = name in session.names
        is_old = is_known and is_outdated(session, name, self._plan_for)
        if is_known and not is_old:  # nearly always
            with self._connection.lock:
                pgconn = idle_line(self._connection)
                pgconn.send_query_prepared(encoded, *given)
                # psycopg's own generator, which is compiled, waits for the results.
                self.take(self._connection.wait(generators()[0](pgconn))[-1])
            return
        prepares = None if is_known and not is_old else text.encode()
        exchange = partial(_exchange, name=encoded, given=given, prepares=prepares, is_old=is_old)
        result = _wait(self._connection, exchange)
        if prepares is not None:
            session.note_prepared(name)
        self.take(result)


def is_outdated(session: Session, name: str, plan_for: float | None) -> bool:
    """Whether the prepared statement is to be planned anew.

    PostgreSQL makes five plans for given values before it keeps one, a hundredth of a drain where that is each
    second.  It plans anew by itself when it has analysed a table.
    """
    if plan_for is None:
        return False
    first, last = session.prepared_at[name]
    return monotonic() - last > min(max(plan_for, last - first), LONGEST_PLAN)


def _wait(connection: Any, exchange: Callable[[Any], Generator[Any, Any, list[Any]]]) -> Any:
    """The last result of an exchange, outside a transaction.

    Raises:
        NotPrepared: the connection is in a transaction, or in the middle of something.
    """
    with connection.lock:
        return connection.wait(exchange(idle_line(connection)))[-1]


def idle_line(connection: Any) -> Any:
    """libpq's connection of psycopg's one, once the statement that is under way on it has come to its end (``begun``).

    Raises:
        NotPrepared: it is in a transaction, or in the middle of something.
    """
    pgconn = connection.pgconn
    if pgconn.transaction_status == ACTIVE or "wait" in vars(connection):
        connection.wait(_nothing())
    if pgconn.transaction_status != 0 or pgconn.pipeline_status != 0:  # IDLE, OFF
        raise NotPrepared
    return pgconn


def _nothing() -> Generator[Any, Any, None]:
    yield from ()


def _exchange(
    pgconn: Any, *, name: bytes, given: Given, prepares: bytes | None, is_old: bool
) -> Generator[Any, Any, list[Any]]:
    """Send the statement and wait for its results, as psycopg's cursors do."""
    send_and_wait = generators()[0]
    if is_old:
        pgconn.send_query(b"DEALLOCATE " + name)
        results = yield from send_and_wait(pgconn)
        if results[-1].status != 1:  # COMMAND_OK
            raise NotPrepared
    if prepares is not None:
        pgconn.send_prepare(name, prepares)
        results = yield from send_and_wait(pgconn)
        if results[-1].status != 1:  # COMMAND_OK
            raise NotPrepared
    pgconn.send_query_prepared(name, *given)
    results = yield from send_and_wait(pgconn)
    return list(results)


@cache
def generators() -> tuple[Any, Any, Any]:
    """psycopg's generators, which are compiled: send and wait for the results, send, wait for the results."""
    from psycopg.generators import execute, fetch_many, send

    return execute, send, fetch_many


def _unloaded(result: Any) -> list[tuple[Any, ...]]:
    columns, value = range(result.nfields), result.get_value
    return [tuple(map(value, repeat(row), columns)) for row in range(result.ntuples)]


def _loaded(connection: Any, result: Any) -> list[tuple[Any, ...]]:
    from psycopg.adapt import Transformer

    transformer: Any = Transformer(connection)
    transformer.set_pgresult(result)
    rows: list[tuple[Any, ...]] = transformer.load_rows(0, result.ntuples, tuple)
    return rows


def _error(result: Any) -> Exception:
    from psycopg.errors import error_from_result

    error = error_from_result(result)
    return NotPrepared() if error.sqlstate in LOST else error
