"""What is known of each connection to PostgreSQL: whether it can prepare statements, and which it has prepared.

A prepared statement lives in one process of the server.  A pooler that gives each transaction another process loses it,
so Django's connections prepare nothing unless OPTIONS has a ``prepare_threshold``.  Here the connection itself shows
it: a statement returns the id of its server process, and the server named that id at login too; a pooler names another
one.  Where they differ, or where something is unusual, nothing is prepared; nor where OPTIONS say
``"prepare_threshold": None``.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from time import monotonic
from typing import Any
from weakref import ref

from prx_email_django.conf.reader import debug

#: Statements that one connection prepares: each number of recipients has one, and each holds memory of the server.
MOST = 50
#: The statement is gone (DISCARD, DEALLOCATE), or its tables have changed since it was prepared.
LOST = {"26000", "0A000"}
#: As ``LOST``, or somebody else has prepared the same statement (PREPARE).
_TAKEN = LOST | {"42P05"}


@dataclass(slots=True)
class Session:
    """What is known of a connection to the server."""

    names: set[str] = field(default_factory=set)
    #: When a statement was prepared first and last, on the monotonic clock.
    prepared_at: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Whether statements can be prepared; None: not known yet.
    is_direct: bool | None = None

    def note_prepared(self, name: str) -> None:
        """Note that the statement has been prepared at this moment."""
        self.names.add(name)
        now = monotonic()
        self.prepared_at[name] = (self.prepared_at.get(name, (now, now))[0], now)


#: By a reference to the driver's connection: a ``WeakKeyDictionary``, written out for each statement's look.
_sessions: dict[ref[Any], Session] = {}


def is_ready(connection: Any, sql: str) -> bool:
    """Whether the statement can be prepared on the Django connection; at first it must be shown by ``note_process``."""
    return ready_session(connection, sql) is not None


def ready_session(connection: Any, sql: str) -> Session | None:
    """The session, where the statement is prepared or can be."""
    session = session_of(connection)
    if session is None or session.is_direct is not True or not is_plain(connection):
        return None
    return session if len(session.names) < MOST or name_of(sql) in session.names else None


def is_plain(connection: Any) -> bool:
    """Whether nobody has replaced ``cursor`` to watch or to forbid, and no log shows the text of statements."""
    # The second is Django's ``queries_logged``.
    return "cursor" not in vars(connection) and not (connection.force_debug_cursor or debug())


def note_process(connection: Any, process: int) -> None:
    """Note the id of the server process that has executed a statement without preparing it."""
    session = session_of(connection)
    if session is not None and session.is_direct is None:
        info = connection.connection.info
        is_forbidden = connection.settings_dict["OPTIONS"].get("prepare_threshold", 0) is None
        is_usual = info.backend_pid == process and info.encoding == "utf-8" and is_djangos_own(connection)
        session.is_direct = is_usual and not is_forbidden


def is_djangos_own(connection: Any) -> bool:
    """Whether Django itself makes the cursors: django-tenants' ones choose the schema first."""
    ways = ("cursor", "_cursor", "create_cursor", "make_cursor")
    return all(getattr(type(connection), way).__module__.startswith("django.") for way in ways)


def forget(connection: Any) -> None:
    """Prepare nothing more on this connection: it has lost a statement, or refused one."""
    session = session_of(connection)
    if session is not None:
        session.is_direct, session.names = False, set()


def is_lost(error: Exception) -> bool:
    """Whether the statement was refused because it is not prepared here as it should be."""
    return getattr(error.__cause__, "sqlstate", None) in _TAKEN


def name_of(sql: str) -> str:
    """The name of the prepared statement: its text decides, so that another shape of the table has another name."""
    return numbered(sql)[0]


def as_execute(connection: Any, sql: str) -> tuple[str, bool]:
    """SQL that executes the prepared statement, for a cursor that binds on the client; whether it prepares it first."""
    name, text, count = numbered(sql)
    execute = f"EXECUTE {name}({', '.join(['%s'] * count)})"
    session = session_of(connection)
    if session is None or name in session.names:
        return execute, False
    return f"PREPARE {name} AS {text}; {execute}", True


def note(connection: Any, sql: str) -> None:
    """Note that the statement of ``as_execute`` has been prepared."""
    session = session_of(connection)
    if session is not None:
        session.names.add(name_of(sql))


@lru_cache(maxsize=256)
def numbered(sql: str) -> tuple[str, str, int]:
    """Name, text with numbered parameters, and number of parameters of a statement with ``%s``."""
    numbers = itertools.count(1)
    text, count = re.subn("%s", lambda _: f"${next(numbers)}", sql)
    return f"prx_{blake2b(sql.encode(), digest_size=12).hexdigest()}", text, count


def session_of(connection: Any) -> Session | None:
    """What is known of the present connection to the server; None: there is none, or it is none of psycopg 3."""
    raw = connection.connection
    if raw is None or not hasattr(raw, "pgconn"):
        return None
    try:
        known = _sessions.get(ref(raw))
    except TypeError:  # a stand-in that cannot be referred to
        return None
    return _sessions.setdefault(ref(raw, _forget_session), Session()) if known is None else known


def _forget_session(of: ref[Any]) -> None:
    """The driver's connection is gone."""
    _sessions.pop(of, None)
