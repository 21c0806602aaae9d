"""``manage.py requeue_outbox``: makes failed messages due now."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.utils.translation import gettext_noop, ngettext

from prx_email_django import api
from prx_email_django.management._common import SelectionCommand, chosen_filters
from prx_email_django.models import OutboxMessage
from prx_email_django.models.conditions import FAILED, SET_ASIDE, SET_ASIDE_CODES


class Command(SelectionCommand):
    """Calls ``api.requeue_outbox``."""

    help = gettext_noop(
        "Makes failed messages due now, at rest or waiting for a later attempt: the next drain sends "
        "them. If a message may have been delivered already, its recipients may receive a second copy. "
        "What was cancelled, adopted or expired is made due only if its id or its --error-code is given. "
        "Exit code: 0, also if messages were refused; 1 for an error."
    )
    would = gettext_noop("would requeue %(count)d")
    done = gettext_noop("requeued %(count)d")
    eligible = FAILED
    operate = staticmethod(api.requeue_outbox)

    def eligible_for(self, options: dict[str, Any]) -> Q:
        """Leave out what was put at rest on purpose, or for its age, unless the arguments name it."""
        is_named = options["ids"] or options["error_code"] in SET_ASIDE_CODES
        return self.eligible if is_named else self.eligible & ~SET_ASIDE

    def handle(self, *args: Any, **options: Any) -> None:
        """Requeue the messages, and say how many were left out."""
        super().handle(*args, **options)
        if self.eligible_for(options) == self.eligible:
            return
        if count := OutboxMessage.objects.filter(SET_ASIDE, **chosen_filters(options)).count():
            text = ngettext(
                "left out %(count)d that was cancelled, adopted or expired: --error-code selects it",
                "left out %(count)d that were cancelled, adopted or expired: --error-code selects them",
                count,
            )
            self.stdout.write(text % {"count": count})
