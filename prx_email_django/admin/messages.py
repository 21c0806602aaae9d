"""Messages: the list, the page of one message, its source and its attachments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import content_disposition_header
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from prx_email_django.admin import columns, filters
from prx_email_django.admin.actions import MessageActionsMixin
from prx_email_django.admin.base import FactsAdminMixin, ModelAdmin, changed_fieldsets, may_read_content, sorted_rows
from prx_email_django.admin.copies import MessageCopiesMixin
from prx_email_django.admin.details import message_details
from prx_email_django.admin.erase import ErasePageMixin
from prx_email_django.admin.outbox import everything_paused
from prx_email_django.admin.preview import MAX_SOURCE
from prx_email_django.admin.search import search
from prx_email_django.models import OutboxMessage
from prx_email_django.models.content import ContentAltered

#: Columns that the list does not show; some are large.
DEFERRED = ("body_text", "body_html", "headers", "metadata", "references")

#: Filters of failed messages.
UNSENT_FILTERS = frozenset({"doubt", "error", "reason", "text"})

#: Lines of the page that are hidden if they are empty, and the columns that they show.
OPTIONAL = {
    "cc_line": "cc",
    "bcc_line": "bcc",
    "reply_to_line": "reply_to",
    "next_attempt_at": "next_attempt_at",
    "sent_at": "sent_at",
    "expires_at": "expires_at",
    "tag": "tag",
    "idempotency_key": "idempotency_key",
    "provider_response": "provider_response",
    "envelope_from": "envelope_from",
    "headers": "headers",
    "in_reply_to_message_id": "in_reply_to_message_id",
    "references": "references",
    "metadata": "metadata",
    "on_unknown": "on_unknown",
    "claim_expires_at": "claim_expires_at",
    "message_number": "message_number",
}


class MessageChangeList(ChangeList):
    """A list that does not load bodies."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return Django's queryset without the large columns; accounts are a query of their own.

        Joined with a few accounts, MariaDB reads and sorts all messages of each account.
        """
        rows = super().get_queryset(*args, **kwargs).defer(*DEFERRED).prefetch_related("account")
        if self._is_of_unsent():
            return sorted_rows(rows)
        return rows.order_by(*self._order_of_account(rows.query.order_by))

    def _is_of_unsent(self) -> bool:
        """Whether a filter leaves unsent messages only: an index finds them, and sorting is cheaper than a walk."""
        chosen = self.get_filters_params()
        return chosen.get("status", ["sent"]) != ["sent"] or not UNSENT_FILTERS.isdisjoint(chosen)

    def _order_of_account(self, order: Sequence[Any]) -> Sequence[Any]:
        """The order by number, of one account: as the index of an account's messages has it."""
        first = next(iter(order), "")
        if first not in ("id", "-id", "pk", "-pk") or "account__id__exact" not in self.get_filters_params():
            return order
        return (f"{'-' if first.startswith('-') else ''}account_id", first)


class OutboxMessageAdminMixin(MessageActionsMixin, MessageCopiesMixin, ErasePageMixin, FactsAdminMixin):
    """List and page of messages; derive from this class to add columns, filters and fieldsets."""

    list_display = ("number", "status_and_reason", "queued", "recipients_short")
    list_display_links = ("number",)
    list_filter = (
        filters.StatusFilter,
        filters.UnknownOutcomeFilter,
        filters.ErrorCodeFilter,
        filters.ReasonFilter,
        ("account", filters.AccountFilter),
        filters.TextFilter,
        filters.TagFilter,
        filters.SmtpCodeFilter,
        filters.EnhancedCodeFilter,
        filters.PeerFilter,
        filters.PriorityFilter,
        "created_at",
    )
    #: Only columns that an index sorts.
    sortable_by = ("queued",)
    ordering = ("-id",)
    search_fields = ("tag",)
    search_help_text = _(
        "Finds the message number, the start of a recipient’s address, tags, and Message-IDs that the outbox made. "
        "Subjects, other Message-IDs, queue ids of servers and domains (@example.com) are searched in the newest "
        "100 000 messages only."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "subject",
                    ("status_now", "reason"),
                    ("account", "from_email"),
                    "to_line",
                    "cc_line",
                    "bcc_line",
                    "reply_to_line",
                )
            },
        ),
        (
            _("Delivery"),
            {"fields": (("created_at", "next_attempt_at", "sent_at"), ("failures", "expires_at"))},
        ),
        (_("Identity"), {"fields": (("tag", "priority", "idempotency_key"), ("message_id", "provider_response"))}),
        (
            _("Details"),
            {
                "classes": ("collapse",),
                "fields": (
                    "envelope_from",
                    "headers",
                    "in_reply_to_message_id",
                    "references",
                    "metadata",
                    "on_unknown",
                    "size",
                    "due_since",
                    ("attempts", "retries"),
                    "claim_expires_at",
                    "message_number",
                    "updated_at",
                ),
            },
        ),
    )
    readonly_fields = (
        "status_now",
        "reason",
        "failures",
        "message_id",
        "to_line",
        "cc_line",
        "bcc_line",
        "reply_to_line",
    )

    def get_urls(self) -> list[URLPattern]:
        """Add the URLs of source and attachments."""
        guarded = self.admin_site.admin_view
        return [
            path("<int:pk>/source/", guarded(self.source_view), name=self.url_name("source")),
            path("<int:pk>/source.eml", guarded(self.download_view), name=self.url_name("download")),
            path("<int:pk>/files/<int:file>/", guarded(self.file_view), name=self.url_name("file")),
            *super().get_urls(),
        ]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Hide empty lines."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None:
            return fieldsets
        empty = {name for name, column in OPTIONAL.items() if getattr(obj, column) in (None, "", [], {})}
        if not columns.reason(obj):
            empty.add("reason")
        if not may_read_content(request):
            empty.add("headers")
        return changed_fieldsets(fieldsets, removed=empty)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list that does not load bodies."""
        return MessageChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search by index where there is an index (``search``); an action on all reaches every message that matches."""
        found, is_cut = search(queryset, search_term, newest_only=request.method != "POST")
        if is_cut:
            text = _(
                "Very many messages match “%(term)s”: only those among the newest 100 000 messages are shown. To find "
                "an older message, search for more of its address, or for its number. An action on all reaches every "
                "message that matches."
            )
            messages.warning(request, text % {"term": search_term})
        return found, False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, with a notice while everything is paused."""
        return super().changelist_view(request, {"everything_paused": everything_paused(), **(extra_context or {})})

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show one message with its recipients, attempts, attachments, bodies and buttons."""
        message = kwargs["obj"]
        context.update(
            message_details(message, with_content=may_read_content(request)),
            buttons=[*self.buttons_for(request, message), *self.copy_buttons_for(request, message)],
        )
        return super().render_change_form(request, context, *args, **kwargs)

    def source_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the message as it goes over the wire, as plain text."""
        message = self._readable(request, pk)
        try:
            source, error_text = message.as_sent(), ""
        except (ContentAltered, ValueError) as error:
            source, error_text = b"", str(error)
        return self.own_page(
            request,
            "outboxmessage/source.html",
            title=_("Source"),
            subtitle=str(message),
            original=message,
            source=source[:MAX_SOURCE].decode("utf-8", "replace"),
            is_cut=len(source) > MAX_SOURCE,
            error_text=error_text,
        )

    def download_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Download the whole source, with a content type that no browser opens."""
        try:
            source = self._readable(request, pk).as_sent()
        except (ContentAltered, ValueError) as error:
            raise Http404(str(error)) from error
        return _download(source, f"message-{pk}.eml")

    def file_view(self, request: HttpRequest, pk: int, file: int) -> HttpResponse:
        """Download one attachment."""
        attachment = self._readable(request, pk).attachments.filter(pk=file).first()
        if attachment is None:
            raise Http404
        try:
            content = attachment.open().read()
        except ContentAltered as error:
            raise Http404(str(error)) from error
        return _download(content, attachment.filename or f"part-{attachment.position}")

    def _readable(self, request: HttpRequest, pk: int) -> OutboxMessage:
        message: OutboxMessage | None = self.get_object(request, str(pk))
        if not self.has_view_permission(request, message):
            raise PermissionDenied
        if message is None:
            raise Http404
        if not may_read_content(request):
            raise PermissionDenied
        return message

    @admin.display(description=_("message"), ordering="id")
    def number(self, message: OutboxMessage) -> SafeString:
        """Show number and subject, and below them account and tag."""
        subject = Truncator(message.subject).chars(70) or "–"
        owner = f"{message.account.name} · {message.tag}" if message.tag else message.account.name
        return format_html('{}: {}<div class="outbox-reason">{}</div>', message.pk, subject, owner)

    @admin.display(description=_("queued"), ordering="id")
    def queued(self, message: OutboxMessage) -> SafeString:
        """Show how long ago the message was queued, with the exact time on hover."""
        return columns.ago(message.created_at, timezone.now())

    @admin.display(description=_("status and reason"))
    def status_and_reason(self, message: OutboxMessage) -> SafeString:
        """Show the status, the time of the next attempt, and the last error."""
        return columns.below(columns.status_and_time(message), columns.reason(message))

    status_now = staticmethod(columns.status_badges)
    recipients_short = staticmethod(columns.addresses)
    reason = staticmethod(columns.reason)
    failures = staticmethod(columns.failures)
    to_line = columns.joined("to", _("to"))
    cc_line = columns.joined("cc", _("cc"))
    bcc_line = columns.joined("bcc", _("bcc"))
    reply_to_line = columns.joined("reply_to", _("reply to"))

    @admin.display(description=_("Message-ID"))
    def message_id(self, message: OutboxMessage) -> str:
        """Show the Message-ID of the accepted attempt, else of the next attempt."""
        return message.message_id


@admin.register(OutboxMessage)
class OutboxMessageAdmin(OutboxMessageAdminMixin, ModelAdmin):
    """Registers messages in the admin site."""


def _download(content: bytes, filename: str) -> HttpResponse:
    response = HttpResponse(content, content_type="application/octet-stream")
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename) or "attachment"
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response
