"""The operator's page: what is wrong, where, since when, and the button that mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django import api
from prx_email_django.admin import columns
from prx_email_django.admin.adoption import AdoptionMixin
from prx_email_django.admin.base import FactsAdminMixin, ModelAdmin, page_url, page_url_if_any, username
from prx_email_django.admin.bulk import BulkPage, Selection, selection_of, tell_silence
from prx_email_django.admin.charts import DAYS, by_day, by_hour
from prx_email_django.admin.operations import OPERATIONS
from prx_email_django.models import Account, Outbox, OutboxMessage, OutboxState, PauseRecord
from prx_email_django.models.conditions import IN_DOUBT
from prx_email_django.states import ErrorCode
from prx_email_django.status import stored_words
from prx_email_django.status.advice import advice
from prx_email_django.status.counts import sums_by_hour
from prx_email_django.status.failures import FailureGroup, failure_groups, messages_of_group
from prx_email_django.status.figures import outbox_status
from prx_email_django.status.overview import Cause, is_alive, is_lost, reached_limits, span, verdict_of, worker_sentence
from prx_email_django.store.db import clock_for

#: Reasons that the page shows.
MAX_REASONS = 10
#: Seconds after which ``?live=1`` loads the page again.
LIVE = 10
#: Operations on all messages of one reason, and on all that may have been delivered, with the labels of their buttons.
GROUP_OPERATIONS = {"retry": gettext_lazy("Retry all %(count)d"), "dismiss": gettext_lazy("Dismiss all %(count)d")}
DOUBT_OPERATIONS = {"confirm": gettext_lazy("Confirm all %(count)d"), "retry": GROUP_OPERATIONS["retry"]}


@dataclass(frozen=True, slots=True)
class ShownCause:
    """A cause with the addresses of its buttons; an empty one is not shown."""

    cause: Cause
    open_url: str = ""
    resume_url: str = ""
    hint: str = ""
    #: Label and address of each further button.
    buttons: Sequence[tuple[str, str]] = ()


class OutboxAdminMixin(AdoptionMixin, FactsAdminMixin):
    """The page, and the buttons of its causes and reasons."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may view messages."""
        opts = OutboxMessage._meta
        return any(request.user.has_perm(f"{opts.app_label}.{verb}_outboxmessage") for verb in ("view", "change"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the index shows the page."""
        return self.has_view_permission(request)

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may change messages."""
        return request.user.has_perm(f"{OutboxMessage._meta.app_label}.change_outboxmessage")

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the page and its buttons; there is no page of one row."""
        return [
            path("", self.admin_site.admin_view(self.changelist_view), name=self.url_name("changelist")),
            path("resume/", self.guarded(self.resume_view), name=self.url_name("resume")),
            path("resume/<int:pk>/", self.guarded(self.resume_view), name=self.url_name("resume_account")),
            path("doubt/<str:name>/", self.guarded(self.doubt_view), name=self.url_name("doubt")),
            path("reason/<str:name>/", self.guarded(self.reason_view), name=self.url_name("reason")),
            path("adopt/", self.guarded(self.adopt_view), name=self.url_name("adopt")),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the page; ``?live=1`` loads it again every few seconds."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = clock_for(None).running
        figures = outbox_status(now=now)
        verdict = verdict_of(figures, now=now)
        reasons, is_cut = failure_groups(limit=MAX_REASONS)
        sums = sums_by_hour(since=now - timedelta(days=DAYS + 1))
        context = {
            "verdict": verdict,
            "causes": [self._shown(request, cause, figures) for cause in verdict.causes],
            "zone": columns.zone_in_words(),
            "tiles": self._tiles(figures),
            "charts": [by_hour(sums, now=now), by_day(sums, now=now)],
            "reasons": [self._reason(request, reason, now) for reason in reasons],
            "reasons_are_cut": is_cut,
            "accounts": [self._account(account, figures, now) for account in figures["accounts"]],
            "workers": [
                worker
                | {"is_alive": is_alive(worker, now=now), "is_lost": is_lost(worker, now=now)}
                | _times(worker, "started_at", "last_seen_at", now=now)
                for worker in figures["workers"][:MAX_REASONS]
            ],
            "pauses_url": page_url_if_any(self, PauseRecord, "changelist"),
            "search_url": page_url_if_any(self, OutboxMessage, "changelist"),
            "state_url": page_url_if_any(self, OutboxState, "changelist"),
            "live": LIVE if request.GET.get("live") else 0,
            **(extra_context or {}),
        }
        return self.own_page(request, "dashboard.html", title=_("Dashboard"), **context)

    def resume_view(self, request: HttpRequest, pk: int | None = None) -> HttpResponse:
        """End the pause of one account, or of everything."""
        model = OutboxState if pk is None else Account
        if not request.user.has_perm(f"{model._meta.app_label}.change_{model._meta.model_name}"):
            raise PermissionDenied
        account = None if pk is None else Account.objects.filter(pk=pk).first()
        if pk is not None and account is None:
            raise Http404
        api.resume_outbox(account, by=username(request))
        now = clock_for(None).running
        figures = outbox_status(now=now)
        why = next((row["why"] for row in figures["accounts"] if account and row["id"] == account.pk), "")
        name = account.name if account else _("everything")
        messages.success(request, _("%(name)s is resumed: %(why)s.") % {"name": name, "why": why or _("may send")})
        tell_silence(request, figures, now)
        return HttpResponseRedirect(page_url(self, Outbox, "changelist"))

    def doubt_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Confirm or retry all messages that may have been delivered, after a page that says how many these are."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        if name not in DOUBT_OPERATIONS:
            raise Http404
        selection = selection_of(OutboxMessage.objects.filter(IN_DOUBT), {})
        back = page_url(self, Outbox, "changelist")
        return BulkPage(self, request, OPERATIONS[name], selection, back=back).response()

    def reason_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Retry or dismiss all messages of one reason, after a page that says which these are."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        if name not in GROUP_OPERATIONS:
            raise Http404
        account_id, code, folded = (request.POST.get(field, "") for field in ("account", "code", "folded"))
        if not account_id.isdecimal():
            raise Http404
        selection = Selection(
            ids=lambda after: messages_of_group(int(account_id), code, folded, after=after),
            fields={"account": account_id, "code": code, "folded": folded},
        )
        back = page_url(self, Outbox, "changelist")
        return BulkPage(self, request, OPERATIONS[name], selection, back=back).response()

    def _shown(self, request: HttpRequest, cause: Cause, figures: dict[str, Any]) -> ShownCause:
        # What a person wrote as the reason of a pause needs no advice.
        hint = cause.hint or ("" if cause.by_person else advice(cause.stored or cause.text))
        shown = ShownCause(cause, hint=hint)
        if cause.of_messages == "doubt":
            buttons = self._buttons(request, DOUBT_OPERATIONS, "doubt", figures["in_doubt"])
            return replace(shown, open_url=self._messages(doubt="open"), buttons=buttons)
        if cause.of_messages:
            return replace(shown, open_url=self._messages(status=cause.of_messages))
        if cause.of_workers:
            return replace(shown, open_url="#outbox-workers")
        if cause.can_adopt:
            return replace(shown, buttons=self.adopt_buttons(request))
        if not cause.account:
            may_resume = cause.can_resume and request.user.has_perm(f"{self.opts.app_label}.change_outboxstate")
            return replace(shown, resume_url=page_url(self, Outbox, "resume") if may_resume else "")
        pk = next(account["id"] for account in figures["accounts"] if account["name"] == cause.account)
        may_resume = cause.can_resume and request.user.has_perm(f"{self.opts.app_label}.change_account")
        return replace(
            shown,
            open_url=page_url_if_any(self, Account, "change", pk),
            resume_url=page_url(self, Outbox, "resume_account", pk) if may_resume else "",
        )

    def _tiles(self, figures: dict[str, Any]) -> list[dict[str, Any]]:
        tiles = (
            ("due", _("due now"), {"status": "due"}),
            ("deferred", _("will be tried again"), {"status": "waiting"}),
            ("sending", _("being sent"), {"status": "sending"}),
            ("needs_person", _("need a person"), {"status": "needs_person"}),
        )
        return [
            {"name": name, "label": label, "count": figures[name], "url": self._messages(**query)}
            for name, label, query in tiles
        ]

    def _account(self, account: dict[str, Any], figures: dict[str, Any], now: datetime) -> dict[str, Any]:
        state, label = account_state(account, figures, now=now)
        why = worker_sentence(figures, now) if label == _("no worker") else account["why"]
        return {
            **account,
            "why": why,
            **_times(account, "token_expires_at", now=now),
            "state": state,
            "label": label,
            "oldest": _age(account["oldest_due_seconds"], now),
            "url": page_url_if_any(self, Account, "change", account["id"]),
            "due_url": self._messages(status="due", account__id__exact=account["id"]),
        }

    def _reason(self, request: HttpRequest, reason: FailureGroup, now: datetime) -> dict[str, Any]:
        query = {"status": "needs_person", "account__id__exact": reason.account_id, "reason": reason.folded}
        buttons = self._buttons(request, GROUP_OPERATIONS, "reason", reason.count)
        label = ErrorCode(reason.code).label if reason.code in ErrorCode.values else reason.code
        url = self._messages(**query, **({"error": reason.code} if reason.code else {}))
        first, last = columns.ago(reason.first, now), columns.ago(reason.last, now)
        return {
            "reason": reason,
            "sample": stored_words.shown(reason.sample),
            "label": label,
            "url": url,
            "buttons": buttons,
            "first": first,
            "last": last,
        }

    def _buttons(
        self, request: HttpRequest, labels: Mapping[str, Promise], page: str, count: int
    ) -> list[tuple[str, str]]:
        if not self.has_operate_permission(request):
            return []
        return [(str(label) % {"count": count}, page_url(self, Outbox, page, name)) for name, label in labels.items()]

    def _messages(self, **query: Any) -> str:
        url = page_url_if_any(self, OutboxMessage, "changelist")
        return f"{url}?{urlencode(query)}" if url else ""


@admin.register(Outbox)
class OutboxAdmin(OutboxAdminMixin, ModelAdmin):
    """Registers the page in the admin site."""


def account_state(account: Mapping[str, Any], figures: Mapping[str, Any], *, now: datetime) -> tuple[str, str]:
    """Return the state of an account (which sets the colour) and its label."""
    if not account["is_active"]:
        return "rest", _("off")
    if not figures["instance_matches"]:
        return "failed", _("stopped")
    if account["pause_code"] or figures["paused"]:
        return "failed", _("paused")
    if account["problem"] or account["last_trouble"] or account["refused_in_a_row"]:
        return "unknown", _("failing")
    if reached_limits(account):
        return "deferred", _("limited")
    if account["due"] and worker_sentence(figures, now):
        return "unknown", _("no worker")
    return "sent", _("sending") if account["connections"] else _("ready")


def _age(seconds: float | None, now: datetime) -> SafeString | str:
    """Return for how long something has waited, with the exact time on hover."""
    return "" if seconds is None else columns.exactly(now - timedelta(seconds=seconds), span(seconds))


def _times(row: dict[str, Any], *names: str, now: datetime) -> dict[str, str]:
    """Return these instants of the figures as they are shown."""
    return {name: columns.ago(datetime.fromisoformat(row[name]), now) if row[name] else "–" for name in names}
