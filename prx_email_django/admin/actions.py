"""Buttons and bulk actions of messages: POST only, with a permission, and told in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import F, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django.admin.base import OperatorMixin
from prx_email_django.admin.verbs import CANCEL, CONFIRM, REFUSALS, RETRY, VERBS, Verb
from prx_email_django.models import OutboxMessage
from prx_email_django.results import ChangeReport
from prx_email_django.states import Status

#: Rows of one bulk action: more would outlive the request.  The commands have no such limit.
MAX_BULK = 10_000
UNDERSTOOD = "understood"


class MessageActionsMixin(OperatorMixin):
    """``/<id>/retry/``, ``/<id>/cancel/`` and so on, and the same for many."""

    actions = ("retry_selected", "confirm_selected", "cancel_selected")

    def get_urls(self) -> list[URLPattern]:
        """The buttons' addresses before Django's own."""
        return [
            path(
                f"<int:pk>/{verb.name}/",
                self.admin_site.admin_view(self.operate_view),
                {"name": verb.name},
                name=f"{self.opts.app_label}_{self.opts.model_name}_{verb.name}",
            )
            for verb in VERBS.values()
        ] + super().get_urls()

    def operate_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """One button of one message."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        message = self.get_object(request, str(pk))
        if message is None:
            raise Http404
        if not self.has_operate_permission(request, message):
            raise PermissionDenied
        verb = VERBS[name]
        if verb.doubtful(message) and UNDERSTOOD not in request.POST:
            text = _("Nothing was changed: it may have arrived already, so say first that a second copy is all right.")
            messages.warning(request, text)
        else:
            self._apply(request, verb, [message])
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:{_change(self.opts)}", args=[pk]))

    def buttons_for(self, request: HttpRequest, message: OutboxMessage) -> list[dict[str, Any]]:
        """The verbs that make sense for this message, if this person may press them."""
        if not self.has_operate_permission(request, message):
            return []
        now, prefix = timezone.now(), f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}"
        return [
            {
                "verb": verb,
                "url": reverse(f"{prefix}_{verb.name}", args=[message.pk]),
                "doubtful": verb.doubtful(message),
            }
            for verb in VERBS.values()
            if verb.offered(message, now)
        ]

    @admin.action(description=gettext_lazy("Retry the selected messages now"), permissions=["operate"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """Due now; asks first where a second copy may come of it."""
        return self._bulk(request, queryset, RETRY, action="retry_selected")

    @admin.action(description=gettext_lazy("Cancel the selected messages"), permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """At rest."""
        return self._bulk(request, queryset, CANCEL, action="cancel_selected")

    @admin.action(description=gettext_lazy("Confirm that the selected messages arrived"), permissions=["operate"])
    def confirm_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """Sent, where the outcome was unknown."""
        return self._bulk(request, queryset, CONFIRM, action="confirm_selected")

    def _bulk(
        self, request: HttpRequest, queryset: QuerySet[OutboxMessage], verb: Verb, *, action: str
    ) -> HttpResponse | None:
        if queryset.order_by()[: MAX_BULK + 1].count() > MAX_BULK:
            text = _("More than %(most)d messages: narrow the list, or use a management command. Nothing was changed.")
            messages.error(request, text % {"most": MAX_BULK})
            return None
        doubtful = queryset.filter(status=Status.FAILED, attempts__gt=F("retries")).count() if verb.copies else 0
        if doubtful and UNDERSTOOD not in request.POST:
            return self._ask(request, verb, action, doubtful)
        self._apply(request, verb, list(queryset))
        return None

    def _ask(self, request: HttpRequest, verb: Verb, action: str, doubtful: int) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": verb.label,
            "doubtful": doubtful,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "action": action,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "understood": UNDERSTOOD,
        }
        return TemplateResponse(request, "admin/prx_email_django/confirm_copies.html", context)

    def _apply(self, request: HttpRequest, verb: Verb, rows: Sequence[OutboxMessage]) -> None:
        permitted = [row for row in rows if self.has_operate_permission(request, row)]
        report = verb.apply([row.pk for row in permitted])
        if len(permitted) < len(rows):
            refused = {**report.refused, "forbidden": len(rows) - len(permitted)}
            report = ChangeReport(changed=report.changed, refused=refused)
        if report.changed:
            log(request, permitted, str(verb.log))
        tell(request, str(verb.done % {"count": report.changed}), report)


def tell(request: HttpRequest, done: str, report: ChangeReport) -> None:
    """Say how many changed, and how many were refused and why."""
    if report.changed:
        messages.success(request, done)
    refused = Counter(report.refused)
    if refused:
        reasons = ", ".join(f"{count} {REFUSALS.get(code, code)}" for code, count in sorted(refused.items()))
        total = sum(refused.values())
        messages.warning(request, _("%(total)d refused: %(reasons)s.") % {"total": total, "reasons": reasons})


def log(request: HttpRequest, rows: Sequence[Any], text: str) -> None:
    """Write who asked for it into the history of each row."""
    person = cast(int, request.user.pk)
    LogEntry.objects.log_actions(user_id=person, queryset=rows, action_flag=CHANGE, change_message=text)


def _change(opts: Any) -> str:
    return f"{opts.app_label}_{opts.model_name}_change"
