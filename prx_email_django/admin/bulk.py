"""An operation on all messages of a condition: first a page that says which these are, then batches until time is up.

No part of a cut list is ever taken for the whole: the condition is asked again for each batch, in the order of the
primary keys, and a request that has run for long ends with a page that says how far it came and goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Any

from django.contrib import messages
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django.admin.base import UNDERSTOOD, OperatorMixin, log
from prx_email_django.admin.operations import CONFIRM, REFUSALS, Operation
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.conditions import FAILED, MAY_HAVE_BEEN_DELIVERED, QUEUED, SET_ASIDE
from prx_email_django.status.facts import account_facts
from prx_email_django.status.figures import outbox_status
from prx_email_django.status.overview import nobody_works, stopped, worker_sentence
from prx_email_django.status.reasons import lasting_obstacle
from prx_email_django.store.db import clock_for

#: Messages of one batch.
BATCH = 500
#: Seconds for which one request changes messages; the next one goes on where it stopped.
BUDGET = 15.0
#: POST field: a person also wants what was put at rest on purpose or for its age.
REVIVE = "revive"
#: POST fields that carry a run over several requests.
AFTER, CHANGED = "after", "changed"
#: Columns of which an operation changes at least one.
_TOUCHED = ("updated_at", "dismissed_at")


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages of a condition: their primary keys above a given one, in ascending order."""

    ids: Callable[[int], Iterator[int]]
    #: Hidden fields by which the next request knows the condition.
    fields: Mapping[str, Any] = field(default_factory=dict)


def selection_of(rows: QuerySet[OutboxMessage], fields: Mapping[str, Any]) -> Selection:
    """The messages of a queryset, whatever its order."""

    def ids(after: int) -> Iterator[int]:
        ordered = rows.order_by("pk").values_list("pk", flat=True)
        while chunk := list(ordered.filter(pk__gt=after)[:BATCH]):
            yield from chunk
            after = chunk[-1]

    return Selection(ids, fields)


@dataclass(slots=True)
class Summary:
    """What a person should know of the messages before they are changed."""

    count: int = 0
    doubtful: int = 0
    set_aside: int = 0
    #: Name of each paused account -> how many of the messages are its.
    paused: dict[str, int] = field(default_factory=dict)
    #: Of each other account that sends nothing now: its name, how many of the messages are its, and why.
    held: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def are_all_held(self) -> bool:
        """Whether none of the messages would be sent now."""
        return sum(self.paused.values()) + sum(count for _name, count, _why in self.held) == self.count


def summary_of(selection: Selection) -> Summary:
    """Count the messages, those that may have been delivered, were set aside, or belong to an account that waits."""
    found, of_accounts = Summary(), Counter[int]()
    for ids in _batches(selection.ids(0)):
        rows = OutboxMessage.objects.filter(pk__in=ids).order_by()
        counts = rows.aggregate(
            all=Count("pk"),
            doubtful=Count("pk", filter=FAILED & Q(attempts__gt=F("retries"))),
            set_aside=Count("pk", filter=SET_ASIDE),
        )
        found.count += counts["all"]
        found.doubtful += counts["doubtful"]
        found.set_aside += counts["set_aside"]
        of_accounts.update(dict(rows.values_list("account_id").annotate(Count("pk"))))
    _add_accounts(found, of_accounts)
    return found


def _add_accounts(found: Summary, counts: Mapping[int, int]) -> None:
    """Say which accounts send nothing now; what stops all of them is said once, elsewhere."""
    now = clock_for(None).running
    for pk, facts in account_facts(Account.objects.filter(pk__in=counts).order_by("name"), now=now).items():
        if facts.pause is not None:
            found.paused[facts.name] = counts[pk]
        elif why := lasting_obstacle(replace(facts, outbox=None, is_copy=False), now=now):
            found.held.append((facts.name, counts[pk], why))


class BulkPage:
    """One request of an operation on a selection."""

    def __init__(
        self, page: OperatorMixin, request: HttpRequest, operation: Operation, selection: Selection, *, back: str
    ) -> None:
        self.page = page
        self.request = request
        self.operation = operation
        self.selection = selection
        self.back = back
        self.revives = REVIVE in request.POST
        #: Confirmed messages of which some recipients have not received a copy.
        self.open = 0

    def response(self) -> HttpResponse:
        """Ask, or change as many as time allows and tell how far this came."""
        if UNDERSTOOD not in self.request.POST:
            return self._ask()
        after, changed = (_number(self.request.POST.get(name, "")) for name in (AFTER, CHANGED))
        refused: Counter[str] = Counter()
        until = monotonic() + BUDGET
        for ids in _batches(self.selection.ids(after)):
            if monotonic() >= until:
                self._tell(changed, refused)
                return self._go_on(after, changed)
            report = self._apply(ids)
            changed += report[0]
            refused += report[1]
            after = ids[-1]
        self._tell(changed, refused)
        return HttpResponseRedirect(self.back)

    def _ask(self) -> HttpResponse:
        summary = summary_of(self.selection)
        if not summary.count:
            messages.warning(self.request, _("Nothing was changed: no message matches any more."))
            return HttpResponseRedirect(self.back)
        now = clock_for(None).running
        figures = outbox_status(now=now) if self.operation.sends_again else None
        warnings = [text for text in (*stopped(figures), nobody_works(figures, now)) if text] if figures else []
        is_held = bool(warnings) or summary.are_all_held
        return self.page.own_page(
            self.request,
            "bulk.html",
            warnings=warnings,
            title=self.operation.label_if_held if is_held and self.operation.sends_again else self.operation.label,
            is_held=is_held and self.operation.sends_again,
            operation=self.operation,
            summary=summary,
            fields=self._fields(),
            understood=UNDERSTOOD,
            revive=REVIVE if self.operation.sends_again and summary.set_aside else "",
            back=self.back,
        )

    def _go_on(self, after: int, changed: int) -> HttpResponse:
        fields = [*self._fields(), (UNDERSTOOD, "yes"), (AFTER, after), (CHANGED, changed)]
        if self.revives:
            fields.append((REVIVE, "yes"))
        left = sum(1 for _pk in self.selection.ids(after))
        return self.page.own_page(
            self.request,
            "bulk_progress.html",
            title=self.operation.label,
            changed=changed,
            left=left,
            fields=fields,
            back=self.back,
        )

    def _fields(self) -> list[tuple[str, Any]]:
        pairs = ((name, value) for name, value in self.selection.fields.items())
        return [(name, single) for name, value in pairs for single in (value if isinstance(value, list) else [value])]

    def _apply(self, ids: Sequence[int]) -> tuple[int, Counter[str]]:
        rows = OutboxMessage.objects.filter(pk__in=ids)
        if self.operation.sends_again and not self.revives:
            rows = rows.exclude(SET_ASIDE)
        found = list(rows.only("pk", "subject", "account_id", *_TOUCHED))
        permitted = [row for row in found if self.page.has_operate_permission(self.request, row)]
        doubtful = self._in_doubt(ids) if self.operation is CONFIRM else []
        report = self.operation.apply([row.pk for row in permitted])
        refused = Counter(report.refused)
        refused["forbidden"] += len(found) - len(permitted)
        refused["set_aside"] += len(ids) - len(found)
        if doubtful:
            settled = ~MAY_HAVE_BEEN_DELIVERED
            self.open += OutboxMessage.objects.filter(FAILED & QUEUED & settled, pk__in=doubtful).count()
        if report.changed:
            log(self.request, _changed(permitted, report.changed), str(self.operation.log))
        return report.changed, +refused

    @staticmethod
    def _in_doubt(ids: Sequence[int]) -> list[int]:
        rows = OutboxMessage.objects.filter(FAILED & MAY_HAVE_BEEN_DELIVERED, pk__in=ids)
        return list(rows.values_list("pk", flat=True))

    def _tell(self, changed: int, refused: Counter[str]) -> None:
        if changed:
            messages.success(self.request, str(self.operation.done % {"count": changed}))
        if self.open:
            text = ngettext(
                "%(count)d of them has not reached all its recipients: it is due for the others.",
                "%(count)d of them have not reached all their recipients: they are due for the others.",
                self.open,
            )
            messages.warning(self.request, text % {"count": self.open})
        tell_refused(self.request, refused)
        if changed and self.operation.sends_again:
            tell_obstacles(self.request)


def _changed(rows: Sequence[OutboxMessage], count: int) -> Sequence[OutboxMessage]:
    """Return those that the operation changed: the history of a refused one must not say what did not happen."""
    if count == len(rows):
        return rows
    after = OutboxMessage.objects.only("pk", *_TOUCHED).in_bulk([row.pk for row in rows])
    return [
        row for row in rows if any(getattr(row, name) != getattr(after.get(row.pk), name, None) for name in _TOUCHED)
    ]


def tell_obstacles(request: HttpRequest) -> None:
    """Show what keeps due messages from being sent now: what their accounts wait for, and that no worker lives."""
    now = clock_for(None).running
    figures = outbox_status(now=now)
    everything = list(stopped(figures))
    for text in everything:
        messages.warning(request, text)
    due = [account["id"] for account in figures["accounts"] if account["due"] and not everything]
    for facts in account_facts(Account.objects.filter(pk__in=due).order_by("name"), now=now).values():
        if why := lasting_obstacle(facts, now=now):
            messages.warning(request, f"{facts.name}: {why}.")
    tell_silence(request, figures, now)


def tell_silence(request: HttpRequest, figures: Mapping[str, Any] | None = None, now: datetime | None = None) -> None:
    """Show that something is due and no worker lives."""
    moment = now or clock_for(None).running
    if quiet := worker_sentence(figures or outbox_status(now=moment), moment):
        messages.warning(request, quiet)


def tell_refused(request: HttpRequest, refused: Mapping[str, int]) -> None:
    """Show how many messages were refused, and why."""
    if not refused:
        return
    reasons = ", ".join(f"{count} {REFUSALS.get(code, code)}" for code, count in sorted(refused.items()))
    total = sum(refused.values())
    messages.warning(request, _("%(total)d refused: %(reasons)s.") % {"total": total, "reasons": reasons})


def _batches(ids: Iterable[int]) -> Iterator[list[int]]:
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
