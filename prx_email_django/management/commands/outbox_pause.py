"""``manage.py outbox_pause``: pauses an account or the whole outbox."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from prx_email_django import api
from prx_email_django.management._common import BY_COMMAND, add_account, chosen_account, future, plain_errors


class Command(BaseCommand):
    """Calls ``api.pause_outbox``."""

    help = "Pauses an account or the whole outbox: new messages are queued and wait. Started messages are finished."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add account, reason and end of the pause."""
        add_account(parser)
        parser.add_argument("--reason", required=True, help="shown where the outbox says why messages wait")
        parser.add_argument(
            "--until",
            type=future,
            metavar="WHEN",
            help="end of the pause: ISO 8601, or a duration from now (2h); if omitted, until a person resumes",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Pause, and print what is paused."""
        with plain_errors():
            account = chosen_account(options)
            until = None if options["until"] is None else future(options["until"])
            if until is not None and until <= timezone.now():
                raise CommandError(
                    f"Nothing was paused: --until must be in the future, not {until.isoformat(timespec='seconds')}."
                )
            api.pause_outbox(account, reason=options["reason"], until=until, by=BY_COMMAND)
            end = f" until {until.isoformat(timespec='seconds')}" if until else ""
            self.stdout.write(f"paused {account.name if account else 'everything'}{end}")
