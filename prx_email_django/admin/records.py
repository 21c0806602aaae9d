"""Read-only lists of rows that belong to messages and accounts."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from prx_email_django.admin import columns, filters
from prx_email_django.admin.base import FactsAdminMixin, ModelAdmin, may_read_content, page_url_if_any
from prx_email_django.admin.search import recipients
from prx_email_django.models import (
    AccountState,
    Attachment,
    ConnectionSlot,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    PauseRecord,
    RateWindow,
    Recipient,
)
from prx_email_django.models.encrypted import is_set
from prx_email_django.states import AttemptOutcome


class RecordAdmin(FactsAdminMixin, ModelAdmin):
    """A list with the newest row first; no other sort order, because no index supports one."""

    ordering = ("-pk",)
    sortable_by = ()

    @admin.display(description=_("message"))
    def message_page(self, row: Any) -> SafeString:
        """Show the number of the row's message, with a link to its page."""
        return columns.link(page_url_if_any(self, OutboxMessage, "change", row.message_id), row.message_id)


class PlumbingAdmin(RecordAdmin):
    """A list that the index does not show: it is reached from its owner."""

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """Return no permission, so that the index leaves the model out."""
        return {}


@admin.register(Recipient)
class RecipientAdmin(RecordAdmin):
    """Recipients, with the server's last reply."""

    list_display = ("address", "kind", "result_now", "last_answer", "message_page")
    search_fields = ("address",)
    search_help_text = _("Finds the start of an address.")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read the messages in a query of their own, without bodies: joined, PostgreSQL read all of them."""
        messages = OutboxMessage.objects.defer("body_text", "body_html")
        return super().get_queryset(request).prefetch_related(Prefetch("message", messages))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search by index."""
        term = search_term.strip()
        return (recipients(queryset, term) if term else queryset), False

    @admin.display(description=_("result"))
    def result_now(self, recipient: Recipient) -> SafeString:
        """Show the result; an empty result follows the message's status."""
        return columns.badge(*columns.recipient_result(recipient, recipient.message))

    @admin.display(description=_("the server’s last reply"))
    def last_answer(self, recipient: Recipient) -> str:
        """Show code and text of the reply."""
        return columns.recipient_answer(recipient, recipient.message)


@admin.register(DeliveryAttempt)
class DeliveryAttemptAdmin(RecordAdmin):
    """Attempts, with the server's reply."""

    list_display = ("started_at", "message_page", "outcome_now", "what_happened", "phase", "peer")
    list_filter = (filters.AttemptOutcomeFilter, filters.AttemptErrorFilter)

    @admin.display(description=_("outcome"))
    def outcome_now(self, attempt: DeliveryAttempt) -> SafeString:
        """Show the outcome."""
        label = AttemptOutcome(attempt.outcome).label if attempt.outcome in AttemptOutcome.values else attempt.outcome
        return columns.badge(attempt.outcome, label)

    what_happened = staticmethod(columns.what_happened)


@admin.register(Attachment)
class AttachmentAdmin(PlumbingAdmin):
    """Attachments of messages; their content is downloaded from the message's page."""

    list_display = ("filename", "kind", "content_type", "size", "message_page")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may also read the content of messages."""
        return super().has_view_permission(request, obj) and may_read_content(request)


@admin.register(InboundMessage)
class InboundMessageAdmin(RecordAdmin):
    """Received messages: the headers that replies need."""

    list_display = ("subject", "sender", "account", "received_at")
    list_filter = ("account",)


@admin.register(PauseRecord)
class PauseRecordAdmin(RecordAdmin):
    """Pauses of accounts and of everything: by whom, why, from when to when."""

    list_display = ("whose", "reason", "by", "begun_at", "ended_at", "ended_by")
    list_select_related = ("account",)

    @admin.display(description=_("account"))
    def whose(self, record: PauseRecord) -> str:
        """Show the account, or that everything was paused."""
        return record.account.name if record.account else str(_("everything"))


@admin.register(AccountState)
class AccountStateAdmin(PlumbingAdmin):
    """Runtime state of accounts, written by workers; tokens are never shown."""

    list_display = (
        "account",
        "pause_reason",
        "paused_by",
        "paused_until",
        "connection_failures",
        "has_token",
        "access_token_expires_at",
    )

    @admin.display(description=_("access token"), boolean=True)
    def has_token(self, state: AccountState) -> bool:
        """Show whether an access token is stored."""
        return is_set(state, "access_token")


@admin.register(ConnectionSlot)
class ConnectionSlotAdmin(PlumbingAdmin):
    """Connection slots and their holders."""

    list_display = ("account", "number", "holder", "expires_at")


@admin.register(RateWindow)
class RateWindowAdmin(PlumbingAdmin):
    """Permits spent of each rate limit."""

    list_display = ("account", "limit_key", "spent")

    @admin.display(description=_("spent"))
    def spent(self, window: RateWindow) -> int:
        """Show the sum of the stored buckets."""
        return sum(window.counts)
