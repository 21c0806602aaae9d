"""``manage.py requeue_outbox``: makes failed messages due now."""

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
from prx_email_django.states import Status


class Command(BaseCommand):
    """Calls ``api.requeue_outbox``."""

    help = (
        "Makes failed messages due now, at rest or waiting for a later attempt: the next drain sends "
        "them. If a message may have been delivered already, its recipients may receive a second copy. Exit code: 0, "
        "also if messages were refused; 1 for an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the selection of messages."""
        add_selection(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Requeue the messages and print how many."""
        with plain_errors():
            eligible = OutboxMessage.objects.filter(status=Status.FAILED)
            chosen = selection(options, eligible)
            if options["dry_run"]:
                self.stdout.write(f"would requeue {count_eligible(chosen, eligible)}")
                return
            self.stdout.write(report_line(api.requeue_outbox(chosen), "requeued"))
