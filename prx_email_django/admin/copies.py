"""The buttons that queue a new message from a stored one: resend, and a copy to the person who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.crypto import get_random_string
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from prx_email_django import api
from prx_email_django.admin.base import UNDERSTOOD, OperatorMixin, log, may_read_content, page_url
from prx_email_django.admin.bulk import tell_silence
from prx_email_django.errors import OutboxError
from prx_email_django.models import OutboxMessage
from prx_email_django.rules.words import in_words

if TYPE_CHECKING:
    from prx_email_django.admin.operations import Text

#: Form field with a key of its own for each page that is shown: a double click queues one message.
ONCE = "once"


@dataclass(frozen=True, slots=True)
class CopyButton:
    """The texts of one button."""

    name: str
    label: Text
    help: Text


RESEND = CopyButton(
    name="resend",
    label=gettext_lazy("Resend as a new message"),
    help=gettext_lazy("Queues the same mail once more, to all its recipients. This message stays as it is."),
)
COPY = CopyButton(
    name="copy",
    label=gettext_lazy("Send a copy to me"),
    help=gettext_lazy("Queues a copy for your own address, marked in its subject."),
)


class MessageCopiesMixin(OperatorMixin):
    """Views ``/<id>/resend/`` and ``/<id>/copy/``."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the two buttons before the others."""
        return [
            path("<int:pk>/resend/", self.guarded(self.resend_view), name=self.url_name(RESEND.name)),
            path("<int:pk>/copy/", self.guarded(self.copy_view), name=self.url_name(COPY.name)),
            *super().get_urls(),
        ]

    def resend_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Queue the mail once more, and show the new message."""
        message = self.operable(request, pk)
        if UNDERSTOOD not in request.POST:
            once = {ONCE: request.POST.get(ONCE, "")[:32]}
            warning = _("All recipients will receive the mail once more.")
            back = page_url(self, self.model, "change", pk)
            return self.asked(request, back=back, fields=once, title=RESEND.label, warning=warning, help=RESEND.help)
        return self._queue(request, message, _("Resent as message %(number)d."), api.resend_outbox)

    def copy_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Queue a copy for the address of the person who is signed in, and show it."""
        message = self.operable(request, pk)
        if not may_read_content(request):
            raise PermissionDenied
        if not _own_address(request):
            messages.error(request, _("Your user has no email address."))
            return self.back_to("change", pk)
        return self._queue(
            request, message, _("Copied as message %(number)d."), api.copy_outbox, to=_own_address(request)
        )

    def copy_buttons_for(self, request: HttpRequest, message: OutboxMessage) -> list[dict[str, Any]]:
        """Return the buttons that apply to this message, if this person may use them."""
        if not self.has_operate_permission(request, message) or not message.size:
            return []
        shown = [COPY] if may_read_content(request) and _own_address(request) else []
        if not message.is_sensitive:
            shown.append(RESEND)
        return [
            {
                "operation": button,
                "label": button.label,
                "help": button.help,
                "url": page_url(self, self.model, button.name, message.pk),
                "once": get_random_string(16),
            }
            for button in shown
        ]

    def _queue(self, request: HttpRequest, message: OutboxMessage, said: str, apply: Any, **to: str) -> HttpResponse:
        once = request.POST.get(ONCE, "")[:32]
        key = f"admin-{message.pk}-{once}" if once else None
        try:
            new = apply(message.pk, idempotency_key=key, **to)
        except OutboxError as error:
            messages.error(request, in_words(error, _))
            return self.back_to("change", message.pk)
        log(request, [message], said % {"number": new.pk})
        log(request, [new], _("Made from message %(number)d.") % {"number": message.pk})
        messages.success(
            request, _("This is the new message. It was made from message %(number)d.") % {"number": message.pk}
        )
        tell_silence(request)
        return self.back_to("change", new.pk)


def _own_address(request: HttpRequest) -> str:
    user: Any = request.user
    return str(getattr(user, user.get_email_field_name(), "") or "")
