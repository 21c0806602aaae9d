"""``manage.py purge_outbox``: what is done and old goes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from prx_email_django import api
from prx_email_django.management._common import duration, plain_errors
from prx_email_django.store.purge import PurgeReport


class Command(BaseCommand):
    """See ``help``."""

    help = (
        "Deletes what is done and old, by the setting RETENTION: sent messages, messages at rest, received ones, and "
        "content that nothing refers to; never a message that may still be sent. Without it, the scheduled drain and "
        "flush_outbox --loop purge a batch an hour by themselves."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """How old."""
        parser.add_argument(
            "--older-than",
            type=duration,
            metavar="AGE",
            help="purge all kinds at this age, whatever RETENTION says: 30d, 12h; a number alone is seconds",
        )
        parser.add_argument("--dry-run", action="store_true", help="only tell how many it would be")

    def handle(self, *args: Any, **options: Any) -> None:
        """Purge and tell how many of each."""
        with plain_errors():
            age = None if options["older_than"] is None else duration(options["older_than"])
            report = _purge(age, dry_run=options["dry_run"])
        counts = ", ".join(f"{count} {kind}" for kind, count in asdict(report).items())
        self.stdout.write(f"{'would purge' if options['dry_run'] else 'purged'} {counts}")


def _purge(age: timedelta | None, *, dry_run: bool) -> PurgeReport:
    """Batch by batch, so that no transaction holds many rows."""
    total = batch = api.purge_outbox(older_than=age, dry_run=dry_run)
    while batch.total and not dry_run:
        batch = api.purge_outbox(older_than=age)
        total = PurgeReport(**{kind: count + getattr(batch, kind) for kind, count in asdict(total).items()})
    return total
