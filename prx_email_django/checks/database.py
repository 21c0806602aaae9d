"""Checks of the outbox's database; run by ``migrate`` and by ``check --database``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.db import connections

from prx_email_django.models.managers import outbox_alias


def _sqlite_file(databases: Sequence[str] | None) -> Any:
    """Return the connection to the outbox's database if it is checked and is an SQLite file, else None."""
    alias = outbox_alias()
    if alias not in (databases or ()) or connections[alias].vendor != "sqlite":
        return None
    connection: Any = connections[alias]
    return None if connection.is_in_memory_db() else connection


@checks.register(checks.Tags.database)
def check_write_ahead_log(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """W020: with a rollback journal each writer blocks all readers."""
    connection = _sqlite_file(databases)
    if connection is None:
        return []
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = str(cursor.fetchone()[0]).lower()
    if mode == "wal":
        return []
    message = f'The SQLite database of the outbox is in journal mode "{mode}": workers and the site block each other.'
    hint = 'Add to its OPTIONS: "init_command": "PRAGMA journal_mode=WAL;".'
    return [checks.Warning(message, hint=hint, obj=connection.alias, id="prx_email_django.W020")]


@checks.register(checks.Tags.database)
def check_immediate(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """W021: a transaction that reads and then writes fails at once if another transaction wrote meanwhile."""
    connection = _sqlite_file(databases)
    # Read from the settings: the connection has the value only after it was opened.
    mode = connection.settings_dict.get("OPTIONS", {}).get("transaction_mode") if connection else None
    if connection is None or str(mode).upper() == "IMMEDIATE":
        return []
    message = (
        'The SQLite database of the outbox must use immediate transactions, or some fail with "database is locked".'
    )
    hint = 'Add to its OPTIONS: "transaction_mode": "IMMEDIATE", and a "timeout" of 20.'
    return [checks.Warning(message, hint=hint, obj=connection.alias, id="prx_email_django.W021")]
