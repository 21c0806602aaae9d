"""Finds the rows that hold an address anywhere, window by window: no index can, and no statement runs for long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import and_, or_
from typing import TypeVar

from django.db import models
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from prx_email_django.rules.erasure import ErasedAddress

M = TypeVar("M", bound=models.Model)

#: Rows that one statement reads.
WINDOW = 5_000


def having(
    rows: QuerySet[M],
    address: ErasedAddress,
    *,
    texts: Iterable[str] = (),
    jsons: Iterable[str] = (),
    files: Iterable[str] = (),
) -> Iterator[list[M]]:
    """The rows whose columns hold the address, in lists of at most ``WINDOW``, in the order of their keys.

    ``files``: columns of names of files.
    """
    columns = [*texts, *jsons]
    file_names = list(files)
    searched = rows.alias(**{f"{name}_as_text": Cast(name, TextField()) for name in jsons}).order_by("pk")
    names = [*texts, *file_names, *(f"{name}_as_text" for name in jsons)]
    # The database compares as it likes (collations fold accents, SQLite only ASCII case); Python decides.
    condition = reduce(or_, (_has_all(name, parts) for name in names for parts in address.plain_parts))
    for first, last in _windows(rows):
        found = searched.filter(condition, pk__gte=first, pk__lte=last)
        hits = [
            row
            for row in found
            if any(address.is_in(getattr(row, name) or "") for name in columns)
            or any(address.is_in_file_name(getattr(row, name)) for name in file_names)
        ]
        if hits:
            yield hits


def _has_all(column: str, parts: Iterable[str]) -> Q:
    return reduce(and_, (Q(**{f"{column}__icontains": part}) for part in parts), Q())


def _windows(rows: QuerySet[M]) -> Iterator[tuple[object, object]]:
    keys = rows.order_by("pk").values_list("pk", flat=True)
    window = list(keys[:WINDOW])
    while window:
        yield window[0], window[-1]
        window = list(keys.filter(pk__gt=window[-1])[:WINDOW])
