"""Buttons and bulk actions of messages: POST only, with a permission.  What each of them calls: ``operations``."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django.admin.base import UNDERSTOOD, OperatorMixin, log, page_url
from prx_email_django.admin.bulk import BulkPage, selection_of, tell_refused, tell_silence
from prx_email_django.admin.operations import CANCEL, CONFIRM, DISMISS, OPERATIONS, RETRY, Operation
from prx_email_django.models import OutboxMessage
from prx_email_django.status.counts import worker_facts
from prx_email_django.status.facts import held_back, message_reason
from prx_email_django.status.overview import nobody_works
from prx_email_django.store.db import clock_for


class MessageActionsMixin(OperatorMixin):
    """Views ``/<id>/retry/``, ``/<id>/cancel/`` and so on, and bulk actions for the same operations."""

    actions = ("retry_selected", "confirm_selected", "cancel_selected", "dismiss_selected")

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
        """Apply an operation to one message; ask first where the recipients may receive a second copy."""
        message = self.operable(request, pk)
        operation = OPERATIONS[name]
        if operation.may_duplicate(message) and UNDERSTOOD not in request.POST:
            words = _words(operation, _held(message))
            warning = _(
                "The message may have been delivered already; its outcome is unknown. The recipients may receive a "
                "second copy."
            )
            back = page_url(self, self.model, "change", pk)
            return self.asked(request, back=back, title=words["label"], warning=warning, help=words["help"])
        self._apply(request, operation, message)
        return self.back_to("change", pk)

    def _apply(self, request: HttpRequest, operation: Operation, message: OutboxMessage) -> None:
        report = operation.apply([message.pk])
        if report.changed:
            log(request, [message], str(operation.log))
            message.refresh_from_db()
            # What follows is said from the state afterwards, and promises nothing.
            sentences = f"{operation.log} {capfirst(message_reason(message))}."
            messages.success(request, sentences)
            if operation.sends_again:
                tell_silence(request)
        tell_refused(request, report.refused)

    def buttons_for(self, request: HttpRequest, message: OutboxMessage) -> list[dict[str, Any]]:
        """Return the operations that apply to this message, if this person may use them."""
        if not self.has_operate_permission(request, message):
            return []
        now = timezone.now()
        offered = [operation for operation in OPERATIONS.values() if operation.is_offered(message, now)]
        held = _held(message) if any(operation.sends_again for operation in offered) else ""
        return [
            {
                "operation": operation,
                "url": page_url(self, self.model, operation.name, message.pk),
                "may_duplicate": operation.may_duplicate(message),
                **_words(operation, held),
            }
            for operation in offered
        ]

    @admin.action(description=gettext_lazy("Retry the selected messages now"), permissions=["operate"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse:
        """Make the messages due now; ask first if recipients may receive a second copy."""
        return self._bulk(request, queryset, RETRY, action="retry_selected")

    @admin.action(description=gettext_lazy("Cancel the selected messages"), permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse:
        """Cancel the messages that wait for an attempt."""
        return self._bulk(request, queryset, CANCEL, action="cancel_selected")

    @admin.action(description=gettext_lazy("Confirm that the selected messages arrived"), permissions=["operate"])
    def confirm_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse:
        """Confirm that messages whose outcome is unknown arrived."""
        return self._bulk(request, queryset, CONFIRM, action="confirm_selected")

    @admin.action(description=gettext_lazy("Dismiss the selected messages"), permissions=["operate"])
    def dismiss_selected(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> HttpResponse:
        """Take messages at rest off the list of those that need a person."""
        return self._bulk(request, queryset, DISMISS, action="dismiss_selected")

    def _bulk(
        self, request: HttpRequest, queryset: QuerySet[OutboxMessage], operation: Operation, *, action: str
    ) -> HttpResponse:
        selected = selected_rows(request)
        fields = {
            ACTION_CHECKBOX_NAME: selected["selected"],
            "select_across": selected["select_across"],
            "action": action,
        }
        selection = selection_of(queryset, fields)
        return BulkPage(self, request, operation, selection, back=request.get_full_path()).response()


def _held(message: OutboxMessage) -> str:
    """Say what would keep the message from being sent if it were due now, or that nobody works."""
    now = clock_for(None).running
    if why := held_back(message, now=now):
        return f"{capfirst(why)}."
    return nobody_works(worker_facts(), now)


def _words(operation: Operation, held: str) -> dict[str, Any]:
    """Return label and help of a button; it promises nothing that would not happen."""
    if not held or not operation.sends_again:
        return {"label": operation.label, "help": operation.help}
    return {"label": operation.label_if_held, "help": _("It will be due, and it waits. %(why)s") % {"why": held}}


def selected_rows(request: HttpRequest) -> dict[str, Any]:
    """Return what a page that asks back must submit again to keep the selection of the list."""
    return {
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "select_across": request.POST.get("select_across", "0"),
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
    }
