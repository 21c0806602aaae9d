"""``manage.py outbox_pause``: pauses an account or the whole outbox."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import (
    BY_COMMAND,
    OutboxCommand,
    add_account,
    chosen_account,
    future,
    plain_errors,
)


class Command(OutboxCommand):
    """Calls ``api.pause_outbox``."""

    help = gettext_noop(
        "Pauses an account or the whole outbox: new messages are queued and wait. Started messages are finished."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add account, reason and end of the pause."""
        add_account(parser)
        parser.add_argument("--reason", required=True, help=_("shown where the outbox says why messages wait"))
        parser.add_argument(
            "--until",
            type=future,
            metavar="WHEN",
            help=_(
                "end of the pause: ISO 8601 (without a zone: in the project's TIME_ZONE), or a duration from now (2h); "
                "if omitted, until a person resumes"
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Pause, and print what is paused."""
        with plain_errors():
            account = chosen_account(options)
            until = None if options["until"] is None else future(options["until"])
            if until is not None and until <= timezone.now():
                raise CommandError(
                    _("Nothing was paused: --until must be in the future, not %(time)s.")
                    % {"time": until.isoformat(timespec="seconds")}
                )
            api.pause_outbox(account, reason=options["reason"], until=until, by=BY_COMMAND)
            name = account.name if account else _("everything")
            if until:
                words = {"name": name, "time": timezone.localtime(until).isoformat(timespec="seconds")}
                self.stdout.write(_("paused %(name)s until %(time)s") % words)
            else:
                self.stdout.write(_("paused %(name)s") % {"name": name})
