"""``manage.py cancel_outbox``: waiting messages come to rest."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import add_selection, count_eligible, plain_errors, selection, told
from prx_email_django.models import OutboxMessage
from prx_email_django.states import WAITING


class Command(BaseCommand):
    """See ``help``."""

    help = (
        "Puts messages that wait for an attempt at rest, as cancelled; what is being sent or sent stays as it is. "
        "Exit code 0 whatever was refused, 1 for an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which messages."""
        add_selection(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Cancel them and tell how many."""
        with plain_errors():
            eligible = OutboxMessage.objects.filter(status__in=WAITING, next_attempt_at__isnull=False)
            chosen = selection(options, eligible)
            if options["dry_run"]:
                self.stdout.write(f"would cancel {count_eligible(chosen, eligible)}")
                return
            self.stdout.write(told(api.cancel_outbox(chosen), "cancelled"))
