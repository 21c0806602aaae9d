"""Columns for text that strangers wrote: a server, a sender, an exception, the name of a machine.

Such text decorates a fact, and the statement that records the fact must not fail because of it.  So what the column or
the database's character set cannot hold is replaced or cut, not raised.  Text of the caller has ordinary columns: it
must be stored as it is, or be refused.

What a PostgreSQL database can hold is known before the statement.  MySQL and MariaDB have a character set for each
column, so ``store.db.retried`` runs a statement that was refused for its text again with fewer characters.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import models

from prx_email_django.rules.text import storable

if TYPE_CHECKING:
    CharFieldBase = models.CharField[Any, str]
    TextFieldBase = models.TextField[Any, str]
    JSONFieldBase = models.JSONField[Any, Any]
else:
    CharFieldBase, TextFieldBase, JSONFieldBase = models.CharField, models.TextField, models.JSONField

#: Python's codec of what may be stored now; ``ucs2`` stands for the Basic Multilingual Plane.  None: what the database
#: can hold.
_narrowed: ContextVar[str | None] = ContextVar("narrowed", default=None)
#: What a refused statement is tried with again, in this order.
NARROWER = ("ucs2", "ascii")
#: PostgreSQL's names of encodings that Python names otherwise; without conversion (SQL_ASCII), length is in bytes.
_POSTGRES = {"SQL_ASCII": "ascii", "UTF8": "utf-8", "KOI8R": "koi8_r", "KOI8U": "koi8_u"}


@contextmanager
def narrowed_to(encoding: str) -> Iterator[None]:
    """Store only characters of this encoding in the columns of strangers' text."""
    token = _narrowed.set(encoding)
    try:
        yield
    finally:
        _narrowed.reset(token)


def fitted(value: Any, connection: Any, *, length: int | None = None, replacement: str = "?") -> Any:
    """The text, or the texts in a list or a dict, as the database can hold it; other values as they are."""
    if isinstance(value, str):
        if is_plain(value) and (length is None or len(value) <= length):
            return value  # nearly always
        return storable(value, _encoding(connection), length=length, replacement=replacement)
    if isinstance(value, list):
        return [fitted(item, connection, replacement=replacement) for item in value]
    if isinstance(value, dict):
        return {key: fitted(item, connection, replacement=replacement) for key, item in value.items()}
    return value


def is_plain(text: str) -> bool:
    """Whether every database holds all characters of the text."""
    return text.isascii() and "\x00" not in text


def holds_all_text(connection: Any) -> bool:
    """Whether the database holds every character (but NUL)."""
    return _encoding(connection) == "utf-8"


def _encoding(connection: Any) -> str:
    return _narrowed.get() or (_of_postgres(connection) if connection.vendor == "postgresql" else "utf-8")


def _of_postgres(connection: Any) -> str:
    connection.ensure_connection()
    name = connection.connection.info.parameter_status("server_encoding") or "UTF8"
    name = _POSTGRES.get(name, name.replace("WIN", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:  # an encoding that Python does not know
        return "ascii"


class _Fitted:
    """Mixin: ``replacement`` takes the place of a character that cannot be held (NUL, a lone surrogate: U+FFFD)."""

    def __init__(self, *args: Any, replacement: str = "?", **kwargs: Any) -> None:
        self.replacement = replacement
        super().__init__(*args, **kwargs)

    def fitted(self, value: Any, connection: Any) -> Any:
        """The value as the database can hold it."""
        return fitted(value, connection, length=getattr(self, "max_length", None), replacement=self.replacement)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """The value as the database can hold it, prepared as Django does."""
        value = self.fitted(value, connection)
        parent: Any = super()
        return parent.get_db_prep_value(value, connection, prepared)

    def deconstruct(self) -> Any:
        """Django's own field: a migration needs nothing else, since the column is the same."""
        parent: Any = super()
        name, _, args, kwargs = parent.deconstruct()
        django = next(base for base in type(self).__mro__ if base.__module__.startswith("django."))
        return name, f"django.db.models.{django.__name__}", args, kwargs


class ForeignCharField(_Fitted, CharFieldBase):
    """``CharField`` for text that strangers wrote."""


class ForeignTextField(_Fitted, TextFieldBase):
    """``TextField`` for text that strangers wrote."""


class ForeignJSONField(_Fitted, JSONFieldBase):
    """``JSONField`` for texts that strangers wrote."""
