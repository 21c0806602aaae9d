"""Buttons and bulk actions of messages: POST only, with a permission, and with the number of changed messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django.admin.base import OperatorMixin, page_url
from prx_email_django.admin.operations import CANCEL, CONFIRM, OPERATIONS, REFUSALS, RETRY, Operation
from prx_email_django.models import OutboxMessage
from prx_email_django.results import ChangeReport
from prx_email_django.states import Status

#: Most rows of one bulk action: more could take longer than the request may.  The commands have no such limit.
MAX_BULK = 10_000
#: POST field by which a person accepts that a second copy may be sent.
UNDERSTOOD = "understood"


class MessageActionsMixin(OperatorMixin):
    """Views ``/<id>/retry/``, ``/<id>/cancel/`` and so on, and bulk actions for the same operations."""

    actions = ("retry_selected", "confirm_selected", "cancel_selected")

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the buttons before Django's own."""
        return [
            path(
                f"<int:pk>/{operation.name}/",
                self.guarded(self.operate_view),
                {"name": operation.name},
                name=self.url_name(operation.name),
            )
            for operation in OPERATIONS.values()
        ] + super().get_urls()

    def operate_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """Apply an operation to one message."""
        message = self.operable(request, pk)
        operation = OPERATIONS[name]
        if operation.may_duplicate(message) and UNDERSTOOD not in request.POST:
            text = _("Nothing was changed. The message may have been delivered: first accept a second copy.")
            messages.warning(request, text)
        else:
            self._apply(request, operation, [message])
        return self.back_to("change", pk)

    def buttons_for(self, request: HttpRequest, message: OutboxMessage) -> list[dict[str, Any]]:
        """Return the operations that apply to this message, if this person may use them."""
        if not self.has_operate_permission(request, message):
            return []
        now = timezone.now()
        return [
            {
                "operation": operation,
                "url": page_url(self, self.model, operation.name, message.pk),
                "may_duplicate": operation.may_duplicate(message),
            }
            for operation in OPERATIONS.values()
            if operation.is_offered(message, now)
        ]

    @admin.action(description=gettext_lazy("Retry the selected messages now"), permissions=["operate"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """Make the messages due now; ask first if recipients may receive a second copy."""
        return self._bulk(request, queryset, RETRY, action="retry_selected")

    @admin.action(description=gettext_lazy("Cancel the selected messages"), permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """Cancel the messages that wait for an attempt."""
        return self._bulk(request, queryset, CANCEL, action="cancel_selected")

    @admin.action(description=gettext_lazy("Confirm that the selected messages arrived"), permissions=["operate"])
    def confirm_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse | None:
        """Confirm that messages whose outcome is unknown arrived."""
        return self._bulk(request, queryset, CONFIRM, action="confirm_selected")

    def _bulk(
        self, request: HttpRequest, queryset: QuerySet[OutboxMessage], operation: Operation, *, action: str
    ) -> HttpResponse | None:
        if queryset.order_by()[: MAX_BULK + 1].count() > MAX_BULK:
            text = _("Nothing was changed: more than %(most)d messages are selected. Use a filter or a command.")
            messages.error(request, text % {"most": MAX_BULK})
            return None
        uncertain = (
            queryset.filter(status=Status.FAILED, attempts__gt=F("retries")).count() if operation.sends_again else 0
        )
        if uncertain and UNDERSTOOD not in request.POST:
            return self._ask(request, operation, action, uncertain)
        self._apply(request, operation, list(queryset))
        return None

    def _ask(self, request: HttpRequest, operation: Operation, action: str, uncertain: int) -> HttpResponse:
        return self.own_page(
            request,
            "confirm_copies.html",
            title=operation.label,
            uncertain=uncertain,
            action=action,
            understood=UNDERSTOOD,
            **selected_rows(request),
        )

    def _apply(self, request: HttpRequest, operation: Operation, rows: Sequence[OutboxMessage]) -> None:
        permitted = [row for row in rows if self.has_operate_permission(request, row)]
        report = operation.apply([row.pk for row in permitted])
        if len(permitted) < len(rows):
            refused = {**report.refused, "forbidden": len(rows) - len(permitted)}
            report = ChangeReport(changed=report.changed, refused=refused)
        if report.changed:
            log(request, permitted, str(operation.log))
        show_report(request, str(operation.done % {"count": report.changed}), report)


def show_report(request: HttpRequest, done: str, report: ChangeReport) -> None:
    """Show how many messages changed, and how many were refused and why."""
    if report.changed:
        messages.success(request, done)
    refused = Counter(report.refused)
    if refused:
        reasons = ", ".join(f"{count} {REFUSALS.get(code, code)}" for code, count in sorted(refused.items()))
        total = sum(refused.values())
        messages.warning(request, _("%(total)d refused: %(reasons)s.") % {"total": total, "reasons": reasons})


def log(request: HttpRequest, rows: Sequence[Any], text: str) -> None:
    """Record the operation and its user in the history of each row."""
    person = cast(int, request.user.pk)
    LogEntry.objects.log_actions(user_id=person, queryset=rows, action_flag=CHANGE, change_message=text)


def selected_rows(request: HttpRequest) -> dict[str, Any]:
    """Return what a page that asks back must submit again to keep the selection of the list."""
    return {
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "select_across": request.POST.get("select_across", "0"),
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
    }
