"""What every verb needs: the database's clock, leases that the database writes, and another try."""

from __future__ import annotations

import functools
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from django.db import DataError, Error, OperationalError, connections, transaction
from django.db.models import DateTimeField, Func, Value
from django.db.models.functions import Cast, Greatest
from django.db.models.sql.compiler import SQLCompiler
from django.utils.timezone import make_aware

from prx_email_django.conf import outbox_settings
from prx_email_django.errors import InvalidMessage
from prx_email_django.models.foreign_text import NARROWER, narrowed_to
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.policy import Rules
from prx_email_django.store.absence import MYSQL_TEXT_ERRORS, is_too_slow, waits

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds for which a loop keeps its connection to the database: a file may have been replaced since, or the name of a
#: server may lead elsewhere.
LOOP_MAX_AGE = 60
#: Values that one statement names: SQLite takes 32 766 parameters, PostgreSQL 65 535 where it binds them itself.
MOST_VALUES = 10_000
#: Tries of a transaction that met a deadlock, a lock timeout or a busy SQLite file.
CONFLICT_TRIES = 8
#: MySQL, MariaDB: lock wait timeout, deadlock, record changed since read (innodb_snapshot_isolation).
_MYSQL_CONFLICTS = {1205, 1213, 1020}
#: PostgreSQL: serialization failure, deadlock detected, lock not available.
_POSTGRES_CONFLICTS = {"40001", "40P01", "55P03"}


def worker_name() -> str:
    """``host:pid`` of this process."""
    return _worker_name(os.getpid())


@functools.lru_cache(maxsize=1)
def _worker_name(pid: int) -> str:  # asked for each attempt; by pid, since a process may fork
    return f"{socket.gethostname()}:{pid}"


def rules() -> Rules:
    """The settings that verdicts depend on."""
    settings = outbox_settings()
    return Rules(
        base_backoff=settings.base_backoff,
        max_backoff=settings.max_backoff,
        max_retries=settings.max_retries,
        max_unknown_outcomes=settings.max_unknown_outcomes,
    )


class _Atomic(transaction.Atomic):
    """A transaction that lets a SystemExit pass, and raises no other error in its place.

    If a SystemExit strikes while the transaction ends, Django switches autocommit on although the transaction is open:
    psycopg refuses that, and its error would take the place of the SystemExit.
    """

    def __enter__(self) -> None:
        self._handled_before = sys.exception()
        super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)
        except Exception as error:
            behind: BaseException | None = error
            while isinstance(behind, Exception) and behind is not self._handled_before:
                behind = behind.__context__
            if behind is None or behind is self._handled_before:
                raise
            raise behind from None


def in_parts(values: Sequence[R]) -> Iterator[Sequence[R]]:
    """The values in parts that one statement can name: a message may have any number of recipients.

    A statement with too many parameters is refused as ``OperationalError``, as if the database were away.
    """
    return (values[start : start + MOST_VALUES] for start in range(0, len(values), MOST_VALUES))


def atomic() -> transaction.Atomic:
    """A transaction on the outbox's database."""
    return _Atomic(using=outbox_alias(), savepoint=True, durable=False)


def in_transaction() -> bool:
    """Whether a transaction is open on the outbox's database."""
    return connections[outbox_alias()].in_atomic_block


def fresh_connection() -> None:
    """Close the connection, so that the next statement opens another one.

    A SystemExit may have struck in the middle of a statement, or where a transaction begins or ends: Django then takes
    the connection for one in a transaction, which nobody would ever commit.  No transaction of a caller is open where
    this is called, except that of a ``TestCase``, which stays.
    """
    connection = connections[outbox_alias()]
    if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        return
    connection.in_atomic_block = connection.needs_rollback = False
    connection.atomic_blocks, connection.savepoint_ids = [], []
    if connection.closed_in_transaction:
        connection.connection, connection.closed_in_transaction = None, False
    connection.close()


@contextmanager
def fresh_connection_after_exit() -> Iterator[None]:
    """Leave a connection that can be used where a SystemExit ends the block."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            fresh_connection()
        raise


@contextmanager
def kept_connection() -> Iterator[None]:
    """Let this thread's connection to the outbox's database live for a minute where ``CONN_MAX_AGE`` is 0.

    0 is Django's default, made for requests: a loop would connect anew for each drain, 15 ms and cold caches each time.
    Not with psycopg's pool, which keeps them itself: Django allows no other value then.
    """
    connection = connections[outbox_alias()]
    given = connection.settings_dict
    if given["CONN_MAX_AGE"] == 0 and not given["OPTIONS"].get("pool"):
        connection.settings_dict = {**given, "CONN_MAX_AGE": LOOP_MAX_AGE}
    try:
        yield
    finally:
        connection.settings_dict = given


def check_database() -> None:
    """Ask the outbox's database anything.

    Raises:
        Error: it is away.
    """
    with connections[outbox_alias()].cursor() as cursor:
        cursor.execute("SELECT 1")


def database_now() -> datetime:
    """The clock of the outbox's database (SQLite has none of its own: this machine's)."""
    connection = connections[outbox_alias()]
    if connection.vendor == "sqlite":
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT clock_timestamp()")
            moment: datetime = cursor.fetchone()[0]
            return moment.astimezone(UTC)
        cursor.execute("SELECT UTC_TIMESTAMP(6)")
        moment = cursor.fetchone()[0]
        return moment.replace(tzinfo=UTC)


def instant_as_read(value: datetime | None, connection: Any) -> datetime | None:
    """An instant that a statement of our own has read, as Django's fields read it: without a zone, in the connection's.

    On SQLite, MariaDB and MySQL; PostgreSQL gives the zone.
    """
    return None if value is None else make_aware(value, connection.timezone)


def clock_for(now: datetime | None) -> Clock:
    """The time of one call: given, or the database's."""
    return Clock(given=now, database_now=now or database_now())


class StatementTime(Func):
    """The database's UTC clock at the statement; ``Now()`` is local time on MariaDB and MySQL."""

    output_field = DateTimeField()
    arity = 0

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> tuple[str, Any]:
        """Not the transaction's start, which may be long ago."""
        return self.as_sql(compiler, connection, template="STATEMENT_TIMESTAMP()", **context)

    def as_mysql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> tuple[str, Any]:
        """UTC whatever the session's time zone is."""
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **context)


def lease_until(clock: Clock, length: timedelta) -> Any:
    """When a lease of this length ends: after the later of the call's running time and the database's clock."""
    if connections[outbox_alias()].vendor == "sqlite":
        return max(clock.running, datetime.now(UTC)) + length
    running = Cast(Value(clock.running), DateTimeField())
    return Greatest(running, StatementTime()) + Value(length)


def is_conflict(error: OperationalError) -> bool:
    """Whether another transaction was in the way, so that the same statements may succeed now."""
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) in _POSTGRES_CONFLICTS:
        return True
    if error.args and error.args[0] in _MYSQL_CONFLICTS:
        return True
    return "database is locked" in str(error) or "database table is locked" in str(error)


def is_refused_text(error: Exception) -> bool:
    """Whether the database or its driver refused a statement because of a text that it cannot hold."""
    if isinstance(error, OperationalError):
        return bool(error.args) and error.args[0] in MYSQL_TEXT_ERRORS
    return isinstance(error, DataError | UnicodeEncodeError)


def refusing_text(function: Callable[P, R]) -> Callable[P, R]:
    """Statements that write what a caller gave: text that the database cannot hold is the caller's to change.

    Raises:
        InvalidMessage: ``invalid_option``.
    """

    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (DataError, OperationalError, UnicodeEncodeError) as error:
            if not is_refused_text(error):
                raise
            raise InvalidMessage(
                "the outbox's database cannot hold a text of the message, because of its character set or its length: "
                "use utf8mb4 in MySQL and MariaDB, UTF8 in PostgreSQL",
                code="invalid_option",
            ) from error

    return attempt


def retried_after_conflict(function: Callable[P, R]) -> Callable[P, R]:
    """Run the function again where the database has rolled it back: for one that must not run again after it succeeded.

    After a deadlock or a lock timeout it waits a random moment; it never runs again inside a caller's transaction.
    After a refused text it runs again at once, with fewer characters in the columns that hold what strangers wrote: the
    fact is recorded, whatever they wrote.
    """
    again = _after_conflict(function)

    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return again(*args, **kwargs)
        except (DataError, OperationalError, UnicodeEncodeError) as error:
            if not is_refused_text(error):
                raise
            refused: Exception = error
        for encoding in NARROWER:
            try:
                with narrowed_to(encoding):
                    return again(*args, **kwargs)
            except (DataError, OperationalError, UnicodeEncodeError) as error:
                if not is_refused_text(error):
                    raise
        raise refused

    return attempt


def _after_conflict(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        for number in range(1, CONFLICT_TRIES + 1):
            try:
                return function(*args, **kwargs)
            except OperationalError as error:
                if in_transaction() or number == CONFLICT_TRIES or not is_conflict(error):
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**number))  # noqa: S311  (spread, not secrecy)
        raise AssertionError  # pragma: no cover

    return attempt


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Run again after a conflict and, in a worker, as long as it waits for a database that is away.

    For functions that may run again although they have succeeded: a commit may take effect and its answer be lost.
    """
    once = retried_after_conflict(function)

    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        since, slow = 0.0, 0
        while True:
            try:
                return once(*args, **kwargs)
            except Error as error:
                since = since or time.monotonic()
                slow += is_too_slow(error)
                if not waits(error, since, slow=slow):
                    raise

    return attempt
