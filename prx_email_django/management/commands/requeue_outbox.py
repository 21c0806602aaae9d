"""``manage.py requeue_outbox``: makes failed messages due now."""

from __future__ import annotations

from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import SelectionCommand
from prx_email_django.models.conditions import FAILED


class Command(SelectionCommand):
    """Calls ``api.requeue_outbox``."""

    help = gettext_noop(
        "Makes failed messages due now, at rest or waiting for a later attempt: the next drain sends "
        "them. If a message may have been delivered already, its recipients may receive a second copy. "
        "Exit code: 0, also if messages were refused; 1 for an error."
    )
    would = gettext_noop("would requeue %(count)d")
    done = gettext_noop("requeued %(count)d")
    eligible = FAILED
    operate = staticmethod(api.requeue_outbox)
