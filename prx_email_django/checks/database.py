"""Checks of the outbox's database; run by ``migrate`` and by ``check --database``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import connections
from django.utils.translation import gettext as _

from prx_email_django.models.managers import outbox_alias


def _sqlite_file(databases: Sequence[str] | None) -> Any:
    """Return the connection to the outbox's database if it is checked and is an SQLite file, else None."""
    alias = outbox_alias()
    if alias not in (databases or ()) or connections[alias].vendor != "sqlite":
        return None
    connection: Any = connections[alias]
    return None if connection.is_in_memory_db() else connection


@checks.register(checks.Tags.database)
def check_write_ahead_log(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W020: with a rollback journal each writer blocks all readers."""
    connection = _sqlite_file(databases)
    if connection is None:
        return []
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = str(cursor.fetchone()[0]).lower()
    if mode == "wal":
        return []
    message = _(
        'The SQLite database of the outbox is in journal mode "%(mode)s": workers and the site block each other.'
    ) % {"mode": mode}
    hint = _('Add to its OPTIONS: "init_command": "PRAGMA journal_mode=WAL;".')
    return [checks.Warning(message, hint=hint, obj=connection.alias, id="prx_email_django.W020")]


@checks.register(checks.Tags.database)
def check_immediate(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W021: a transaction that reads and then writes fails at once if another transaction wrote meanwhile."""
    connection = _sqlite_file(databases)
    # Read from the settings: the connection has the value only after it was opened.
    mode = connection.settings_dict.get("OPTIONS", {}).get("transaction_mode") if connection else None
    if connection is None or str(mode).upper() == "IMMEDIATE":
        return []
    message = _(
        'The SQLite database of the outbox must use immediate transactions, or some fail with "database is locked".'
    )
    hint = _('Add to its OPTIONS: "transaction_mode": "IMMEDIATE", and a "timeout" of 20.')
    return [checks.Warning(message, hint=hint, obj=connection.alias, id="prx_email_django.W021")]


@checks.register(checks.Tags.database)
def check_character_set(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W022: a message with a character that the database cannot hold is refused, and the words of servers lose it."""
    alias = outbox_alias()
    if alias not in (databases or ()):
        return []
    connection: Any = connections[alias]
    lacks = {"postgresql": _lacks_of_postgresql, "mysql": _lacks_of_mysql, "sqlite": _lacks_of_sqlite}
    found = lacks[connection.vendor](connection) if connection.vendor in lacks else None
    if found is None:
        return []
    message, hint = found
    return [checks.Warning(message, hint=hint, obj=alias, id="prx_email_django.W022")]


def _lacks_of_postgresql(connection: Any) -> tuple[str, str] | None:
    (encoding,) = _row(connection, "SHOW server_encoding")
    if encoding == "UTF8":
        return None
    return (
        _("The database of the outbox has the encoding %(encoding)s, which does not hold every character.")
        % {"encoding": encoding},
        _("Move the data into a database that was made with ENCODING 'UTF8'."),
    )


def _lacks_of_mysql(connection: Any) -> tuple[str, str] | None:
    tables = {model._meta.db_table for model in apps.get_app_config("prx_email_django").get_models()}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = DATABASE() "
            "AND character_set_name <> 'utf8mb4' ORDER BY table_name"
        )
        narrow = [name for (name,) in cursor.fetchall() if name in tables]
    (client,) = _row(connection, "SELECT @@character_set_client")
    if narrow:
        return (
            _("These tables of the outbox are not utf8mb4, so they do not hold every character: %(names)s.")
            % {"names": ", ".join(narrow)},
            _(
                "For each of them: ALTER TABLE … CONVERT TO CHARACTER SET utf8mb4; and for new tables: ALTER "
                "DATABASE … CHARACTER SET utf8mb4."
            ),
        )
    if client != "utf8mb4":
        return (
            _(
                "The connection to the database of the outbox is %(client)s, not utf8mb4: it does not carry all "
                "characters."
            )
            % {"client": client},
            _('Add to its OPTIONS: "charset": "utf8mb4".'),
        )
    return None


def _lacks_of_sqlite(connection: Any) -> tuple[str, str] | None:
    (encoding,) = _row(connection, "PRAGMA encoding")
    if encoding == "UTF-8":
        return None
    return (
        _("The SQLite database of the outbox has the encoding %(encoding)s, in which Django cannot read a date.")
        % {"encoding": encoding},
        _("Copy the data into a new file: its encoding is UTF-8 unless a PRAGMA says otherwise."),
    )


def _row(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()
