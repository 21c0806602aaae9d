"""SQLite on the world's clock; ``simulated.SimulatedDatabase`` decides what goes wrong."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import Any

from django.db.backends.sqlite3 import base

from tests.simulation.database.faults import SimulatedDatabase


class SimulatedConnection(sqlite3.Connection):
    """A connection that the server may have closed."""

    #: The server's life in which it was opened, and the server.
    life = 0
    database: SimulatedDatabase | None = None
    #: Its end has been noticed: from then on it is "already closed".
    noticed = False
    #: It has changed the row that asks for a drain, and has not committed yet.
    touches_wake_row = False


#: Closed connections, to be opened again: SQLite reads the whole schema for a new one.
_CLOSED: list[SimulatedConnection] = []


class SimulatedCursor(base.SQLiteCursorWrapper):
    """Asks the simulated database before and after each statement."""

    def convert_query(self, query: str, *, param_names: Any = None) -> str:
        return _converted(query) if param_names is None else super().convert_query(query, param_names=param_names)

    def execute(self, query: Any, params: Any = None) -> Any:
        return self._run(str(query), lambda: super(SimulatedCursor, self).execute(query, params))

    def executemany(self, query: Any, param_list: Any) -> Any:
        return self._run(str(query), lambda: super(SimulatedCursor, self).executemany(query, param_list))

    def _run(self, query: str, execute: Callable[[], Any]) -> Any:
        database = SimulatedDatabase.current
        if database is None:
            return execute()
        return database.run(self.connection, query, execute)


@functools.lru_cache(maxsize=4096)
def _converted(query: str) -> str:
    return base.FORMAT_QMARK_REGEX.sub("?", query).replace("%%", "%")  # as Django does each time


class DatabaseWrapper(base.DatabaseWrapper):
    """The backend."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        database = SimulatedDatabase.current
        if database is not None:
            database.check_connect()
        if _CLOSED:
            connection = _CLOSED.pop()
        else:
            connection = super().get_new_connection({**conn_params, "factory": SimulatedConnection})
            connection.create_function("simulated_now", 0, SimulatedDatabase.clock)
            connection.create_function("simulated_actor", 0, SimulatedDatabase.actor)
        if database is not None:
            database.opened(connection)
        return connection

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.rollback()
            _CLOSED.append(self.connection)

    def cursor(self) -> Any:
        if self.connection is None:
            return super().cursor()
        # What Django does, without asking each time whether it may.
        return self.make_cursor(self.connection.cursor(factory=SimulatedCursor))

    def create_cursor(self, name: Any = None) -> Any:
        return self.connection.cursor(factory=SimulatedCursor)

    def _commit(self) -> None:
        database = SimulatedDatabase.current
        if self.connection is None:
            return
        if database is None:
            super()._commit()
            return
        with self.wrap_database_errors:
            database.run(self.connection, "COMMIT", self.connection.commit)

    def _rollback(self) -> None:
        if self.connection is None:
            return
        self.connection.rollback()
        database = SimulatedDatabase.current
        if database is not None:
            with self.wrap_database_errors:
                database.check_rollback(self.connection)

    def is_usable(self) -> bool:
        database = SimulatedDatabase.current
        return database is None or database.is_usable(self.connection)
