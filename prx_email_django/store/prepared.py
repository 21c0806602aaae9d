"""Statements that PostgreSQL plans once for each connection: to plan a small statement costs more than to execute it.

A prepared statement lives in one process of the server.  A pooler that gives each transaction another process loses it,
so Django's connections prepare nothing unless OPTIONS has a ``prepare_threshold``.  Here the connection itself shows
it: a statement returns the id of its server process, and the server named that id at login too; a pooler names another
one.  Where they differ, or where something is unusual, nothing is prepared; nor where OPTIONS say
``"prepare_threshold": None``.

Outside a transaction libpq is called as psycopg's cursors call it, without the cursor, which took four times its CPU.
"""

from __future__ import annotations

import itertools
import re
import struct
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, lru_cache
from hashlib import blake2b
from time import monotonic
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

#: Statements that one connection prepares: each number of recipients has one, and each holds memory of the server.
MOST = 50
#: Seconds after which a statement that reads large tables is planned anew: a plan for a nearly empty table reads all of
#: it.
PLAN_FOR = 1.0
#: A binary array: dimensions, whether there are NULLs, type of the elements, number of them, lower bound.
_ARRAY = struct.Struct("!5i")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
#: The id of PostgreSQL's type ``text``.
_TEXT = 25
#: The statement is gone (DISCARD, DEALLOCATE), or its tables have changed since it was prepared.
_LOST = {"26000", "0A000"}
#: As ``_LOST``, or somebody else has prepared the same statement (PREPARE).
_TAKEN = _LOST | {"42P05"}


#: The parameters of a statement, and whether each is binary; None: none is.
_Given: TypeAlias = tuple[Sequence[bytes | None], Sequence[int] | None]


class NotPrepared(Exception):
    """Nothing was executed: the ordinary way is open."""


class _Meanwhile(threading.local):
    work: Iterator[object] = iter(())


_meanwhile = _Meanwhile()


@contextmanager
def meanwhile(work: Iterator[object]) -> Iterator[None]:
    """While PostgreSQL executes the prepared statements of this block, take steps of ``work`` instead of waiting.

    A step must be short, must not raise and must not use the database: its connection is busy.
    """
    before, _meanwhile.work = _meanwhile.work, work
    try:
        yield
    finally:
        _meanwhile.work = before


@dataclass(slots=True)
class _Session:
    """What is known of a connection to the server."""

    names: set[str] = field(default_factory=set)
    #: When a statement was prepared, on the monotonic clock.
    prepared_at: dict[str, float] = field(default_factory=dict)
    #: Whether statements can be prepared; None: not known yet.
    is_direct: bool | None = None


_sessions: WeakKeyDictionary[Any, _Session] = WeakKeyDictionary()


def is_ready(connection: Any, sql: str) -> bool:
    """Whether the statement can be prepared on the Django connection; at first it must be shown by ``note_process``."""
    return _ready_session(connection, sql) is not None


def _ready_session(connection: Any, sql: str) -> _Session | None:
    session = _session(connection)
    if session is None or session.is_direct is not True or not _is_plain(connection):
        return None
    return session if len(session.names) < MOST or name_of(sql) in session.names else None


def _is_plain(connection: Any) -> bool:
    """Whether nobody has replaced ``cursor`` to watch or to forbid, and no log shows the text of statements."""
    return "cursor" not in vars(connection) and not connection.queries_logged


def note_process(connection: Any, process: int) -> None:
    """Note the id of the server process that has executed a statement without preparing it."""
    session = _session(connection)
    if session is not None and session.is_direct is None:
        info = connection.connection.info
        is_forbidden = connection.settings_dict["OPTIONS"].get("prepare_threshold", 0) is None
        is_usual = info.backend_pid == process and info.encoding == "utf-8" and _is_djangos_own(connection)
        session.is_direct = is_usual and not is_forbidden


def _is_djangos_own(connection: Any) -> bool:
    """Whether Django itself makes the cursors: django-tenants' ones choose the schema first."""
    ways = ("cursor", "_cursor", "create_cursor", "make_cursor")
    return all(getattr(type(connection), way).__module__.startswith("django.") for way in ways)


def forget(connection: Any) -> None:
    """Prepare nothing more on this connection: it has lost a statement, or refused one."""
    session = _session(connection)
    if session is not None:
        session.is_direct, session.names = False, set()


def is_lost(error: Exception) -> bool:
    """Whether the statement was refused because it is not prepared here as it should be."""
    return getattr(error.__cause__, "sqlstate", None) in _TAKEN


def name_of(sql: str) -> str:
    """The name of the prepared statement: its text decides, so that another shape of the table has another name."""
    return _numbered(sql)[0]


def as_execute(connection: Any, sql: str) -> tuple[str, bool]:
    """SQL that executes the prepared statement, for a cursor that binds on the client; whether it prepares it first."""
    name, numbered, count = _numbered(sql)
    execute = f"EXECUTE {name}({', '.join(['%s'] * count)})"
    session = _session(connection)
    if session is None or name in session.names:
        return execute, False
    return f"PREPARE {name} AS {numbered}; {execute}", True


def note(connection: Any, sql: str) -> None:
    """Note that the statement of ``as_execute`` has been prepared."""
    session = _session(connection)
    if session is not None:
        session.names.add(name_of(sql))


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

    ``plan_for``: seconds after which it is prepared anew, because its best plan depends on the size of tables.  None:
    its plan stays.  ``loads``: the rows hold what psycopg makes of the values.

    Raises:
        NotPrepared: nothing was executed.
    """
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    session = _ready_session(connection, sql)
    if session is None:
        raise NotPrepared
    connection.validate_thread_sharing()
    given = _Cursor(connection.connection, session, plan_for=plan_for, loads=loads)
    try:
        # Django's wrapper: the host's ``execute_wrapper`` sees the statement, and errors are Django's.
        connection.make_cursor(given).execute(sql, params)
    except NotPrepared:
        forget(connection)
        raise
    return given.rows


def execute_once(connection: Any, sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """As ``execute``, but nothing stays prepared: for the first statement of a connection, and behind a pooler.

    Raises:
        NotPrepared: nothing was executed.
    """
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    raw = connection.connection
    is_usual = _session(connection) is not None and raw.info.encoding == "utf-8" and _is_djangos_own(connection)
    if not is_usual or not _is_plain(connection):
        raise NotPrepared
    connection.validate_thread_sharing()
    given = _OnceCursor(raw)
    connection.make_cursor(given).execute(sql, params)
    return given.rows


class _OnceCursor:
    """As much of a cursor as Django's wrapper uses, for a statement that is not prepared."""

    _loads = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.rows: list[tuple[Any, ...]] = []
        self.rowcount = -1

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        given = _dumped(params)
        self._take(_wait(self._connection, lambda pgconn: self._exchange(pgconn, sql, given)))

    def _exchange(self, pgconn: Any, sql: str, given: _Given) -> Generator[Any, Any, list[Any]]:
        pgconn.send_query_params(_numbered(sql)[1].encode(), given[0], None, given[1])
        return list((yield from _generators()[0](pgconn)))

    def _take(self, result: Any) -> None:
        if result.status != 2:  # TUPLES_OK
            raise _error(result)
        self.rows = _loaded(self._connection, result) if self._loads else _unloaded(result)
        self.rowcount = len(self.rows)

    def close(self) -> None:
        """Do nothing: the rows are read already."""


class _Cursor(_OnceCursor):
    """The same for a prepared statement."""

    def __init__(self, connection: Any, session: _Session, *, plan_for: float | None, loads: bool) -> None:
        super().__init__(connection)
        self._session, self._plan_for, self._loads = session, plan_for, loads

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        name, numbered, _ = _numbered(sql)
        given = _dumped(params)
        is_known = name in self._session.names
        is_old = (
            is_known and self._plan_for is not None and monotonic() - self._session.prepared_at[name] > self._plan_for
        )
        prepares = None if is_known and not is_old else numbered.encode()
        encoded = name.encode()
        result = _wait(self._connection, lambda pgconn: _exchange(pgconn, encoded, given, prepares, is_old=is_old))
        if prepares is not None:
            self._session.names.add(name)
            self._session.prepared_at[name] = monotonic()
        self._take(result)


def _wait(connection: Any, exchange: Callable[[Any], Generator[Any, Any, list[Any]]]) -> Any:
    """The last result of an exchange, outside a transaction.

    Raises:
        NotPrepared: the connection is in a transaction, or in the middle of something.
    """
    with connection.lock:
        pgconn = connection.pgconn
        if pgconn.transaction_status != 0 or pgconn.pipeline_status != 0:  # IDLE, OFF
            raise NotPrepared
        return connection.wait(exchange(pgconn))[-1]


def _exchange(
    pgconn: Any, name: bytes, given: _Given, prepares: bytes | None, *, is_old: bool
) -> Generator[Any, Any, list[Any]]:
    """Send the statement and wait for its results, as psycopg's cursors do, but not idly (``meanwhile``)."""
    send_and_wait, send, fetch_many = _generators()
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
    yield from send(pgconn)
    for _ in _meanwhile.work:
        pgconn.consume_input()
        if not pgconn.is_busy():
            break
    results = yield from fetch_many(pgconn)
    return list(results)


@cache
def _generators() -> tuple[Any, Any, Any]:
    from psycopg.generators import execute, fetch_many, send

    return execute, send, fetch_many


def _unloaded(result: Any) -> list[tuple[Any, ...]]:
    columns, value = range(result.nfields), result.get_value
    return [tuple([value(row, column) for column in columns]) for row in range(result.ntuples)]


def _loaded(connection: Any, result: Any) -> list[tuple[Any, ...]]:
    from psycopg.adapt import Transformer

    transformer: Any = Transformer(connection)
    transformer.set_pgresult(result)
    rows: list[tuple[Any, ...]] = transformer.load_rows(0, result.ntuples, tuple)
    return rows


def _error(result: Any) -> Exception:
    from psycopg.errors import error_from_result

    error = error_from_result(result)
    return NotPrepared() if error.sqlstate in _LOST else error


def _dumped(params: Sequence[Any]) -> _Given:
    """The parameters as PostgreSQL reads them; only arrays are binary.

    Raises:
        NotPrepared: libpq would cut a text at its NUL; the ordinary way refuses it.
        UnicodeEncodeError: a lone surrogate.
    """
    # Most are texts: no call for each of them.
    values = [value.encode() if type(value) is str and "\x00" not in value else _dump(value) for value in params]
    return values, [type(value) is list for value in params] if list in map(type, params) else None


def _dump(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        if "\x00" in value:
            raise NotPrepared
        return value.encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if type(value) is list:
        return _array(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f} seconds".encode()
    raise NotPrepared


def _array(texts: list[str | None]) -> bytes:
    """The texts as a binary ``text[]``: PostgreSQL copies it, where it would read each character of another form."""
    parts = [_ARRAY.pack(1, 1, _TEXT, len(texts), 1)] if texts else [_ARRAY.pack(0, 0, _TEXT, 0, 0)[:12]]
    if None in texts:
        for text in texts:
            value = None if text is None else text.encode()
            parts += (_NULL,) if value is None else (_LENGTH.pack(len(value)), value)
    else:
        values = [text.encode() for text in texts if text is not None]
        parts += itertools.chain.from_iterable(zip(map(_LENGTH.pack, map(len, values)), values, strict=True))
    return b"".join(parts)


@lru_cache(maxsize=256)
def _numbered(sql: str) -> tuple[str, str, int]:
    """Name, text with numbered parameters, and number of parameters of a statement with ``%s``."""
    numbers = itertools.count(1)
    numbered, count = re.subn("%s", lambda _: f"${next(numbers)}", sql)
    return f"prx_{blake2b(sql.encode(), digest_size=12).hexdigest()}", numbered, count


def _session(connection: Any) -> _Session | None:
    """What is known of the present connection to the server; None: there is none, or it is none of psycopg 3."""
    raw = connection.connection
    if raw is None or not hasattr(raw, "pgconn"):
        return None
    with suppress(TypeError):  # a stand-in that cannot be referred to
        known = _sessions.get(raw)
        return _sessions.setdefault(raw, _Session()) if known is None else known
    return None
