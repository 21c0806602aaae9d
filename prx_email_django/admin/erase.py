"""The page that erases one person's address and mail: it counts first, says what stays, and asks.

The address is in no URL and in no history: both would keep it.
"""

from __future__ import annotations

from typing import Any, cast

from django.contrib import messages
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django import api
from prx_email_django.admin.base import UNDERSTOOD, OperatorMixin, page_url
from prx_email_django.errors import OutboxError
from prx_email_django.results import ErasureReport
from prx_email_django.rules.words import in_words


class ErasePageMixin(OperatorMixin):
    """View ``/erase/``, and its link in the list."""

    def has_erase_permission(self, request: HttpRequest) -> bool:
        """Return whether this person may erase mail: requires the permission to delete messages."""
        return request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}")

    def get_urls(self) -> list[URLPattern]:
        """Return the URL of the page before the others."""
        view = self.admin_site.admin_view(self.erase_view)
        return [path("erase/", view, name=self.url_name("erase")), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, with the link to this page for those who may use it."""
        url = page_url(self, self.model, "erase") if self.has_erase_permission(request) else ""
        return super().changelist_view(request, {"erase_url": url, **(extra_context or {})})

    def erase_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for the address; count and ask for a confirmation; erase."""
        if not self.has_erase_permission(request):
            raise PermissionDenied
        address = request.POST.get("address", "").strip()
        if not address:
            return self._page(request)
        confirmed = UNDERSTOOD in request.POST
        try:
            report = api.erase_address(address, dry_run=not confirmed)
        except OutboxError as error:
            messages.error(request, in_words(error, _))
            return self._page(request)
        if not confirmed:
            return self._page(request, address=address, numbers=_numbers(report), left=_left(report))
        self._tell(request, report)
        return self.back_to("changelist")

    def _page(self, request: HttpRequest, **context: Any) -> HttpResponse:
        back = page_url(self, self.model, "changelist")
        title = _("Erase a person’s mail")
        return self.own_page(request, "erase.html", title=title, back=back, understood=UNDERSTOOD, **context)

    def _tell(self, request: HttpRequest, report: ErasureReport) -> None:
        done = ", ".join(f"{label}: {number}" for label, number in _numbers(report))
        LogEntry.objects.create(
            user_id=cast(int, request.user.pk),
            content_type=ContentType.objects.get_for_model(self.model),
            object_repr=_("Erase a person’s mail"),
            action_flag=DELETION,
            change_message=done,
        )
        messages.success(request, done)
        if report.left:
            messages.warning(request, _left(report))


def _numbers(report: ErasureReport) -> list[tuple[str, int]]:
    return [
        (_("messages only to this address, deleted"), report.deleted),
        (_("messages to others too, emptied"), report.emptied),
        (_("messages that wait, and do not go to this address any more"), report.withdrawn),
        (_("received messages, deleted"), report.received),
        (_("texts of servers, pauses and histories, without the address"), report.texts),
    ]


def _left(report: ErasureReport) -> str:
    """What a second run is needed for; empty: nothing."""
    count = len(report.left)
    text = ngettext(
        "%(count)d message that is not sent yet still holds the address. Erase again when it is sent or deleted.",
        "%(count)d messages that are not sent yet still hold the address. Erase again when they are sent or deleted.",
        count,
    )
    return text % {"count": count} if count else ""
