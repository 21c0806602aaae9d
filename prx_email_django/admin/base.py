"""Base classes: read-only rows, lists that stay fast in large tables, and the permission for buttons."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from prx_email_django.models.encrypted import EncryptedTextField

if TYPE_CHECKING:
    ModelAdminBase = admin.ModelAdmin[Any]
    PaginatorBase = Paginator[Any]
else:
    ModelAdminBase = object
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


class FastListMixin(ModelAdminBase):
    """A list that never counts more rows than it can show."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    class Media:
        """Colours of states; dark mode uses Django's variables."""

        css = {"all": ("prx_email_django/admin.css",)}


class OperatorMixin(ModelAdminBase):
    """Permission for buttons and bulk actions."""

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may use buttons (on ``obj``): requires the change permission for the model."""
        return super().has_change_permission(request, obj)


class FactsAdminMixin(FastListMixin, OperatorMixin):
    """Read-only rows; encrypted fields are not shown."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: rows are created by the outbox only."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are read-only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows are deleted by ``RETENTION``, whose rules never delete an unsent message."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may view the rows or use their buttons."""
        return super().has_view_permission(request, obj) or self.has_operate_permission(request, obj)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return all columns but encrypted ones."""
        return shown_fields(self.model)


def without_fields(fieldsets: Any, removed: Collection[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Remove fields from fieldsets, and lines and fieldsets that are empty then."""

    def names(fields: Iterable[Any]) -> list[Any]:
        kept = [names(name) if isinstance(name, (list, tuple)) else name for name in fields]
        return [name for name in kept if name and (not isinstance(name, str) or name not in removed)]

    left = [(title, {**options, "fields": names(options["fields"])}) for title, options in fieldsets]
    return [(title, options) for title, options in left if options["fields"]]


def shown_fields(model: type[Model]) -> list[str]:
    """Return the names of a model's columns, without encrypted ones."""
    return [field.name for field in model._meta.concrete_fields if not isinstance(field, EncryptedTextField)]
