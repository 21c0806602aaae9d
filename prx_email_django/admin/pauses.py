"""Buttons and bulk actions that pause and resume accounts."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from prx_email_django import api
from prx_email_django.admin.actions import log
from prx_email_django.admin.base import OperatorMixin
from prx_email_django.admin.forms import PauseForm
from prx_email_django.models import Account, AccountState


class PauseActionsMixin(OperatorMixin):
    """Views ``/<id>/pause/`` and ``/<id>/resume/``, and bulk actions for the same operations."""

    actions = ("pause_selected", "resume_selected")

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the buttons before Django's own."""
        guarded, name = self.admin_site.admin_view, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("<int:pk>/pause/", guarded(require_POST(self.pause_view)), name=f"{name}_pause"),
            path("<int:pk>/resume/", guarded(require_POST(self.resume_view)), name=f"{name}_resume"),
            *super().get_urls(),
        ]

    def pause_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Pause one account; the form must contain a reason."""
        account = self._operable(request, pk)
        form = PauseForm(request.POST)
        if form.is_valid():
            self._pause(request, [account], form)
        else:
            messages.error(request, form.first_error())
        return self._back(pk)

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End the pause of one account, whether a person or a worker set it."""
        self._resume(request, [self._operable(request, pk)])
        return self._back(pk)

    @admin.action(description=gettext_lazy("Pause the selected accounts"), permissions=["operate"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        """Ask for the reason, then pause the accounts."""
        form = PauseForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            self._pause(request, list(queryset), form)
            return None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media + form.media,
            "title": _("Pause accounts"),
            "form": form,
            "accounts": queryset,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/prx_email_django/pause_accounts.html", context)

    @admin.action(description=gettext_lazy("Resume the selected accounts"), permissions=["operate"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        """End the pauses of the accounts, whether a person or a worker set them."""
        self._resume(request, list(queryset))

    def _operable(self, request: HttpRequest, pk: int) -> Account:
        account: Account | None = self.get_object(request, str(pk))
        if account is None:
            raise Http404
        if not self.has_operate_permission(request, account):
            raise PermissionDenied
        return account

    def _pause(self, request: HttpRequest, accounts: Sequence[Account], form: PauseForm) -> None:
        permitted = [account for account in accounts if self.has_operate_permission(request, account)]
        for account in permitted:
            api.pause_outbox(account, reason=form.cleaned_data["reason"], until=form.cleaned_data["until"])
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
            api.resume_outbox(account)
        text = ngettext("%(count)d account is resumed.", "%(count)d accounts are resumed.", len(resumed))
        self._show_result(
            request, resumed, text % {"count": len(resumed)}, _("Resumed."), len(accounts) - len(permitted)
        )
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

    def _back(self, pk: int) -> HttpResponse:
        name = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(name, args=[pk]))
