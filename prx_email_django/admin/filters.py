"""Filters of the message list.

Each one is written so that an index narrows it, since the table is mostly sent messages: unsent ones are failed (a
partial index), pending (they have a next attempt) or sending (they have a lease).
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
#: A released message that was attempted is failed, so a pending one has no attempts.
DOUBTFUL = (FAILED | SENDING) & Q(attempts__gt=F("retries"))


class StatusFilter(admin.SimpleListFilter):
    """Where the message stands."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """The four statuses, and what a person looks for among the failed ones."""
        return [*Status.choices, ("at_rest", _("failed, at rest")), ("waiting", _("failed, will be tried again"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """The messages in that status."""
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


class DoubtFilter(admin.SimpleListFilter):
    """Messages of which nobody knows whether they arrived."""

    title = _("outcome")
    parameter_name = "doubt"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Those in doubt, and those of them that wait for a person."""
        return [("yes", _("may have been delivered")), ("held", _("may have been delivered, at rest"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Messages with more attempts than known failures."""
        match self.value():
            case "yes":
                return queryset.filter(DOUBTFUL)
            case "held":
                return queryset.filter(AT_REST, attempts__gt=F("retries"))
        return queryset


class ErrorCodeFilter(admin.SimpleListFilter):
    """Why the last attempt failed."""

    title = _("error")
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All error codes."""
        return ErrorCode.choices

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Messages whose last error has this code; a sent one has none but refused recipients."""
        code = self.value()
        if code is None:
            return queryset
        found = queryset.filter(last_error_code=code)
        return found if code == ErrorCode.RECIPIENTS_REFUSED else found.filter(FAILED | SENDING)


class PriorityFilter(admin.SimpleListFilter):
    """How urgent it is."""

    title = _("priority")
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Three classes of the scale from −10 to 10."""
        return [("high", _("high (above 0)")), ("normal", _("normal (0)")), ("low", _("low (below 0)"))]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Messages of that class."""
        match self.value():
            case "high":
                return queryset.filter(priority__gt=0)
            case "normal":
                return queryset.filter(priority=0)
            case "low":
                return queryset.filter(priority__lt=0)
        return queryset
