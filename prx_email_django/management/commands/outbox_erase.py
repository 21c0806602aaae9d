"""``manage.py outbox_erase ADDRESS``: erases one person's address and mail."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import OutboxCommand, plain_errors
from prx_email_django.results import ErasureReport

#: Ids that are printed.
MAX_IDS = 20


class Command(OutboxCommand):
    """Calls ``api.erase_address``."""

    help = gettext_noop(
        "Erases an address, in any case, and the content of all mail to and from it: messages only to "
        "this address are deleted, sent messages to others too are emptied, waiting ones do not go to it "
        "any more; received mail is deleted; in texts of servers, pauses and the admin's log the address "
        "is replaced. It can be interrupted and repeated. Exit code: 0; 1 if messages still hold the "
        "address (run it again when they are sent or deleted)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the address and --dry-run."""
        parser.add_argument("address", metavar="ADDRESS", help=_("the address of the person"))
        parser.add_argument("--dry-run", action="store_true", help=_("erase nothing, only print the numbers"))

    def handle(self, *args: Any, **options: Any) -> None:
        """Erase, and print what was done; the address itself is not printed."""
        with plain_errors():
            report = api.erase_address(options["address"], dry_run=options["dry_run"])
        text = (
            _(
                "messages: %(deleted)s would have been deleted, %(emptied)s emptied, %(withdrawn)s withdrawn; received "
                "mail: %(received)s deleted; texts: %(texts)s redacted"
            )
            if options["dry_run"]
            else _(
                "messages: %(deleted)s were deleted, %(emptied)s emptied, %(withdrawn)s withdrawn; received mail: "
                "%(received)s deleted; texts: %(texts)s redacted"
            )
        )
        self.stdout.write(
            text
            % {
                "deleted": report.deleted,
                "emptied": report.emptied,
                "withdrawn": report.withdrawn,
                "received": report.received,
                "texts": report.texts,
            }
        )
        if report.left:
            raise CommandError(_what_is_left(report))


def _what_is_left(report: ErasureReport) -> str:
    ids = ", ".join(map(str, report.left[:MAX_IDS])) + ("…" if len(report.left) > MAX_IDS else "")
    return _(
        "%(left)s messages that are not sent yet hold the address: %(ids)s. Run this again when they are sent; those "
        "at rest must be requeued or deleted first."
    ) % {"left": len(report.left), "ids": ids}
