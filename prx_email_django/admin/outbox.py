"""The whole outbox: its state, and the buttons that pause and resume everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from prx_email_django import api
from prx_email_django.admin.base import FactsAdminMixin
from prx_email_django.admin.forms import PauseForm
from prx_email_django.models import OutboxState
from prx_email_django.rules.pauses import in_force

if TYPE_CHECKING:
    StateAdminBase = admin.ModelAdmin[OutboxState]
else:
    StateAdminBase = admin.ModelAdmin


def everything_paused() -> OutboxState | None:
    """The state of the outbox while everything is paused, else None."""
    return OutboxState.objects.filter(in_force(timezone.now())).first()


@admin.register(OutboxState)
class OutboxStateAdmin(FactsAdminMixin, StateAdminBase):
    """One row: whose database this is, when it was drained last, and whether everything is paused."""

    list_display = ("__str__", "instance", "pause_reason", "paused_until", "last_drain_at", "last_purge_at")

    def get_urls(self) -> list[URLPattern]:
        """The two buttons."""
        guarded, name = self.admin_site.admin_view, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path("pause/", guarded(self.pause_view), name=f"{name}_pause"),
            path("resume/", guarded(self.resume_view), name=f"{name}_resume"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The row, and its buttons."""
        context = {
            "title": _("State of the outbox"),
            "everything_paused": everything_paused(),
            "pause_form": PauseForm() if self.has_operate_permission(request) else None,
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """Pause everything, with a reason."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        form = PauseForm(request.POST)
        if form.is_valid():
            api.pause_outbox(None, reason=form.cleaned_data["reason"], until=form.cleaned_data["until"])
            messages.success(request, _("Everything is paused: messages are accepted and wait."))
        else:
            messages.error(request, form.first_error())
        return self._back()

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        """End that pause."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        was_paused = everything_paused() is not None
        api.resume_outbox(None)
        messages.success(request, _("The outbox goes on.") if was_paused else _("The outbox was not paused."))
        return self._back()

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_operate_permission(request):
            raise PermissionDenied
        return None

    def _back(self) -> HttpResponse:
        name = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_changelist"
        return HttpResponseRedirect(reverse(name))
