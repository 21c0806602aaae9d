"""A statement that PostgreSQL executes while the caller goes on; its result is taken later.

At most one statement of a connection is begun.  Whoever uses the connection meanwhile takes the result off the line
first, without knowing of it: what psycopg executes goes through ``wait`` of its connection, and that and ``close`` are
replaced for this time.  So Django, cursors that are open, and code of the host find the connection as it should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.db import Error, OperationalError, connections

from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.libpq_parameters import NotPrepared, dumped
from prx_email_django.store.prepared import (
    ACTIVE,
    PreparedCursor,
    ensure_connection,
    generators,
    idle_line,
    is_outdated,
)
from prx_email_django.store.prepared_sessions import forget, numbered, ready_session

#: The methods of psycopg's connection that are replaced while a statement is under way.
_WAIT, _CLOSE = "wait", "close"


class Begun:
    """The statement, until its result is taken."""

    def __init__(self, connection: Any, cursor: BegunCursor) -> None:
        self._connection, self._raw, self._cursor = connection, connection.connection, cursor
        #: Of psycopg, or Django's one for ``NotPrepared``; None: it has succeeded.
        self._error: Exception | None = None
        self._is_taken = False
        vars(self._raw)[_WAIT], vars(self._raw)[_CLOSE] = self._take_and_wait, self._take_and_close

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """The rows of its result, which is waited for.

        Raises:
            Error: it failed, or the connection broke and nobody knows whether it was executed; or it must be executed
                in the ordinary way.
        """
        with self._connection.wrap_database_errors:
            with self._raw.lock:
                self._take()
            if self._error is not None:
                raise self._error
        return self._cursor.rows

    def descriptor(self) -> int | None:
        """The file that can be read when there is something of the result; None: ``rows`` does not wait."""
        pgconn = self._raw.pgconn
        try:
            with self._raw.lock:
                pgconn.consume_input()
                return int(pgconn.socket) if pgconn.is_busy() else None
        except self._connection.Database.Error:  # the connection broke
            return None

    def _take(self) -> None:
        """Read the result, once; its error is told to whom it concerns, and not to the next user of the connection.

        Whoever is interrupted while it is read leaves it to the next one, who finds perhaps less: an error then.
        """
        if not self._is_taken:
            pgconn = self._raw.pgconn
            try:
                self._cursor.take(type(self._raw).wait(self._raw, generators()[0](pgconn))[-1])
            except NotPrepared as error:
                forget(self._connection)
                self._error = OperationalError("the statement is not prepared any more")
                self._error.__cause__ = error
            except IndexError:
                self._error = OperationalError("the result of the statement was not read")
            except Exception as error:
                if pgconn.transaction_status == ACTIVE:  # of a signal handler, whose time limit has passed
                    raise
                self._error = error
            self._is_taken = True
        for name in (_WAIT, _CLOSE):
            if getattr(vars(self._raw).get(name), "__self__", None) is self:  # perhaps the next statement's by now
                del vars(self._raw)[name]

    def _take_and_wait(self, *given: Any, **options: Any) -> Any:
        self._take()
        return type(self._raw).wait(self._raw, *given, **options)

    def _take_and_close(self) -> None:
        """Close it once its statement is done: else another session could not see yet what it has written."""
        self._take()
        type(self._raw).close(self._raw)


def descriptor_under_way() -> int | None:
    """The file that can be read when the statement under way on the outbox's connection has something of its result.

    None: nothing is begun, or its result is there.
    """
    raw = connections[outbox_alias()].connection
    begun = None if raw is None else _begun_on(raw)
    return None if begun is None else begun.descriptor()


def _begun_on(raw: Any) -> Begun | None:
    replaced = vars(raw).get(_WAIT) or vars(raw).get(_CLOSE)
    begun = getattr(replaced, "__self__", None)
    return begun if isinstance(begun, Begun) else None


def begin(connection: Any, sql: str, params: Sequence[Any], *, plan_for: float, loads: bool = False) -> Begun | None:
    """Begin a prepared statement outside a transaction; ``plan_for`` and ``loads`` as for ``prepared.execute``.

    None: nothing was begun, and the statement is to be executed in the ordinary way: it is not prepared yet or is to be
    planned anew, the connection cannot be used, or somebody watches it.
    """
    if connection.in_atomic_block:
        return None
    with suppress(Error):  # the ordinary way meets it again
        ensure_connection(connection)
    raw = connection.connection
    session, name = ready_session(connection, sql), numbered(sql)[0]
    if session is None or name not in session.names or is_outdated(session, name, plan_for) or raw is None:
        return None
    if (_WAIT in vars(raw) or _CLOSE in vars(raw)) and _begun_on(raw) is None:  # somebody else's
        return None
    connection.validate_thread_sharing()
    cursor = BegunCursor(raw, session, plan_for, loads)
    cursor.of = connection
    with suppress(Error, NotPrepared, UnicodeEncodeError):  # the ordinary way meets it again
        # Django's wrapper: the host's ``execute_wrapper`` sees the statement.
        connection.make_cursor(cursor).execute(sql, params)
    # None where an ``execute_wrapper`` of the host has not executed it.  The two refer to each other until here: as a
    # cycle they would keep all bodies of a claim until the collector finds them.
    begun, cursor.begun = cursor.begun, None
    return begun


class BegunCursor(PreparedCursor):
    """As much of a cursor as Django's wrapper uses, for a prepared statement whose result is not waited for."""

    #: Django's connection.
    of: Any = None
    begun: Begun | None = None

    def execute(self, sql: str, params: Sequence[Any]) -> None:
        given = dumped(params)
        with self._connection.lock:
            pgconn = idle_line(self._connection)
            # First: an interrupt must not leave a result that nobody takes.
            self.begun = Begun(self.of, self)
            with suppress(self.of.Database.Error):  # there is no result then: ``rows`` raises
                pgconn.send_query_prepared(numbered(sql)[0].encode(), *given)
                type(self._connection).wait(self._connection, generators()[1](pgconn))
