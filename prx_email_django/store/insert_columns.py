"""Columns that an INSERT into the messages names on SQLite, MariaDB and MySQL, and the values of a draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import CharField, Field, JSONField, TextField

from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.store.insert_sql import literal, needs_value
from prx_email_django.store.inserted_rows import attributes

#: What comes first: the account, two instants of the statement, two when the message is due.
FIRST = ("account", "created_at", "updated_at", "next_attempt_at", "due_since")
#: The values of a recipient: its message, kind and address are given.
RECIPIENT = "(%s, %s, %s, '', '')"
#: Columns whose values, nearly all, go as they are; and what prepares them.
_TEXTS, _AS_IT_IS = (CharField, TextField), None
_ONLY_TEXTS = frozenset({str})


class Columns(NamedTuple):
    """The columns that are written of each message."""

    #: As SQL: the ``FIRST``, those that drafts give, and those that must have a value.
    names: Sequence[str]
    #: Name of a column that drafts give, and what prepares a value of it for a connection.
    given: Sequence[tuple[str, Callable[[Any, Any], Any] | None]]
    #: SQL of the values of the last.
    defaults: Sequence[str]

    @property
    def width(self) -> int:
        """Values of a message."""
        return len(FIRST) + len(self.given)

    def values_of(self, row: Mapping[str, Any], connection: Any) -> list[Any]:
        """The values of the columns that drafts give, as the database's driver takes them."""
        values: list[Any] = []
        for name, prepared in self.given:
            value = row[name] if name in row else _default(name)
            values.append(value if prepared is _AS_IT_IS else prepared(value, connection))
        return values


@lru_cache(maxsize=256)
def columns_of(alias: str, names: tuple[str, ...]) -> Columns:
    """The columns of drafts that give these."""
    fields = {field.name: field for field in OutboxMessage._meta.concrete_fields}
    # No connection is kept with them: each thread has one, which must end with it.
    given = [(name, _preparation(fields[name])) for name in names]
    first = [str(fields[name].column) for name in FIRST]
    others = {
        str(field.column): literal(field)
        for field in fields.values()
        if field.column not in first and field.name not in names and needs_value(field)
    }
    columns = [*first, *(str(fields[name].column) for name in names), *others]
    quote = connections[alias].ops.quote_name
    return Columns([quote(column) for column in columns], given, list(others.values()))


def _preparation(field: Field[Any, Any]) -> Callable[[Any, Any], Any] | None:
    if type(field) in _TEXTS:
        return _AS_IT_IS
    prepared: Callable[[Any, Any], Any] = field.get_db_prep_save
    if type(field) is not JSONField or field.encoder is not None:
        return prepared

    def prepare(value: Any, connection: Any) -> Any:
        """As Django does it, which takes five times as long for a list of addresses."""
        if type(value) is list and _ONLY_TEXTS.issuperset(map(type, value)):
            return f"[{', '.join(map(encode_basestring_ascii, value))}]"
        return prepared(value, connection)

    return prepare


def _default(name: str) -> Any:
    """What a draft means that does not give this column."""
    _, constants, others = attributes()
    return constants[name] if name in constants else dict(others)[name]()


def recipient_columns(alias: str) -> tuple[str, str]:
    """The table of the recipients, and the columns of ``RECIPIENT``, as SQL."""
    quote = connections[alias].ops.quote_name
    names = ("message_id", "kind", "address", "result", "text")
    return quote(Recipient._meta.db_table), ", ".join(map(quote, names))


@lru_cache(maxsize=128)
def recipients_sql(alias: str, rows: int) -> str:
    """The INSERT of so many recipients."""
    table, names = recipient_columns(alias)
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([RECIPIENT] * rows)}"  # noqa: S608  (names)
