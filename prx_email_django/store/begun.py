"""A statement that PostgreSQL executes while the caller goes on; its result is taken later.

At most one statement of a connection is begun.  Whatever else is to be executed on the connection takes its result off
the line first: Django begins each use of a connection with ``ensure_connection``, which is replaced meanwhile.  So code
that knows nothing of it, the host's too, finds the connection as it should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import Error, OperationalError

from prx_email_django.store.libpq_parameters import NotPrepared, dumped
from prx_email_django.store.prepared import PreparedCursor, ensure_connection, generators, idle_line, is_outdated
from prx_email_django.store.prepared_sessions import forget, numbered, ready_session

#: The name of Django's method that each use of a connection begins with.
_ENSURE = "ensure_connection"


class Begun:
    """The statement, until its result is taken."""

    def __init__(self, connection: Any, cursor: BegunCursor) -> None:
        self._connection, self._raw, self._cursor = connection, connection.connection, cursor
        #: None: it has succeeded.
        self._error: Exception | None = OperationalError("the result of the statement was not read")
        self._is_taken = False
        vars(connection)[_ENSURE] = self._take_and_ensure

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """The rows of its result, which is waited for.

        Raises:
            Error: it failed, or the connection broke and nobody knows whether it was executed; or it must be executed
                in the ordinary way.
        """
        self._take()
        if self._error is not None:
            raise self._error
        return self._cursor.rows

    def _take(self) -> None:
        """Read the result, once; its error is told to whom it concerns, and not to the next user of the connection."""
        if self._is_taken:
            return
        self._is_taken = True
        vars(self._connection).pop(_ENSURE, None)
        try:
            with self._connection.wrap_database_errors:
                self._cursor.wait()
        except NotPrepared as error:
            forget(self._connection)
            self._error = OperationalError("the statement is not prepared any more")
            self._error.__cause__ = error
        except Exception as error:  # noqa: BLE001  (``rows`` raises it)
            self._error = error
        else:
            self._error = None

    def _take_and_ensure(self) -> None:
        self._take()
        self._connection.ensure_connection()


def begin(connection: Any, sql: str, params: Sequence[Any], *, plan_for: float, loads: bool = False) -> Begun | None:
    """Begin a prepared statement outside a transaction; ``plan_for`` and ``loads`` as for ``prepared.execute``.

    None: nothing was begun, and the statement is to be executed in the ordinary way: it is not prepared yet or is to be
    planned anew, the connection cannot be used, or somebody watches it.
    """
    if connection.in_atomic_block:
        return None
    cursor: BegunCursor | None = None
    begun: Begun | None = None
    try:
        ensure_connection(connection)  # takes what was begun before
        session, name = ready_session(connection, sql), numbered(sql)[0]
        if session is None or name not in session.names or is_outdated(session, name, plan_for):
            return None
        if _ENSURE in vars(connection):  # somebody else's
            return None
        connection.validate_thread_sharing()
        cursor = BegunCursor(connection.connection, session, plan_for, loads)
        # Django's wrapper: the host's ``execute_wrapper`` sees the statement, and errors are Django's.
        connection.make_cursor(cursor).execute(sql, params)
    except (Error, NotPrepared):  # whoever waits for it, or the ordinary way, meets it again
        pass
    finally:
        # Not where an ``execute_wrapper`` of the host has not executed it; but also where one fails after that.
        if cursor is not None and cursor.is_sent:
            begun = Begun(connection, cursor)
    return begun


class BegunCursor(PreparedCursor):
    """As much of a cursor as Django's wrapper uses, for a prepared statement whose result is not waited for."""

    is_sent = False

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        given = dumped(params)
        with self._connection.lock:
            pgconn = idle_line(self._connection)
            pgconn.send_query_prepared(numbered(sql)[0].encode(), *given)
            self.is_sent = True
            self._connection.wait(generators()[1](pgconn))

    def wait(self) -> None:
        """Wait for the result, and read its rows."""
        with self._connection.lock:
            self.take(self._connection.wait(generators()[2](self._connection.pgconn))[-1])
