"""What goes wrong with the simulated database, and when."""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable
from typing import Any, ClassVar

from tests.simulation.world import World

#: Seconds for which a statement waits for another's transaction: SQLite's busy timeout, on the world's clock.
PATIENCE = 20.0
_NAMES = re.compile(r"(\w+)(?:.*?\"prx_email_django_(\w+)\")?", re.DOTALL)
_TOUCHES_WAKE_ROW = ("UPDATE outboxstate", "INSERT outboxstate")
_CHANGES = ("UPDATE outboxmessage", "COMMIT")
_READS = ("SELECT", "PRAGMA", "SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN", "COMMIT", "WITH")


@functools.lru_cache(maxsize=4096)
def statement_name(statement: str) -> str:
    """Its verb and its table."""
    found = _NAMES.match(statement)
    return " ".join(filter(None, found.groups())) if found else statement[:20]


class SimulatedDatabase:
    """The database server of one schedule."""

    current: ClassVar[SimulatedDatabase | None] = None

    def __init__(self, world: World) -> None:
        self.world = world
        #: Each restart of the server begins a new life; connections of an earlier life are broken.
        self.life = 1
        self.is_away = False
        self.is_read_only = False
        #: How often a statement that writes meets a conflict, waits for long, or is done while its answer is lost.
        self.conflicts = 0.0
        self.delays = 0.0
        self.lost_answers = 0.0
        #: Statements until it goes away, and what happens then; None: it does not.
        self._leaves_in: int | None = None
        self._left: Callable[[], object] = lambda: None
        #: Changes whenever a look at the wake row may find something new.
        self.wake_row = 0
        #: Called when somebody has claimed messages, or written anything in a transaction.
        self.on_change: Callable[[], object] = lambda: None
        self._connections: dict[int, Any] = {}

    @staticmethod
    def clock() -> float:
        """The instant, for triggers."""
        return World.current.uptime()

    @staticmethod
    def actor() -> str:
        """The process that runs, for triggers."""
        return World.current.me.name

    # Connections

    def check_connect(self) -> None:
        """Raise if nobody can connect now."""
        self.world.checkpoint()
        if self.is_away:
            self.world.sleep(0.01)
            raise sqlite3.OperationalError("connection refused: is the server running?")

    def opened(self, connection: Any) -> None:
        """Note a new connection."""
        connection.database, connection.life, connection.noticed = self, self.life, False
        self._connections[id(connection)] = connection

    def is_usable(self, connection: Any) -> bool:
        """What a ping of Django finds."""
        return connection.database is not self or (connection.life == self.life and not self.is_away)

    def check_rollback(self, connection: Any) -> None:
        """Raise if the connection is broken: its transaction is rolled back in any case."""
        if connection.database is self and connection.life != self.life:
            raise sqlite3.OperationalError("the connection is closed")

    # Faults

    def go_away(self) -> None:
        """Stop the server: transactions are rolled back, and all connections break."""
        self.world.story.append((self.world.uptime() - 1000.0, "database", "goes away"))
        self.is_away = True
        self.break_connections()

    def leave_at(self, statements: int, happen: Callable[[], object]) -> None:
        """Go away at a statement, whoever runs it, and let something happen then."""
        self._leaves_in, self._left = statements, happen

    def _count_statement(self) -> None:
        if self._leaves_in is not None:
            self._leaves_in -= 1
            if self._leaves_in == 0:
                self._leaves_in = None
                self.go_away()
                self._left()

    def come_back(self) -> None:
        """Start the server again."""
        if self.is_away:
            self.world.story.append((self.world.uptime() - 1000.0, "database", "is back"))
            self.is_away = False

    def set_read_only(self, value: bool) -> None:
        """Refuse writes, as a standby does."""
        if value is not self.is_read_only:
            self.world.story.append((self.world.uptime() - 1000.0, "database", f"read-only: {value}"))
            self.is_read_only = value

    def break_connections(self) -> None:
        """Break every open connection (a restart, a pool that cuts)."""
        self.life += 1
        self.wake_row += 1
        for connection in self._connections.values():
            self._abort(connection)
        self._connections.clear()

    @staticmethod
    def _abort(connection: Any) -> None:
        try:
            connection.rollback()
        except sqlite3.ProgrammingError:  # it was closed
            return

    def calm(self) -> None:
        """End all trouble."""
        self.come_back()
        self.set_read_only(False)
        self.conflicts = self.delays = self.lost_answers = 0.0
        self._leaves_in = None

    # Statements

    def run(self, connection: Any, statement: str, execute: Callable[[], Any]) -> Any:
        """Run a statement of the current process.

        Raises:
            sqlite3.Error: what a driver would raise.
        """
        world = self.world
        if connection.database is not self:  # opened in an earlier schedule
            self.opened(connection)
        where = world.me.statement = statement_name(statement)
        world.checkpoint()
        self._count_statement()
        self._check(connection)
        world.now += 0.0003
        if statement.startswith(_READS):
            if statement != "COMMIT":
                return self._patiently(execute)
        elif self.is_read_only:
            world.meet("read-only", where)
            raise sqlite3.InternalError("cannot execute UPDATE in a read-only transaction")
        if self.delays and world.random.random() < self.delays:
            # A longer transaction would make the others fail, as SQLite does.
            seconds = world.random.choice([0.5, 3.0] if connection.in_transaction else [0.5, 3.0, 15.0, 50.0])
            world.meet("delay", where)
            world.tell(f"the database takes {seconds:g} s for {statement[:40]}")
            world.sleep(seconds)
            self._check(connection)
        if self.conflicts and statement != "COMMIT" and world.random.random() < self.conflicts:
            world.meet("conflict", where)
            world.tell(f"conflict at {statement[:40]}")
            raise sqlite3.OperationalError("database is locked")
        result = self._patiently(execute)
        connection.touches_wake_row |= where in _TOUCHES_WAKE_ROW
        if connection.touches_wake_row and not connection.in_transaction:
            connection.touches_wake_row = False
            self.wake_row += 1
        if self.lost_answers and not connection.in_transaction and world.random.random() < self.lost_answers:
            world.meet("lost answer", where)
            world.tell(f"the answer is lost after {statement[:40]}")
            connection.life = -1
            connection.noticed = True
            raise sqlite3.OperationalError("server closed the connection unexpectedly")
        if where in _CHANGES and not connection.in_transaction:
            self.on_change()
        return result

    def _check(self, connection: Any) -> None:
        if connection.life != self.life:
            self._abort(connection)
            if connection.noticed:
                raise sqlite3.InterfaceError("connection already closed")
            connection.noticed = True
            self.world.meet("absence", self.world.me.statement)
            raise sqlite3.OperationalError("server closed the connection unexpectedly")

    def _patiently(self, execute: Callable[[], Any]) -> Any:
        """Wait on the world's clock while another transaction holds the lock."""
        begun, pause = self.world.now, 0.002
        while True:
            try:
                return execute()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or self.world.now - begun > PATIENCE:
                    raise
            self.world.sleep(pause)
            pause = min(2 * pause, 0.1)
