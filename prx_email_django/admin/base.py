"""What all pages share: facts that nobody edits, lists that stay fast, a permission for the buttons."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from prx_email_django.admin.paginator import CappedPaginator
from prx_email_django.models.encrypted import EncryptedTextField

if TYPE_CHECKING:
    ModelAdminBase = admin.ModelAdmin[Any]
else:
    ModelAdminBase = object


class FastListMixin(ModelAdminBase):
    """A list that counts no more rows than it can show, however many there are."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    class Media:
        """Colours for states, and little else; dark mode follows Django's own variables."""

        css = {"all": ("prx_email_django/admin.css",)}


class OperatorMixin(ModelAdminBase):
    """The permission of buttons and bulk actions."""

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may press buttons (on ``obj``): who may change the model, by Django's own rule."""
        return super().has_change_permission(request, obj)


class FactsAdminMixin(FastListMixin, OperatorMixin):
    """Rows that are read and never edited; encrypted fields are not shown at all."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds facts by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Retention deletes, by rules that never lose an unsent message."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may see or operate them."""
        return super().has_view_permission(request, obj) or self.has_operate_permission(request, obj)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """All that the row says, but no secret."""
        return shown_fields(self.model)


def without_fields(fieldsets: Any, removed: Collection[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Fieldsets without some of their fields, and without lines and sets that have none left."""

    def names(fields: Iterable[Any]) -> list[Any]:
        kept = [names(one) if isinstance(one, (list, tuple)) else one for one in fields]
        return [one for one in kept if one and (not isinstance(one, str) or one not in removed)]

    left = [(title, {**options, "fields": names(options["fields"])}) for title, options in fieldsets]
    return [one for one in left if one[1]["fields"]]


def shown_fields(model: type[Model]) -> list[str]:
    """The names of a model's own columns, without encrypted ones."""
    return [field.name for field in model._meta.concrete_fields if not isinstance(field, EncryptedTextField)]
