"""``manage.py outbox_status``: prints the state of the outbox, and why messages wait."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentTypeError
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django.management._common import OutboxCommand, account_named, age, first_line, plain_errors
from prx_email_django.management._figures import DEFAULT_MAX_AGE, account_lines, outbox_lines
from prx_email_django.management._message import message_facts, message_lines
from prx_email_django.models import OutboxMessage
from prx_email_django.states import Status
from prx_email_django.status.advice import advice
from prx_email_django.status.facts import message_reason
from prx_email_django.status.figures import VERSION, Health, judge, outbox_status
from prx_email_django.status.stored_words import as_stored
from prx_email_django.store.declared import keep_declared_accounts


class Command(OutboxCommand):
    """Calls ``status.figures``."""

    help = gettext_noop(
        "Prints the state of the outbox; for one message or account, why it waits and when sending "
        "continues. With --check the exit code is for a monitor: 0 well; 1 late (a message has been due, "
        "or a message of a lost worker has waited, for longer than --max-age, or the server refuses "
        "every message of an account); 2 broken (database or settings cannot be used, the database "
        "belongs to another INSTANCE, or settings name an account that does not exist or is switched "
        "off). Without --check: 0, or 1 for an error."
    )
    # A probe must exit with its own code also if the settings are invalid.
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command of a terminal; who reads its output may stop reading: ``outbox_status | head -3``."""
        try:
            try:
                super().run_from_argv(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Python writes the rest when it ends, and would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add message, account and output options."""
        parser.add_argument("id", nargs="?", type=int, metavar="ID", help=_("show only this message"))
        parser.add_argument("--account", metavar="NAME", help=_("show only this account"))
        parser.add_argument("--json", action="store_true", help=_("print one JSON object, with a version"))
        parser.add_argument("--check", action="store_true", help=_("report the health by the exit code"))
        parser.add_argument(
            "--max-age",
            type=age,
            default=DEFAULT_MAX_AGE,
            metavar="AGE",
            help=_("with --check: late after this time (default: 10m)"),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the figures; with ``--check`` exit with the health as code."""
        if options["id"] is not None and (options["account"] is not None or options["check"]):
            raise CommandError(_("ID cannot be combined with --account or --check."))
        if options["check"]:
            self._check(options)
            return
        with plain_errors():
            if options["id"] is not None:
                self._message(options["id"], as_json=options["json"])
            elif options["account"] is not None:
                self._account(options["account"], as_json=options["json"])
            else:
                keep_declared_accounts()
                self._outbox(outbox_status(), as_json=options["json"])

    def _check(self, options: dict[str, Any]) -> None:
        try:
            keep_declared_accounts()
            figures = outbox_status()
            health, reason = judge(_narrowed(figures, options["account"]), max_age=age(options["max_age"]))
        except (DatabaseError, ImproperlyConfigured) as error:
            health, reason, figures = Health.BROKEN, first_line(error), {}
        except ArgumentTypeError as error:
            raise CommandError(str(error)) from error
        verdict = {"health": health.name.lower(), "reason": reason}
        if options["json"]:
            self._dump({**figures, **verdict})
        else:
            self.stdout.write(f"{verdict['health']}: {reason}" if health else reason)
        if health:
            sys.exit(int(health))

    def _outbox(self, figures: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self._dump(figures)
            return
        for line in outbox_lines(figures, self.style):
            self.stdout.write(line)

    def _account(self, name: str, *, as_json: bool) -> None:
        account_named(name)
        figures = next(account for account in outbox_status()["accounts"] if account["name"] == name)
        if as_json:
            self._dump(figures)
        else:
            for line in account_lines(figures):
                self.stdout.write(line)

    def _message(self, pk: int, *, as_json: bool) -> None:
        message = OutboxMessage.objects.select_related("account").filter(pk=pk).first()
        if message is None:
            raise CommandError(_("There is no message %(pk)s.") % {"pk": pk})
        sentence = message_reason(message)
        if not as_json:
            status = Status(message.status).label if message.status in Status.values else message.status
            self.stdout.write(f"{pk} {status}: {sentence}")
            with as_stored():
                hint = advice(message_reason(message)) if message.status != Status.SENT else ""
            if hint:
                self.stdout.write(hint)
            for line in message_lines(message):
                self.stdout.write(line)
            return
        self._dump({**message_facts(message), "why": sentence})

    def _dump(self, figures: dict[str, Any]) -> None:
        self.stdout.write(json.dumps({"version": VERSION, **figures}, ensure_ascii=False, indent=2))


def _narrowed(figures: dict[str, Any], name: str | None) -> dict[str, Any]:
    """Return the figures of the named account only, as far as the health depends on an account."""
    if name is None:
        return figures
    account_named(name)
    named = [account for account in figures["accounts"] if account["name"] == name]
    return {**figures, "oldest_due_seconds": named[0]["oldest_due_seconds"], "accounts": named}
