"""Parameters of a statement as libpq sends them: texts, and arrays of texts in binary."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

#: A binary array: dimensions, whether there are NULLs, type of the elements, number of them, lower bound.
_ARRAY = struct.Struct("!5i")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_TEXTS = frozenset({str})
#: The id of PostgreSQL's type ``text``.
_TEXT = 25

#: The parameters of a statement, and whether each is binary; None: none is.
Given: TypeAlias = tuple[Sequence[bytes | None], Sequence[int] | None]


class NotPrepared(Exception):
    """Nothing was executed: the ordinary way is open."""


def dumped(params: Sequence[Any]) -> Given:
    """The parameters as PostgreSQL reads them; only arrays are binary.

    Raises:
        NotPrepared: libpq would cut a text at its NUL; the ordinary way refuses it.
        UnicodeEncodeError: a lone surrogate.
    """
    if _TEXTS.issuperset(map(type, params)):  # mostly: no call for each of them
        if "\x00" in "".join(params):
            raise NotPrepared
        return list(map(str.encode, params)), None
    values = [value.encode() if type(value) is str and "\x00" not in value else _dump(value) for value in params]
    return values, [type(value) is list for value in params] if list in map(type, params) else None


def _dump(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        if "\x00" in value:
            raise NotPrepared
        return value.encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if type(value) is list:
        return _array(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f} seconds".encode()
    raise NotPrepared


def _array(texts: list[str | None]) -> bytes:
    """The texts as a binary ``text[]``: PostgreSQL copies it, where it would read each character of another form."""
    parts = [_ARRAY.pack(1, 1, _TEXT, len(texts), 1)] if texts else [_ARRAY.pack(0, 0, _TEXT, 0, 0)[:12]]
    if None in texts:
        for text in texts:
            value = None if text is None else text.encode()
            parts += (_NULL,) if value is None else (_LENGTH.pack(len(value)), value)
    else:
        values = [text.encode() for text in texts if text is not None]
        parts += itertools.chain.from_iterable(zip(map(_LENGTH.pack, map(len, values)), values, strict=True))
    return b"".join(parts)
