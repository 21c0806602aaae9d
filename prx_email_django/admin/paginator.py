"""A paginator that never counts a whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property

if TYPE_CHECKING:
    PaginatorBase = Paginator[Any]
else:
    PaginatorBase = Paginator


class CappedPaginator(PaginatorBase):
    """Counts at most ``cap`` rows; older rows are found by filters and search."""

    cap = 10_000

    @cached_property
    def count(self) -> int:
        """Number of rows, at most ``cap``."""
        rows = self.object_list
        if not isinstance(rows, QuerySet):
            return min(len(rows), self.cap)
        return rows.order_by().values("pk")[: self.cap].count()

    @property
    def is_capped(self) -> bool:
        """Whether there may be more rows than are counted."""
        return self.count == self.cap
