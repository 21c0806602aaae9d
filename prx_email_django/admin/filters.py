"""Filters of the message list.

Each filter uses an index, because most rows of the table are sent messages: unsent messages are failed (a partial
index), pending (they have a next attempt) or sending (they have a lease).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from prx_email_django.models import OutboxMessage
from prx_email_django.states import ErrorCode, Status

Messages = QuerySet[OutboxMessage]

FAILED = Q(status=Status.FAILED)
SENDING = Q(status=Status.SENDING, claim_expires_at__isnull=False)
AT_REST = FAILED & Q(next_attempt_at__isnull=True)
#: A message that was attempted and released is failed, so a pending message has no attempts.
UNKNOWN = (FAILED | SENDING) & Q(attempts__gt=F("retries"))


class StatusFilter(admin.SimpleListFilter):
    """Filter by status."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the four statuses, and the two kinds of failed messages."""
        return [*Status.choices, ("at_rest", _("failed, at rest")), ("waiting", _("failed, will be tried again"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages with the chosen status."""
        match self.value():
            case None:
                return queryset
            case "at_rest":
                return queryset.filter(AT_REST)
            case "waiting":
                return queryset.filter(FAILED, next_attempt_at__isnull=False)
            case Status.SENDING:
                return queryset.filter(SENDING)
            case status:
                return queryset.filter(status=status)


class UnknownOutcomeFilter(admin.SimpleListFilter):
    """Filter for messages that may have been delivered."""

    title = _("outcome")
    parameter_name = "doubt"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return all of them, or those at rest."""
        return [("yes", _("may have been delivered")), ("held", _("may have been delivered, at rest"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return messages with more attempts than known failures."""
        match self.value():
            case "yes":
                return queryset.filter(UNKNOWN)
            case "held":
                return queryset.filter(AT_REST, attempts__gt=F("retries"))
        return queryset


class ErrorCodeFilter(admin.SimpleListFilter):
    """Filter by the error code of the last attempt."""

    title = _("error")
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return all error codes."""
        return ErrorCode.choices

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return messages whose last error has this code; on sent messages the only code is refused recipients."""
        code = self.value()
        if code is None:
            return queryset
        found = queryset.filter(last_error_code=code)
        return found if code == ErrorCode.RECIPIENTS_REFUSED else found.filter(FAILED | SENDING)


class PriorityFilter(admin.SimpleListFilter):
    """Filter by priority."""

    title = _("priority")
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return three ranges of the scale from −10 to 10."""
        return [("high", _("high (above 0)")), ("normal", _("normal (0)")), ("low", _("low (below 0)"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return messages in the chosen range."""
        match self.value():
            case "high":
                return queryset.filter(priority__gt=0)
            case "normal":
                return queryset.filter(priority=0)
            case "low":
                return queryset.filter(priority__lt=0)
        return queryset
