"""State of the whole outbox, and the buttons that pause and resume everything."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _

from prx_email_django import api
from prx_email_django.admin.base import FactsAdminMixin, ModelAdmin, username
from prx_email_django.admin.bulk import tell_silence
from prx_email_django.admin.forms import PauseForm
from prx_email_django.admin.pauses import pause_lines
from prx_email_django.models import OutboxState, PauseRecord
from prx_email_django.rules.pauses import in_force


def everything_paused() -> OutboxState | None:
    """Return the state of the outbox while everything is paused, else None."""
    return OutboxState.objects.filter(in_force(timezone.now())).first()


@admin.register(OutboxState)
class OutboxStateAdmin(FactsAdminMixin, ModelAdmin):
    """One row: the instance that owns the database, the last drain, and the pause of everything."""

    list_display = ("__str__", "instance", "pause_reason", "paused_until", "last_drain_at", "last_purge_at")

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """Return no permission: the dashboard leads here, and the index leaves the row out."""
        return {}

    def get_urls(self) -> list[URLPattern]:
        """Add the URLs of the two buttons."""
        return [
            path("pause/", self.guarded(self.pause_view), name=self.url_name("pause")),
            path("resume/", self.guarded(self.resume_view), name=self.url_name("resume")),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the row and its buttons."""
        context = {
            "title": _("State of the outbox"),
            "everything_paused": everything_paused(),
            "pauses": pause_lines(PauseRecord.objects.filter(account__isnull=True)),
            "pause_form": PauseForm() if self.has_operate_permission(request) else None,
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """Pause everything; the form must contain a reason."""
        self._require_permission(request)
        form = PauseForm(request.POST)
        if form.is_valid():
            api.pause_outbox(None, **form.cleaned_data, by=username(request))
            messages.success(request, _("Everything is paused. New messages are queued and wait."))
        else:
            messages.error(request, form.first_error())
        return self.back_to("changelist")

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        """End the pause of everything."""
        self._require_permission(request)
        was_paused = everything_paused() is not None
        api.resume_outbox(None, by=username(request))
        messages.success(request, _("The outbox is resumed.") if was_paused else _("The outbox was not paused."))
        tell_silence(request)
        return self.back_to("changelist")

    def _require_permission(self, request: HttpRequest) -> None:
        if not self.has_operate_permission(request):
            raise PermissionDenied
