"""``manage.py outbox_account``: makes an account, or changes it so that it is as described."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.references import absence
from prx_email_django.management._account import SETTABLE, account_fields, described, problems
from prx_email_django.management._common import plain_errors
from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.presets import PRESETS
from prx_email_django.store.accounts import put_account


class Command(BaseCommand):
    """Calls ``store.accounts.put_account``.  Exit code 0: the account is as described; 1: it is not, and why."""

    help = (
        "Makes an account, or changes it so that it is as described; fields that are not named keep their values. The "
        "result is the same however often it runs, also in several containers at once. Prints what changed, never a "
        "secret."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the name, the description and --dry-run."""
        parser.add_argument("name", metavar="NAME", help="name of the account")
        server = parser.add_mutually_exclusive_group()
        server.add_argument(
            "--preset", metavar="P", help=f"a provider: {', '.join(PRESETS)}; its region by --set region=…"
        )
        server.add_argument(
            "--url",
            metavar="URL",
            help="smtps://user@host, smtp://user@host (STARTTLS) or smtp+clear://host:1025; the secret by --secret",
        )
        parser.add_argument(
            "--set", action="append", metavar="FIELD=VALUE", help=f"a field, repeatable: {', '.join(SETTABLE)}"
        )
        parser.add_argument(
            "--secret",
            action="append",
            metavar="[FIELD=]SOURCE",
            help=(
                "a secret, repeatable. FIELD: password if omitted, or one of "
                f"{', '.join(SECRET_FIELDS)}. SOURCE: env:NAME or file:/path, which is stored and read at each "
                "connection, or - for standard input"
            ),
        )
        parser.add_argument("--dry-run", action="store_true", help="change nothing, only print what would change")

    @sensitive_variables()
    def handle(self, *args: Any, **options: Any) -> None:
        """Make or change the account, and print what changed."""
        name = options["name"]
        with plain_errors():
            _refuse_declared(name)
            try:
                fields = account_fields(options)
                change = put_account(name, fields, dry_run=options["dry_run"])
            except ValidationError as error:
                raise CommandError(f"The account “{name}” was not changed.\n{problems(error)}") from None
            for item in SECRET_FIELDS:
                if text := absence(str(fields.get(item, ""))):
                    self.stderr.write(f"{item}: {text} (here and now; workers read it where they run)")
        would = "would be " if options["dry_run"] else ""
        done = "created" if change.created else "changed" if change.changed else ""
        self.stdout.write(f"account “{name}”: {would}{done}" if done else f"account “{name}”: nothing to change")
        for line in described(change):
            self.stdout.write(f"  {line}")


def _refuse_declared(name: str) -> None:
    declared = outbox_settings().accounts.get(name)
    if declared is not None:
        raise CommandError(f"The settings declare the account “{name}”: change {declared.path}.")
    if Account.objects.filter(name=name, source="settings").exists():
        raise CommandError(
            f"The account “{name}” comes from the settings, which do not declare it any more: declare it again, or "
            "choose another name."
        )
