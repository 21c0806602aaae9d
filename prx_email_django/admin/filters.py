"""Filters of the message list.

Each filter uses an index, because most rows of the table are sent messages: unsent messages are failed (a partial
index), pending (they have a next attempt) or sending (they have a lease).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from prx_email_django.admin.base import CappedPaginator, are_near
from prx_email_django.admin.search import are_more_than_recent, recent
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.models.conditions import (
    AT_REST,
    FAILED,
    IN_DOUBT,
    IS_WAITING,
    MAY_HAVE_BEEN_DELIVERED,
    NEEDS_PERSON,
    QUEUED,
    SENDING,
)
from prx_email_django.states import AttemptOutcome, ErrorCode, Status
from prx_email_django.status.failures import texts_of_group

Messages = QuerySet[OutboxMessage]

#: A filter by attempts finds at most so many messages.
MAX_ATTEMPTS = 5_000


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
        "due": (_("due now"), IS_WAITING),
        "needs_person": (_("failed, needs a person"), NEEDS_PERSON),
        "at_rest": (_("failed, at rest"), AT_REST),
        "waiting": (_("failed, will be tried again"), FAILED & Q(next_attempt_at__isnull=False)),
    }

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages of the chosen kind; what is due depends on the time."""
        found = super().queryset(request, queryset)
        if self.value() == Status.SENT:
            return self._sent(request, found)
        return found.filter(next_attempt_at__lte=timezone.now()) if self.value() == "due" else found

    @staticmethod
    def _sent(request: HttpRequest, found: Messages) -> Messages:
        """Sent messages; only among the newest ones where the table is large, since no index lists sent messages.

        All are looked at where the list has one account, whose messages are few enough, and for an action on all.
        """
        is_whole = request.method == "POST" or "account__id__exact" in request.GET
        if is_whole or are_near(found.order_by("-pk"), CappedPaginator.cap):
            return found
        if are_more_than_recent():
            text = _(
                "Only sent messages among the newest 100 000 messages are shown. Choose an account to see older ones."
            )
            messages.warning(request, text)
        return found.filter(recent())


class AccountFilter(admin.RelatedFieldListFilter):
    """Messages of one account, by a condition with which the index of an account's messages serves the ordering too.

    With ``account_id = 4 ORDER BY id`` PostgreSQL walks along the primary key, through the newer rows of all others.
    """

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages of the chosen account; what is not one number is Django's."""
        match self.used_parameters:
            case {self.lookup_kwarg: [str() as pk]} if pk.isdecimal():
                return queryset.filter(account_id__gte=pk, account_id__lte=pk)
        found = super().queryset(request, queryset)
        return queryset if found is None else found


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
        "open": (_("may have been delivered, nobody has decided"), IN_DOUBT),
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

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages with the code; sent messages with refused recipients among the newest only."""
        found = super().queryset(request, queryset)
        return found.filter(recent()) if self.value() == ErrorCode.RECIPIENTS_REFUSED else found


class PriorityFilter(ChoiceFilter):
    """Filter by priority: three ranges of the scale from −10 to 10; no index has it, so only newest messages count."""

    title = _("priority, newest 100 000 messages")
    parameter_name = "priority"
    choices_by_name = {
        "high": (_("high (above 0)"), Q(priority__gt=0)),
        "normal": (_("normal (0)"), Q(priority=0)),
        "low": (_("low (below 0)"), Q(priority__lt=0)),
    }

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the newest messages of the chosen kind."""
        found = super().queryset(request, queryset)
        return found if self.value() is None else found.filter(recent())


class AttemptOutcomeFilter(ChoiceFilter):
    """Filter of the list of attempts by outcome, among the newest attempts: no index has it."""

    title = _("outcome, newest 100 000 attempts")
    parameter_name = "outcome"
    choices_by_name = {outcome.value: (outcome.label, Q(outcome=outcome)) for outcome in AttemptOutcome}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the newest attempts of the chosen kind."""
        found = super().queryset(request, queryset)
        return found if self.value() is None else found.filter(recent(DeliveryAttempt))


class AttemptErrorFilter(AttemptOutcomeFilter):
    """Filter of the list of attempts by error code, as ``AttemptOutcomeFilter``."""

    title = _("error, newest 100 000 attempts")
    parameter_name = "error"
    choices_by_name = {code.value: (code.label, Q(error_code=code)) for code in ErrorCode}


class WrittenFilter(admin.SimpleListFilter):
    """A filter whose value a person writes."""

    template = "admin/prx_email_django/includes/written_filter.html"
    #: Type of the input element.
    input_type = "text"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return one choice, because a filter without choices would be left out."""
        return [("", "")]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield what the template needs: the value, the other parameters, and the link that removes the filter."""
        without = changelist.get_query_string(remove=[str(self.parameter_name)])
        yield {
            "name": self.parameter_name,
            "value": self.value() or "",
            "others": [pair for pair in _parameters(changelist) if pair[0] != self.parameter_name],
            "without": without,
            # What a theme's own template needs.
            "selected": True,
            "query_string": without,
            "display": self.value() or _("All"),
        }

    def queryset(self, request: HttpRequest, queryset: Messages) -> Messages:
        """Return the messages that match what was written; blanks count as nothing."""
        written = (self.value() or "").strip()
        return self.matching(queryset, written) if written else queryset

    def matching(self, queryset: Messages, written: str) -> Messages:
        """Return the messages that match."""
        raise NotImplementedError


def _parameters(changelist: ChangeList) -> list[tuple[str, Any]]:
    """The parameters of a list that another filter keeps: the filters and the search."""
    filters = [(name, value) for name, values in changelist.filter_params.items() for value in values]
    return [*filters, (SEARCH_VAR, changelist.query)] if changelist.query else filters


class TextFilter(WrittenFilter):
    """Unsent messages whose last error contains a text: failed ones and claims have an index."""

    title = _("text of the last error")
    parameter_name = "text"

    def matching(self, queryset: Messages, written: str) -> Messages:
        """Match any part of the text, in any case."""
        return queryset.filter(FAILED | SENDING, last_error__icontains=written)


class TagFilter(WrittenFilter):
    """Messages of one tag, by the index of tags."""

    title = _("tag")
    parameter_name = "tag"

    def matching(self, queryset: Messages, written: str) -> Messages:
        """Match the whole tag."""
        return queryset.filter(tag=written)


class AttemptFilter(WrittenFilter):
    """Messages that have an attempt with something; among the newest attempts, because no index has it."""

    #: Lookup of ``DeliveryAttempt``.
    lookup = ""

    def matching(self, queryset: Messages, written: str) -> Messages:
        """Match by the attempts, read once: a plan that joins may read the whole table of messages."""
        attempts = DeliveryAttempt.objects.filter(recent(DeliveryAttempt), **{self.lookup: written})
        numbers = set(attempts.order_by("-pk").values_list("message_id", flat=True)[:MAX_ATTEMPTS])
        return queryset.filter(pk__in=numbers)


class SmtpCodeFilter(AttemptFilter):
    """Messages with an attempt that ended with this SMTP code."""

    title = _("SMTP code of an attempt")
    parameter_name = "smtp_code"
    lookup = "smtp_code"
    input_type = "number"

    def matching(self, queryset: Messages, written: str) -> Messages:
        """Match a number; anything else matches nothing."""
        is_code = written.isascii() and written.isdecimal() and len(written) <= len("550")
        return super().matching(queryset, written) if is_code else queryset.none()


class EnhancedCodeFilter(AttemptFilter):
    """Messages with an attempt that ended with this enhanced status code (RFC 3463)."""

    title = _("enhanced code of an attempt")
    parameter_name = "enhanced_code"
    lookup = "enhanced_code"


class PeerFilter(AttemptFilter):
    """Messages with an attempt at a server whose name or address contains a text."""

    title = _("server of an attempt")
    parameter_name = "peer"
    lookup = "peer__icontains"
