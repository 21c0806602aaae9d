"""Base classes: read-only rows, lists that stay fast in large tables, and the permission for buttons."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import DateTimeField, F, GeneratedField, Max, Min, Model, Q, QuerySet, Value
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from prx_email_django.admin import columns
from prx_email_django.admin import search as searching
from prx_email_django.models import OutboxMessage
from prx_email_django.models.encrypted import EncryptedTextField

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    ModelAdminBase = ModelAdmin
    PaginatorBase = Paginator[Any]
else:
    ModelAdmin, ModelAdminBase, PaginatorBase = admin.ModelAdmin, object, Paginator


#: POST field: a person has read the page that asks back.
UNDERSTOOD = "understood"


class MoreThan(int):
    """A count that ended at its bound: Django's texts show it as what it is."""

    def __str__(self) -> str:
        return _("more than %(count)s") % {"count": int(self)}


class CappedPaginator(PaginatorBase):
    """Counts at most ``cap`` rows; older rows are found by filters and search."""

    cap = 10_000

    @cached_property
    def count(self) -> int:
        """Number of rows, at most ``cap``; ``MoreThan`` where there are more."""
        rows = self.object_list
        found = rows.order_by().values("pk")[: self.cap + 1].count() if isinstance(rows, QuerySet) else len(rows)
        return MoreThan(self.cap) if found > self.cap else found

    @property
    def is_capped(self) -> bool:
        """Whether there are more rows than are counted."""
        return isinstance(self.count, MoreThan)

    def page(self, number: int | str) -> Any:
        """Return a page; few or old rows of a condition are sorted, so that no walk by primary key looks for them."""
        rows, last = self.object_list, self.validate_number(number) * self.per_page
        if isinstance(rows, QuerySet) and rows.query.where and not (self.is_capped and are_near(rows, last)):
            self.object_list = sorted_rows(rows)
        return super().page(number)


#: Orderings by primary key.
_BY_NUMBER = ("pk", "-pk", "id", "-id")
#: Orderings that begin with the account; an index of each account's rows serves them.
_OF_ACCOUNT = ("account_id", "-account_id")


def are_near(rows: QuerySet[Any], wanted: int) -> bool:
    """Whether the index that serves the ordering finds ``wanted`` rows soon, without reading most of the table."""
    first = next(iter(rows.query.order_by), "")
    if first not in _BY_NUMBER:
        return True
    ends = rows.model._default_manager.aggregate(oldest=Min("pk"), newest=Max("pk"))
    near = (
        Q(pk__gt=ends["newest"] - searching.RECENT)
        if first.startswith("-")
        else Q(pk__lt=ends["oldest"] + searching.RECENT)
    )
    return len(rows.filter(near).order_by(first).values_list("pk", flat=True)[:wanted]) >= wanted


def sorted_rows(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Order rows by the number of their primary key, for which no database can walk along the primary key.

    With ``ORDER BY id LIMIT 50`` it does, and where all rows of the condition are old it reads the whole table.
    """
    first = next((name for name in rows.query.order_by if name not in _OF_ACCOUNT), "")
    if first not in _BY_NUMBER:
        return rows
    key = F("pk") + Value(0)
    return rows.order_by(key.desc() if first.startswith("-") else key.asc())


class FastListMixin(ModelAdminBase):
    """A list that never counts more rows than it can show."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    empty_value_display = "–"

    class Media:
        """Colours of states; dark mode uses Django's variables.  The script names the columns of a phone's cards."""

        css = {"all": ("prx_email_django/admin.css",)}
        js = ("prx_email_django/labels.js",)


class OperatorMixin(ModelAdminBase):
    """Permission for buttons and bulk actions, and what their views share."""

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may use buttons (on ``obj``): requires the change permission for the model."""
        return super().has_change_permission(request, obj)

    def operable(self, request: HttpRequest, pk: int) -> Any:
        """Return the row that a button of this person is about.

        Raises:
            Http404, PermissionDenied: there is no such row, or the person may not use its buttons.
        """
        row = self.get_object(request, str(pk))
        if row is None:
            raise Http404
        if not self.has_operate_permission(request, row):
            raise PermissionDenied
        return row

    def url_name(self, page: str) -> str:
        """Return the name of one of this model's URLs, without the site's namespace."""
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def back_to(self, page: str, *args: int) -> HttpResponseRedirect:
        """Redirect to a page of this model (``change`` with its primary key, ``changelist``)."""
        return HttpResponseRedirect(page_url(self, self.model, page, *args))

    def guarded(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """Return the view of a button: POST only, for persons who are signed in."""
        return self.admin_site.admin_view(require_POST(view))

    def own_page(self, request: HttpRequest, template: str, *, media: Any = None, **context: Any) -> TemplateResponse:
        """Render a page that Django's admin does not have, in the frame of the admin."""
        request.current_app = self.admin_site.name
        frame = {**self.admin_site.each_context(request), "opts": self.opts, "media": media or self.media}
        return TemplateResponse(request, f"admin/prx_email_django/{template}", {**frame, **context})

    def asked(
        self, request: HttpRequest, *, back: str, fields: Mapping[str, str] | None = None, **texts: Any
    ) -> TemplateResponse:
        """Ask before a button does what can't be undone; ``texts`` are ``title``, ``warning`` and ``help``.

        The answer comes to the same address, with ``UNDERSTOOD`` and the hidden ``fields``.
        """
        return self.own_page(request, "ask.html", back=back, fields={**(fields or {}), UNDERSTOOD: "yes"}, **texts)


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

    def get_list_display(self, request: HttpRequest) -> Any:
        """Show how long ago an instant is, with the exact time on hover, and stored texts in the reader's language."""
        shown = _instants(self.model, columns.instant) | _stored_texts(self.model)
        return [shown.get(name, name) for name in super().get_list_display(request)]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show how long ago an instant is beside the exact time, and stored texts in the reader's language."""
        replaced = _instants(self.model, columns.instant_in_full) | _stored_texts(self.model)
        return changed_fieldsets(super().get_fieldsets(request, obj), removed=(), replaced=replaced)


def log(request: HttpRequest, rows: Sequence[Any], text: str) -> None:
    """Record the operation and its user in the history of each row."""
    person = cast(int, request.user.pk)
    LogEntry.objects.log_actions(user_id=person, queryset=rows, action_flag=CHANGE, change_message=text)


def username(request: HttpRequest) -> str:
    """Return the name of the person who is signed in, for histories."""
    return request.user.get_username()


def may_read_content(request: HttpRequest) -> bool:
    """Return whether this person may read texts, source, headers and files of messages."""
    return request.user.has_perm(f"{OutboxMessage._meta.app_label}.view_message_content")


def may_use_server(request: HttpRequest) -> bool:
    """Return whether this person may let accounts use variables, files and local services of the server."""
    return request.user.has_perm(f"{OutboxMessage._meta.app_label}.use_server_resources")


def page_url(model_admin: ModelAdmin, model: type[Model], page: str, *args: object) -> str:
    """Return the URL of a page (``change``, ``changelist``) of a model in the site of ``model_admin``."""
    opts = model._meta
    return reverse(f"{model_admin.admin_site.name}:{opts.app_label}_{opts.model_name}_{page}", args=args)


def page_url_if_any(model_admin: ModelAdmin, model: type[Model], page: str, *args: object) -> str:
    """Return the URL as ``page_url`` does; empty where the site has no page of this model (a host unregistered it)."""
    try:
        return page_url(model_admin, model, page, *args)
    except NoReverseMatch:
        return ""


def _instants(model: type[Model], made: Callable[[Any], Any]) -> dict[Any, Any]:
    """Return name -> column for the fields that hold instants."""
    return {field.name: made(field) for field in model._meta.concrete_fields if isinstance(field, DateTimeField)}


def _stored_texts(model: type[Model]) -> dict[Any, Any]:
    """Return name -> column for the fields whose text a worker may have worded."""
    names = {"error", "last_error", "last_trouble", "pause_reason", "reason", "text"}
    fields = [field for field in model._meta.concrete_fields if field.name in names]
    return {field.name: columns.stored_text(field) for field in fields}


def changed_fieldsets(
    fieldsets: Any, *, removed: Collection[str], replaced: Mapping[str, Any] | None = None
) -> list[tuple[Any, dict[str, Any]]]:
    """Replace and remove fields of fieldsets, and remove lines and fieldsets that are empty then."""
    renamed = replaced or {}

    def names(fields: Iterable[Any]) -> list[Any]:
        kept = [names(name) if isinstance(name, (list, tuple)) else renamed.get(name, name) for name in fields]
        return [name for name in kept if name and getattr(name, "__name__", str(name)) not in removed]

    left = [(title, {**options, "fields": names(options["fields"])}) for title, options in fieldsets]
    return [(title, options) for title, options in left if options["fields"]]


def shown_fields(model: type[Model]) -> list[str]:
    """Return the names of a model's columns, without encrypted ones and those that the database makes of others."""
    hidden = (EncryptedTextField, GeneratedField)
    return [field.name for field in model._meta.concrete_fields if not isinstance(field, hidden)]
