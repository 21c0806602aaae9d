"""A second database whose character set holds less than Unicode, with the tables of the outbox."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from tests import settings

ALIAS = "narrow"
#: Kind of database -> what its CREATE DATABASE says, and options of its connection.
KINDS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "sqlite": {"utf8": ("", {})},  # Django cannot read a datetime from a UTF-16 file
    "postgresql": {
        "latin1": ("ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'", {}),
        "sql_ascii": ("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'", {}),
        "client_in_latin1": ("ENCODING 'UTF8' TEMPLATE template0", {"client_encoding": "LATIN1"}),
    },
    "mariadb": {
        "latin1": ("CHARACTER SET latin1", {}),
        "utf8mb3": ("CHARACTER SET utf8mb3", {}),
        "latin1_client": ("CHARACTER SET latin1", {"charset": "latin1"}),
        "utf8mb3_client": ("CHARACTER SET utf8mb4", {"charset": "utf8mb3"}),
    },
}


class Router:
    """Sends the tables of the outbox, and no others, to the narrow database."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return ALIAS if model._meta.app_label == "prx_email_django" else None

    db_for_write = db_for_read

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        return True

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool:
        return (db == ALIAS) == (app_label == "prx_email_django")


def _execute(statement: str) -> None:
    """Execute a statement on the server, outside any database of the tests."""
    with connections[ALIAS]._nodb_cursor() as cursor:
        cursor.execute(statement)


@contextmanager
def narrow_database(kind: str) -> Iterator[None]:
    """Make the database, migrate it, and remove it at the end."""
    create, options = KINDS[settings.DATABASE][kind]
    name = f"prx_narrow_{kind}_{os.getpid()}"
    if settings.DATABASE == "sqlite":
        name = str(Path(tempfile.gettempdir(), f"{name}.sqlite3"))
    given = {**connections["default"].settings_dict}
    given |= {"NAME": name, "OPTIONS": {**given["OPTIONS"], **options}}
    connections.databases[ALIAS] = given
    routed = override_settings(
        DATABASE_ROUTERS=[f"{__name__}.Router"], PRX_EMAIL={"AUTO_SCHEDULE": False, "TRANSPORT": "memory", "WAKE": ""}
    )
    try:
        if create:
            _execute(f"DROP DATABASE IF EXISTS {name}")
            _execute(f"CREATE DATABASE {name} {create}")
        with routed:
            call_command("migrate", "prx_email_django", database=ALIAS, verbosity=0)
            yield
    finally:
        connections[ALIAS].close()
        if create:
            _execute(f"DROP DATABASE IF EXISTS {name}")
        else:
            Path(name).unlink(missing_ok=True)
        del connections[ALIAS]
        del connections.databases[ALIAS]
