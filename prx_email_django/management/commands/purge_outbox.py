"""``manage.py purge_outbox``: deletes old messages."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import OutboxCommand, age, plain_errors
from prx_email_django.store.purge import PurgeReport

#: Kinds of rows of the report.
_IN_WORDS = {
    "sent": gettext_noop("%(count)d sent"),
    "failed": gettext_noop("%(count)d failed"),
    "inbound": gettext_noop("%(count)d inbound"),
    "stripped": gettext_noop("%(count)d stripped"),
    "content": gettext_noop("%(count)d content"),
}


class Command(OutboxCommand):
    """Calls ``api.purge_outbox``."""

    help = gettext_noop(
        "Deletes old rows by the setting RETENTION: sent messages, messages at rest, received messages, "
        "and content without a reference; never a message that may still be sent. The scheduled drain "
        "and flush_outbox --loop also purge one batch an hour."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the age and --dry-run."""
        parser.add_argument(
            "--older-than",
            type=age,
            metavar="AGE",
            help=_("purge rows of every kind from this age on, instead of by RETENTION: 30d, 12h"),
        )
        parser.add_argument("--dry-run", action="store_true", help=_("delete nothing, only print the numbers"))

    def handle(self, *args: Any, **options: Any) -> None:
        """Purge, and print the number of rows of each kind."""
        with plain_errors():
            older_than = None if options["older_than"] is None else age(options["older_than"])
            report = _purge(older_than, dry_run=options["dry_run"])
        counts = ", ".join(_(_IN_WORDS[kind]) % {"count": count} for kind, count in asdict(report).items())
        text = _("would purge %(counts)s") if options["dry_run"] else _("purged %(counts)s")
        self.stdout.write(text % {"counts": counts})


def _purge(older_than: timedelta | None, *, dry_run: bool) -> PurgeReport:
    """Purge batch by batch, so that no transaction locks many rows."""
    total = batch = api.purge_outbox(older_than=older_than, dry_run=dry_run)
    while batch.total and not dry_run:
        batch = api.purge_outbox(older_than=older_than)
        total = PurgeReport(**{kind: count + getattr(batch, kind) for kind, count in asdict(total).items()})
    return total
