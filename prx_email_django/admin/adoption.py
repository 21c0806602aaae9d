"""The button that adopts a copied database, after a page that says what happens."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from prx_email_django import api
from prx_email_django.admin.base import UNDERSTOOD, OperatorMixin, log, page_url
from prx_email_django.admin.bulk import tell_silence
from prx_email_django.conf import outbox_settings
from prx_email_django.store.adopt import ID_JUMP, unsent
from prx_email_django.store.outbox import is_copy, outbox_state


class AdoptionMixin(OperatorMixin):
    """The view ``adopt/``: for persons who may change messages and the state of the outbox."""

    def adopt_buttons(self, request: HttpRequest) -> list[tuple[str, str]]:
        """Return label and address of the button, if this person may use it."""
        return [(_("Adopt this database"), page_url(self, self.model, "adopt"))] if _may_adopt(request) else []

    def adopt_view(self, request: HttpRequest) -> HttpResponse:
        """Say what an adoption does; do it when the person has read that."""
        if not _may_adopt(request):
            raise PermissionDenied
        back = page_url(self, self.model, "changelist")
        state = outbox_state()
        if not is_copy(state):
            messages.warning(request, _("Nothing was adopted: this database is no copy, as INSTANCE says."))
            return HttpResponseRedirect(back)
        if UNDERSTOOD not in request.POST:
            return self.asked(request, back=back, title=_("Adopt this database"), **_texts(state.instance))
        changed = api.adopt_outbox()
        text = ngettext(
            "The database is adopted. %(count)d message was put at rest: retry it if it must be sent from here.",
            "The database is adopted. %(count)d messages were put at rest: retry those that must be sent from here.",
            changed,
        ) % {"count": changed}
        log(request, [state], text)
        messages.success(request, text)
        tell_silence(request)
        return HttpResponseRedirect(back)


# No transaction around an adoption: MariaDB commits in the middle, and the order of its steps survives that.
AdoptionMixin.adopt_view._non_atomic_requests = set(connections)  # type: ignore[attr-defined]


def _may_adopt(request: HttpRequest) -> bool:
    return request.user.has_perms(("prx_email_django.change_outboxmessage", "prx_email_django.change_outboxstate"))


def _texts(instance: str) -> dict[str, Any]:
    count = unsent().count()
    owner = outbox_settings().instance
    warning = ngettext(
        "The database belongs to the instance “%(instance)s”, which may have sent %(count)d unsent message of this "
        "copy: it will be put at rest.",
        "The database belongs to the instance “%(instance)s”, which may have sent the %(count)d unsent messages of "
        "this copy: they will be put at rest.",
        count,
    )
    becomes = (
        _("Then the database belongs to the instance “%(owner)s”.")
        if owner
        else _("Then the database belongs to no instance: the setting INSTANCE is empty.")
    )
    follows = _(
        "What is queued from then on is sent, and its message numbers begin %(jump)s higher. If this is the original, "
        "go back and set INSTANCE to its name."
    )
    words = {"instance": instance, "count": count, "owner": owner, "jump": ID_JUMP}
    return {"warning": warning % words, "help": f"{becomes} {follows}" % words}
