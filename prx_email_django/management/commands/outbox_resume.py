"""``manage.py outbox_resume``: ends a pause."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import account_named, plain_errors
from prx_email_django.models import OutboxState


class Command(BaseCommand):
    """See ``help``."""

    help = (
        "Ends the pause of an account, whoever set it, or the pause of everything (accounts that are paused for "
        "themselves stay so)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """What to resume."""
        parser.add_argument("account", nargs="?", metavar="ACCOUNT", help="name of the account; none: everything")

    def handle(self, *args: Any, **options: Any) -> None:
        """Resume and say so."""
        with plain_errors():
            account = account_named(options["account"]) if options["account"] is not None else None
            was_paused = account.pause_reason if account else OutboxState.objects.exclude(pause_reason="").exists()
            api.resume_outbox(account)
            name = account.name if account else "everything"
            self.stdout.write(f"resumed {name}" if was_paused else f"{name} was not paused")
