"""``manage.py dismiss_outbox``: takes messages off the list of those that need a person."""

from __future__ import annotations

from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import SelectionCommand
from prx_email_django.models.conditions import NEEDS_PERSON


class Command(SelectionCommand):
    """Calls ``api.dismiss_outbox``."""

    help = gettext_noop(
        "Takes messages at rest off the list of those that need a person. They stay failed, and a later "
        "retry or requeue puts them back on the list if they fail again. Exit code: 0, also if messages "
        "were refused; 1 for an error."
    )
    would = gettext_noop("would dismiss %(count)d")
    done = gettext_noop("dismissed %(count)d")
    eligible = NEEDS_PERSON
    operate = staticmethod(api.dismiss_outbox)
