"""``manage.py outbox_pause``: an account, or everything, sends nothing until it is resumed."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from prx_email_django import api
from prx_email_django.management._common import account_named, future, plain_errors


class Command(BaseCommand):
    """See ``help``."""

    help = "Pauses an account, or everything: messages are queued and wait. What is on its way is finished."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to pause, why, and until when."""
        parser.add_argument("account", nargs="?", metavar="ACCOUNT", help="name of the account; none: everything")
        parser.add_argument("--reason", required=True, help="shown wherever somebody asks why nothing goes out")
        parser.add_argument(
            "--until",
            type=future,
            metavar="WHEN",
            help="when it goes on by itself: ISO 8601, or in how long (2h); none: when somebody resumes it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Pause and say so."""
        with plain_errors():
            account = account_named(options["account"]) if options["account"] is not None else None
            until = None if options["until"] is None else future(options["until"])
            if until is not None and until <= timezone.now():
                raise CommandError(
                    f"--until is in the past: {until.isoformat(timespec='seconds')}. Nothing was paused."
                )
            api.pause_outbox(account, reason=options["reason"], until=until)
            end = f" until {until.isoformat(timespec='seconds')}" if until else ""
            self.stdout.write(f"paused {account.name if account else 'everything'}{end}")
