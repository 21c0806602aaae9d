"""Buttons and bulk actions that pause and resume accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from prx_email_django import api
from prx_email_django.admin.actions import selected_rows
from prx_email_django.admin.base import OperatorMixin, log, username
from prx_email_django.admin.bulk import tell_silence
from prx_email_django.admin.columns import ago
from prx_email_django.admin.forms import PauseForm
from prx_email_django.models import Account, AccountState, PauseRecord
from prx_email_django.models.activity import BY_WORKER
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.status.facts import account_facts
from prx_email_django.status.reasons import account_sentence
from prx_email_django.status.stored_words import shown
from prx_email_django.store.db import clock_for

#: Newest pauses on the page of an account, and of everything.
MAX_PAUSES = 20
#: Accounts of which a notice says what keeps them from sending.
MAX_SAID = 5
#: Codes of the pauses that workers set, in words.
CODES: Mapping[str, Promise] = {
    Trouble.CONNECTION: gettext_lazy("no connection"),
    Trouble.TLS: gettext_lazy("TLS error"),
    Trouble.AUTH: gettext_lazy("authentication refused"),
    Trouble.TOKEN: gettext_lazy("no access token"),
    Trouble.QUOTA: gettext_lazy("quota used up"),
    Trouble.REFUSING: gettext_lazy("every message refused"),
    Trouble.CONFIGURATION: gettext_lazy("account misconfigured"),
}


def pause_lines(records: QuerySet[PauseRecord]) -> list[dict[str, Any]]:
    """Return the newest pauses as the history shows them."""
    now = timezone.now()
    return [
        {
            "reason": record.reason if record.code == "person" else shown(record.reason),
            "code": CODES.get(record.code, ""),
            "by": _("worker") if record.by == BY_WORKER else record.by,
            "begun": ago(record.begun_at, now),
            "ended": ago(record.ended_at, now) if record.ended_at else "",
            "until": ago(record.until, now) if record.until else "",
            "is_over": record.until is not None and record.until <= now,
            "ended_by": _("worker") if record.ended_by == BY_WORKER else record.ended_by,
        }
        for record in records[:MAX_PAUSES]
    ]


class PauseActionsMixin(OperatorMixin):
    """Views ``/<id>/pause/`` and ``/<id>/resume/``, and bulk actions for the same operations."""

    actions = ("pause_selected", "resume_selected")

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the buttons before Django's own."""
        return [
            path("<int:pk>/pause/", self.guarded(self.pause_view), name=self.url_name("pause")),
            path("<int:pk>/resume/", self.guarded(self.resume_view), name=self.url_name("resume")),
            *super().get_urls(),
        ]

    def pause_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Pause one account; the form must contain a reason."""
        account = self.operable(request, pk)
        form = PauseForm(request.POST)
        if form.is_valid():
            self._pause(request, [account], form)
        else:
            messages.error(request, form.first_error())
        return self.back_to("change", pk)

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End the pause of one account, whether a person or a worker set it."""
        self._resume(request, [self.operable(request, pk)])
        return self.back_to("change", pk)

    @admin.action(description=gettext_lazy("Pause the selected accounts"), permissions=["operate"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        """Ask for the reason, then pause the accounts."""
        form = PauseForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            self._pause(request, list(queryset), form)
            return None
        return self.own_page(
            request,
            "pause_accounts.html",
            media=self.media + form.media,
            title=_("Pause accounts"),
            form=form,
            accounts=queryset,
            **selected_rows(request),
        )

    @admin.action(description=gettext_lazy("Resume the selected accounts"), permissions=["operate"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        """End the pauses of the accounts, whether a person or a worker set them."""
        self._resume(request, list(queryset))

    def _pause(self, request: HttpRequest, accounts: Sequence[Account], form: PauseForm) -> None:
        permitted = [account for account in accounts if self.has_operate_permission(request, account)]
        for account in permitted:
            api.pause_outbox(account, **form.cleaned_data, by=username(request))
        text = ngettext("%(count)d account is paused.", "%(count)d accounts are paused.", len(permitted))
        self._show_result(
            request, permitted, text % {"count": len(permitted)}, _("Paused."), len(accounts) - len(permitted)
        )

    def _resume(self, request: HttpRequest, accounts: Sequence[Account]) -> None:
        permitted = [account for account in accounts if self.has_operate_permission(request, account)]
        states = AccountState.objects.filter(account_id__in=[account.pk for account in permitted]).exclude(
            pause_reason=""
        )
        paused = set(states.values_list("account_id", flat=True))
        resumed = [account for account in permitted if account.pk in paused]
        for account in resumed:
            api.resume_outbox(account, by=username(request))
        text = ngettext("%(count)d account is resumed.", "%(count)d accounts are resumed.", len(resumed))
        self._show_result(
            request, resumed, text % {"count": len(resumed)}, _("Resumed."), len(accounts) - len(permitted)
        )
        now = clock_for(None).running
        facts = account_facts(resumed[:MAX_SAID], now=now)
        for account in resumed[:MAX_SAID]:
            messages.info(request, f"{account.name}: {account_sentence(facts[account.pk], now=now)}.")
        if resumed:
            tell_silence(request)
        if len(resumed) < len(permitted):
            idle = len(permitted) - len(resumed)
            text = ngettext("%(count)d account was not paused.", "%(count)d accounts were not paused.", idle)
            messages.warning(request, text % {"count": idle})

    def _show_result(
        self, request: HttpRequest, changed: Sequence[Account], done: str, logged: str, forbidden: int
    ) -> None:
        if changed:
            log(request, changed, logged)
            messages.success(request, done)
        if forbidden:
            text = ngettext("%(count)d refused: not permitted.", "%(count)d refused: not permitted.", forbidden)
            messages.warning(request, text % {"count": forbidden})
