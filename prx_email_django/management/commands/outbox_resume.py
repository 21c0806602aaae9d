"""``manage.py outbox_resume``: ends a pause."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import BY_COMMAND, OutboxCommand, add_account, chosen_account, plain_errors
from prx_email_django.models import OutboxState


class Command(OutboxCommand):
    """Calls ``api.resume_outbox``."""

    help = gettext_noop(
        "Ends the pause of an account, whether a person or a worker set it, or the pause of the whole "
        "outbox. Pauses of single accounts then stay in force."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the account."""
        add_account(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Resume, and print what was resumed."""
        with plain_errors():
            account = chosen_account(options)
            was_paused = account.pause_reason if account else OutboxState.objects.exclude(pause_reason="").exists()
            api.resume_outbox(account, by=BY_COMMAND)
            name = account.name if account else _("everything")
            self.stdout.write(
                _("resumed %(name)s") % {"name": name} if was_paused else _("%(name)s was not paused") % {"name": name}
            )
