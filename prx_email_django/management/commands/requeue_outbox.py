"""``manage.py requeue_outbox``: failed messages, at rest or waiting, become due now."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import add_selection, count_eligible, plain_errors, selection, told
from prx_email_django.models import OutboxMessage
from prx_email_django.states import Status


class Command(BaseCommand):
    """See ``help``."""

    help = (
        "Makes failed messages due now, at rest or waiting for a later attempt: the next drain sends them. Of a "
        "message that may have been delivered this may make a copy. Exit code 0 whatever was refused, 1 for an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which messages."""
        add_selection(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Requeue them and tell how many."""
        with plain_errors():
            eligible = OutboxMessage.objects.filter(status=Status.FAILED)
            chosen = selection(options, eligible)
            if options["dry_run"]:
                self.stdout.write(f"would requeue {count_eligible(chosen, eligible)}")
                return
            self.stdout.write(told(api.requeue_outbox(chosen), "requeued"))
