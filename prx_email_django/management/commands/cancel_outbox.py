"""``manage.py cancel_outbox``: cancels messages that wait for an attempt."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import (
    add_selection,
    count_eligible,
    plain_errors,
    report_line,
    selection,
)
from prx_email_django.models import OutboxMessage
from prx_email_django.states import WAITING


class Command(BaseCommand):
    """Calls ``api.cancel_outbox``."""

    help = (
        "Cancels messages that wait for an attempt: they are not sent. Messages that are being sent or are sent do not "
        "change. Exit code: 0, also if messages were refused; 1 for an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the selection of messages."""
        add_selection(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Cancel the messages and print how many."""
        with plain_errors():
            eligible = OutboxMessage.objects.filter(status__in=WAITING, next_attempt_at__isnull=False)
            chosen = selection(options, eligible)
            if options["dry_run"]:
                self.stdout.write(f"would cancel {count_eligible(chosen, eligible)}")
                return
            self.stdout.write(report_line(api.cancel_outbox(chosen), "cancelled"))
