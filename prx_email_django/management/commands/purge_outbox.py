"""``manage.py purge_outbox``: deletes old messages."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import age, plain_errors
from prx_email_django.store.purge import PurgeReport


class Command(BaseCommand):
    """Calls ``api.purge_outbox``."""

    help = (
        "Deletes old rows by the setting RETENTION: sent messages, messages at rest, received messages, and content "
        "without a reference; never a message that may still be sent. The scheduled drain and flush_outbox --loop also "
        "purge one batch an hour."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the age and --dry-run."""
        parser.add_argument(
            "--older-than",
            type=age,
            metavar="AGE",
            help="purge rows of every kind from this age on, instead of by RETENTION: 30d, 12h",
        )
        parser.add_argument("--dry-run", action="store_true", help="delete nothing, only print the numbers")

    def handle(self, *args: Any, **options: Any) -> None:
        """Purge, and print the number of rows of each kind."""
        with plain_errors():
            older_than = None if options["older_than"] is None else age(options["older_than"])
            report = _purge(older_than, dry_run=options["dry_run"])
        counts = ", ".join(f"{count} {kind}" for kind, count in asdict(report).items())
        self.stdout.write(f"{'would purge' if options['dry_run'] else 'purged'} {counts}")


def _purge(older_than: timedelta | None, *, dry_run: bool) -> PurgeReport:
    """Purge batch by batch, so that no transaction locks many rows."""
    total = batch = api.purge_outbox(older_than=older_than, dry_run=dry_run)
    while batch.total and not dry_run:
        batch = api.purge_outbox(older_than=older_than)
        total = PurgeReport(**{kind: count + getattr(batch, kind) for kind, count in asdict(total).items()})
    return total
