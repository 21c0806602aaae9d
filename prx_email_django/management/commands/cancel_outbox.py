"""``manage.py cancel_outbox``: cancels messages that wait for an attempt."""

from __future__ import annotations

from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import SelectionCommand
from prx_email_django.models.conditions import IS_WAITING


class Command(SelectionCommand):
    """Calls ``api.cancel_outbox``."""

    help = gettext_noop(
        "Cancels messages that wait for an attempt: they are not sent. Messages that are being sent or "
        "are sent do not change. Exit code: 0, also if messages were refused; 1 for an error."
    )
    would = gettext_noop("would cancel %(count)d")
    done = gettext_noop("cancelled %(count)d")
    eligible = IS_WAITING
    operate = staticmethod(api.cancel_outbox)
