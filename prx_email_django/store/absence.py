"""A database that is away: what a worker knows stays in memory, and is written when the database is back.

Two mechanisms, for two lengths of time.  While a worker runs, each statement that finds the database away is repeated
until it succeeds (``waiting_for_database``): the worker goes on as if nothing had happened.  When the worker must end
before that, what it could not write is left to ``unwritten``, whose thread writes it as long as the process lives.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from django.db import DataError, Error, IntegrityError, NotSupportedError, OperationalError, ProgrammingError
from django.db import connections as django_connections

from prx_email_django.models.managers import outbox_alias

logger = logging.getLogger("prx_email_django")

#: MySQL, MariaDB: a text that the database cannot hold: illegal mix of collations, invalid character string, incorrect
#: string value, data too long, impossible to convert (MariaDB, MySQL).
MYSQL_TEXT_ERRORS = {1267, 1300, 1366, 1406, 1977, 3854, 3988}
#: MySQL, MariaDB: errors of a statement that the drivers report as ``OperationalError``: also no such column or
#: default, a value out of range.
_MYSQL_STATEMENT_ERRORS = MYSQL_TEXT_ERRORS | {1054, 1264, 1364}
#: PostgreSQL: permission denied (MariaDB and MySQL report it as ``OperationalError``); a prepared statement is gone, or
#: somebody else has prepared it, as where a pooler gives this session another process.  All are ``ProgrammingError``.
_SESSION_SQLSTATES = {"42501", "26000", "42P05"}
#: PostgreSQL: where it finds that a statement was prepared for a table that has another shape now.  The code of this
#: error is that of every feature that is not supported, and its text is in the server's language.
_REVALIDATION = "RevalidateCachedQuery"
#: No such table, column or schema.  MariaDB and MySQL: unknown column, no such table.
_MISSING_SQLSTATES, _MISSING_MYSQL = {"42P01", "42703", "3F000"}, {1054, 1146}
_MISSING_SQLITE = ("no such table", "no such column")
#: Seconds between two tries to write what is left over: the first wait, doubled up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
#: Seconds for which a process that ends waits for the database.
AT_EXIT = 5.0


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database cannot be used now, and not that a statement is wrong.

    Every error of the connection counts, whatever its class: read-only failover and a session timeout of PostgreSQL
    (SQLSTATE 25006, 25P03) come as ``InternalError``, a full disk as ``OperationalError``.  So does a missing right,
    as after a failover to a server whose grants are not complete, and a prepared statement that this session has lost:
    they say nothing about the statement.
    """
    if not isinstance(error, Error):
        return False
    if getattr(error.__cause__, "sqlstate", None) in _SESSION_SQLSTATES:
        return True
    if getattr(getattr(error.__cause__, "diag", None), "source_function", None) == _REVALIDATION:
        return True
    if isinstance(error, (DataError, IntegrityError, NotSupportedError, ProgrammingError)) or is_missing(error):
        return False
    if isinstance(error, OperationalError):
        return not error.args or error.args[0] not in _MYSQL_STATEMENT_ERRORS
    return True


def is_missing(error: BaseException) -> bool:
    """Whether a table, a column or a schema is missing.

    A process that begins with this error needs a migration.  One that has used the same tables a moment ago waits: they
    are being restored, or ``search_path`` or the file leads elsewhere.
    """
    if getattr(error.__cause__, "sqlstate", None) in _MISSING_SQLSTATES:
        return True
    if not isinstance(error, OperationalError | ProgrammingError) or not error.args:
        return False
    return error.args[0] in _MISSING_MYSQL or str(error).startswith(_MISSING_SQLITE)


def may_pass(error: BaseException) -> bool:
    """Whether what could not be written may be written later: the database is away, or its tables are."""
    return is_away(error) or is_missing(error)


#: The database ended a statement that took too long.  PostgreSQL: query canceled (``statement_timeout``, also while it
#: waited for a lock), and from 17 on transaction timeout, by which the session ends too (``transaction_timeout``).
#: MariaDB, MySQL: statement timeout, query execution was interrupted.
_TOO_SLOW_SQLSTATES, _TOO_SLOW_MYSQL = {"57014", "25P04"}, {1969, 3024, 1317}
#: Tries of a statement that took too long: a lock may have been in its way.  A worker that holds something then ends as
#: it does after the longest absence: what is on its way comes to its end first.
SLOW_TRIES = 3


def is_too_slow(error: BaseException) -> bool:
    """Whether the database is there, and ended the statement because it took too long."""
    if getattr(error.__cause__, "sqlstate", None) in _TOO_SLOW_SQLSTATES:
        return True
    return isinstance(error, OperationalError) and bool(error.args) and error.args[0] in _TOO_SLOW_MYSQL


#: Called with the error and the seconds since the first one of the same statement (infinite: nobody waits so long);
#: waits, and says whether to go on.
Wait = Callable[[Error, float], bool]


class _Waiting(threading.local):
    wait: Wait | None = None


_waiting = _Waiting()


@contextmanager
def waiting_for_database(wait: Wait | None) -> Iterator[None]:
    """Let statements of this thread that find the database away call ``wait``, and repeat them while it says so.

    None: they raise at once.
    """
    before = _waiting.wait
    _waiting.wait = wait
    try:
        yield
    finally:
        _waiting.wait = before


def waits(error: Error, since: float, *, slow: int = 0) -> bool:
    """Whether the statement that raised this error should be repeated now, after a wait; never in a transaction.

    ``since``: when it first raised one, on the monotonic clock; ``slow``: how often it took too long.
    """
    connection = django_connections[outbox_alias()]
    if _waiting.wait is None or connection.in_atomic_block or not may_pass(error):
        return False
    if is_too_slow(error):
        # The database is not away: waiting for it would hold the worker for minutes.
        logger.error("a statement took longer than the database's limit, try %d: %s", slow, error)
        return slow < SLOW_TRIES or _waiting.wait(error, math.inf)
    end_session(connection)
    return _waiting.wait(error, monotonic() - since)


def end_session(connection: Any) -> None:
    """Close a connection on which the database could not be used: after a failover it would lead to the old server.

    psycopg's pool would keep the session and hand it out again.
    """
    raw = connection.connection
    if raw is not None and _pool(connection) is not None:
        raw.pgconn.finish()
    connection.close()


def end_all_sessions(connection: Any) -> None:
    """The same, and let psycopg's pool try those that it keeps: a restart of the database has ended them all."""
    end_session(connection)
    if (pool := _pool(connection)) is not None:
        pool.check()


def _pool(connection: Any) -> Any:
    """psycopg's pool, where the host has chosen it."""
    return connection.pool if connection.vendor == "postgresql" else None


#: Something to write.  It may run again after it has succeeded without the process knowing it.
Write = Callable[[], object]


class Unwritten:
    """What this process could not write yet, in order; a thread of its own writes it once the database is back."""

    _writes: deque[Write]
    _changed: threading.Condition
    _thread: threading.Thread | None

    def __init__(self) -> None:
        self.forget()

    def write(self, writes: Iterable[Write]) -> None:
        """Do these writes in order; from the first one that finds the database away on, they are left to the thread.

        A write that fails otherwise is logged, and the others go on.  ``SystemExit`` leaves what is left to the thread
        too: a process that does not end by it still knows its results.
        """
        left = deque(writes)
        try:
            with waiting_for_database(None):
                while left and self._ran(left[0]):
                    left.popleft()
        finally:
            if left:
                self._leave_to_thread(left)

    def _leave_to_thread(self, writes: Collection[Write]) -> None:
        logger.error("%d results and claims are kept, and written when the database can be used", len(writes))
        with self._changed:
            self._writes.extend(writes)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="prx-email-unwritten", daemon=True)
                thread.start()
                self._thread = thread

    def wait_until_written(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until nothing is left; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._writes, timeout)

    def forget(self) -> None:
        """Have nothing to write, at first and in a child process, whose parent writes it."""
        self._writes = deque()
        self._changed = threading.Condition()
        self._thread = None

    def _run(self) -> None:
        pause = FIRST_WAIT
        while True:
            with self._changed:
                if not self._writes:
                    self._thread = None
                    break
                write = self._writes[0]
            if self._ran(write):
                pause = FIRST_WAIT
                with self._changed:
                    self._writes.popleft()
                    self._changed.notify_all()
            else:
                threading.Event().wait(pause)
                pause = min(2 * pause, LONGEST_WAIT)
        django_connections.close_all()

    def _ran(self, write: Write) -> bool:
        """Do one write; False: the database is away."""
        try:
            write()
        except Exception as error:
            if may_pass(error):
                connection = django_connections[outbox_alias()]
                if not connection.in_atomic_block:
                    end_session(connection)
                return False
            logger.exception("something could not be written; the messages are recovered when their leases end")
        return True


unwritten = Unwritten()
os.register_at_fork(after_in_child=unwritten.forget)
# The last chance of a process that ends: what it does not write now is recovered when its leases end.
atexit.register(unwritten.wait_until_written, AT_EXIT)
