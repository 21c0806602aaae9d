"""``manage.py outbox_erase ADDRESS``: erases one person's address and mail."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from prx_email_django import api
from prx_email_django.management._common import plain_errors
from prx_email_django.results import ErasureReport

#: Ids that are printed.
MAX_IDS = 20


class Command(BaseCommand):
    """Calls ``api.erase_address``."""

    help = (
        "Erases an address, in any case, and the content of all mail to and from it: messages only to this address are "
        "deleted, sent messages to others too are emptied, waiting ones do not go to it any more; received mail is "
        "deleted; in texts of servers, pauses and the admin's log the address is replaced. It can be interrupted and "
        "repeated. Exit code: 0; 1 if messages still hold the address (run it again when they are sent or deleted)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the address and --dry-run."""
        parser.add_argument("address", metavar="ADDRESS", help="the address of the person")
        parser.add_argument("--dry-run", action="store_true", help="erase nothing, only print the numbers")

    def handle(self, *args: Any, **options: Any) -> None:
        """Erase, and print what was done; the address itself is not printed."""
        with plain_errors():
            report = api.erase_address(options["address"], dry_run=options["dry_run"])
        done = "would have been" if options["dry_run"] else "were"
        self.stdout.write(
            f"messages: {report.deleted} {done} deleted, {report.emptied} emptied, {report.withdrawn} withdrawn; "
            f"received mail: {report.received} deleted; texts: {report.texts} redacted"
        )
        if report.left:
            raise CommandError(_what_is_left(report))


def _what_is_left(report: ErasureReport) -> str:
    ids = ", ".join(map(str, report.left[:MAX_IDS])) + ("…" if len(report.left) > MAX_IDS else "")
    return f"{len(report.left)} messages that are not sent yet hold the address: {ids}. Run this again later."
