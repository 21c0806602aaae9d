"""``manage.py outbox_check``: tries accounts, step by step."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from prx_email_django import api
from prx_email_django.management._common import OutboxCommand, account_named, padded, plain_errors
from prx_email_django.models import Account
from prx_email_django.results import AccountReport, CheckStep


class Command(OutboxCommand):
    """Calls ``api.check_account`` for each account."""

    help = gettext_noop(
        "Tries accounts: the host's name, the connection, TLS, the greeting, the extensions, the token, "
        "the login, and with --send-to one message. Says for the step that fails what to do. A success "
        "ends a pause that a worker set. Exit code: 0 if all is well, 1 if not."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add accounts, address, time and format."""
        parser.add_argument("accounts", nargs="*", metavar="ACCOUNT", help=_("names; if omitted, all active accounts"))
        parser.add_argument("--send-to", metavar="ADDRESS", help=_("send one message there, and follow it"))
        parser.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS", help=_("for each account (20)"))
        parser.add_argument("--json", action="store_true", help=_("print the reports as JSON"))

    def handle(self, *args: Any, **options: Any) -> None:
        """Try the accounts one after the other, and print the steps as they come."""
        with plain_errors():
            accounts = [account_named(name) for name in options["accounts"]]
            accounts = accounts or list(Account.objects.filter(is_active=True).order_by("name"))
            reports = {account.name: self._check(account, options) for account in accounts}
        if options["json"]:
            self.stdout.write(json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2))
        elif not reports:
            self.stdout.write(_("There is no active account."))
        if not all(report.ok for report in reports.values()) or not reports:
            sys.exit(1)

    def _check(self, account: Account, options: dict[str, Any]) -> AccountReport:
        steps: list[CheckStep] = []
        if not options["json"]:
            self.stdout.write(self.style.MIGRATE_HEADING(account.name))
        for step in api.check_steps(account, send_to=options["send_to"], timeout=options["timeout"]):
            steps.append(step)
            if not options["json"]:
                self._print(step)
        return AccountReport(ok=all(step.ok for step in steps), steps=tuple(steps))

    def _print(self, step: CheckStep) -> None:
        mark = self.style.SUCCESS(padded(_("ok"), 6)) if step.ok else self.style.ERROR(padded(_("failed"), 6))
        self.stdout.write(f"  {mark} {step.name:<11} {step.seconds:6.2f} s  {step.detail}")
        if step.advice:
            self.stdout.write(f"         {step.advice}")
