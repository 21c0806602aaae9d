"""Filters of the message list.

Each filter uses an index, because most rows of the table are sent messages: unsent messages are failed (a partial
index), pending (they have a next attempt) or sending (they have a lease).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from prx_email_django.models import OutboxMessage
from prx_email_django.models.conditions import AT_REST, FAILED, MAY_HAVE_BEEN_DELIVERED, NEEDS_PERSON, QUEUED, SENDING
from prx_email_django.states import WAITING, ErrorCode, Status
from prx_email_django.status.failures import texts_of_group

Messages = QuerySet[OutboxMessage]


class ChoiceFilter(admin.SimpleListFilter):
    """A filter of named choices, each with its label and its condition."""

    choices_by_name: Mapping[str, tuple[Any, Q]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the names and labels of the choices."""
        return [(name, label) for name, (label, _condition) in self.choices_by_name.items()]

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages of the chosen kind; all of them without a choice."""
        name = self.value()
        if name is None:
            return queryset
        return queryset.filter(self.choices_by_name[name][1]) if name in self.choices_by_name else queryset.none()


class StatusFilter(ChoiceFilter):
    """Filter by status: the four statuses, what is due, and the kinds of failed messages."""

    title = _("status")
    parameter_name = "status"
    choices_by_name = {
        **{status.value: (status.label, Q(status=status)) for status in Status},
        Status.PENDING.value: (Status.PENDING.label, QUEUED & Q(status=Status.PENDING)),
        Status.SENDING.value: (Status.SENDING.label, SENDING),
        "due": (_("due now"), QUEUED & Q(status__in=WAITING)),
        "needs_person": (_("failed, needs a person"), NEEDS_PERSON),
        "at_rest": (_("failed, at rest"), AT_REST),
        "waiting": (_("failed, will be tried again"), FAILED & Q(next_attempt_at__isnull=False)),
    }

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages of the chosen kind; what is due depends on the time."""
        found = super().queryset(request, queryset)
        return found.filter(next_attempt_at__lte=timezone.now()) if self.value() == "due" else found


class ReasonFilter(admin.SimpleListFilter):
    """The messages of one reason of the dashboard; it offers no choice of its own."""

    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the reason that is chosen: a filter without choices would be left out."""
        chosen = request.GET.get(self.parameter_name)
        return [(chosen, chosen)] if chosen else []

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages whose text folds to the reason."""
        folded = self.value()
        return queryset if folded is None else queryset.filter(last_error__in=texts_of_group(queryset, folded))


class UnknownOutcomeFilter(ChoiceFilter):
    """Filter for messages that may have been delivered."""

    title = _("outcome")
    parameter_name = "doubt"
    choices_by_name = {
        "yes": (_("may have been delivered"), MAY_HAVE_BEEN_DELIVERED),
        "held": (_("may have been delivered, at rest"), AT_REST & Q(attempts__gt=F("retries"))),
    }


class ErrorCodeFilter(ChoiceFilter):
    """Filter by the error code of the last attempt; on sent messages the only code is refused recipients."""

    title = _("error")
    parameter_name = "error"
    choices_by_name = {
        code.value: (
            code.label,
            Q(last_error_code=code) & (Q() if code is ErrorCode.RECIPIENTS_REFUSED else FAILED | SENDING),
        )
        for code in ErrorCode
    }


class PriorityFilter(ChoiceFilter):
    """Filter by priority: three ranges of the scale from −10 to 10."""

    title = _("priority")
    parameter_name = "priority"
    choices_by_name = {
        "high": (_("high (above 0)"), Q(priority__gt=0)),
        "normal": (_("normal (0)"), Q(priority=0)),
        "low": (_("low (below 0)"), Q(priority__lt=0)),
    }
