"""Finds the rows that hold an address anywhere, window by window: no index can, and no statement runs for long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import TypeVar

from django.db import models
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from prx_email_django.rules.erasure import ErasedAddress

M = TypeVar("M", bound=models.Model)

#: Rows that one statement reads.
WINDOW = 5_000


def having(
    rows: QuerySet[M], address: ErasedAddress, *, texts: Iterable[str] = (), jsons: Iterable[str] = ()
) -> Iterator[list[M]]:
    """The rows whose columns hold the address, in lists of at most ``WINDOW``, in the order of their keys."""
    columns = [*texts, *jsons]
    searched = rows.alias(**{f"{name}_as_text": Cast(name, TextField()) for name in jsons}).order_by("pk")
    names = [*texts, *(f"{name}_as_text" for name in jsons)]
    # The database compares as it likes (collations fold accents, SQLite only ASCII case); Python decides.
    condition = reduce(or_, (Q(**{f"{name}__icontains": needle}) for name in names for needle in address.needles))
    for first, last in _windows(rows):
        found = searched.filter(condition, pk__gte=first, pk__lte=last)
        hits = [row for row in found if any(address.is_in(getattr(row, name) or "") for name in columns)]
        if hits:
            yield hits


def _windows(rows: QuerySet[M]) -> Iterator[tuple[object, object]]:
    keys = rows.order_by("pk").values_list("pk", flat=True)
    window = list(keys[:WINDOW])
    while window:
        yield window[0], window[-1]
        window = list(keys.filter(pk__gt=window[-1])[:WINDOW])
