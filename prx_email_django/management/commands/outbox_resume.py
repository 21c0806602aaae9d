"""``manage.py outbox_resume``: ends a pause."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import account_named, plain_errors


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
            api.resume_outbox(account)
            self.stdout.write(f"resumed {account.name if account else 'everything'}")
