"""``manage.py outbox_account``: makes an account, or changes it so that it is as described."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.references import absence
from prx_email_django.management._account import (
    SETTABLE,
    account_fields,
    described,
    lacks_sign_in,
    problems,
    shows_password,
)
from prx_email_django.management._common import OutboxCommand, plain_errors
from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.presets import PRESETS
from prx_email_django.rules.text import shown_name
from prx_email_django.rules.words import in_words
from prx_email_django.store.accounts import AccountChange, put_account


class Command(OutboxCommand):
    """Calls ``store.accounts.put_account``.  Exit code 0: the account is as described; 1: it is not, and why."""

    help = gettext_noop(
        "Makes an account, or changes it so that it is as described; fields that are not named keep "
        "their values. The result is the same however often it runs, also in several containers at once. "
        "Prints what changed, never a secret."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the name, the description and --dry-run."""
        parser.add_argument("name", metavar="NAME", help=_("name of the account"))
        server = parser.add_mutually_exclusive_group()
        server.add_argument(
            "--preset",
            metavar="P",
            help=_("a provider: %(names)s; its region by --set region=…") % {"names": ", ".join(PRESETS)},
        )
        server.add_argument(
            "--url",
            metavar="URL",
            help=_("smtps://user@host, smtp://user@host (STARTTLS) or smtp+clear://host:1025; the secret by --secret"),
        )
        parser.add_argument(
            "--set",
            action="append",
            metavar="FIELD=VALUE",
            help=_("a field, repeatable: %(names)s") % {"names": ", ".join(SETTABLE)},
        )
        parser.add_argument(
            "--secret",
            action="append",
            metavar="[FIELD=]SOURCE",
            help=(
                _(
                    "a secret, repeatable. FIELD: password if omitted, or one of %(names)s. SOURCE: env:NAME or "
                    "file:/path, which is stored and read at each connection, or - for standard input"
                )
                % {"names": ", ".join(SECRET_FIELDS)}
            ),
        )
        parser.add_argument("--dry-run", action="store_true", help=_("change nothing, only print what would change"))

    @sensitive_variables()
    def handle(self, *args: Any, **options: Any) -> None:
        """Make or change the account, and print what changed."""
        name = options["name"]
        fields: dict[str, Any] = {}
        with plain_errors():
            _refuse_declared(name)
            try:
                fields = account_fields(options)
                change = _put(name, fields, dry_run=options["dry_run"])
            except ValidationError as error:
                text = problems(error, of_url=fields if options["url"] else {})
                raise CommandError(
                    _("The account “%(name)s” was not changed.\n%(error)s") % {"name": shown_name(name), "error": text}
                ) from None
            if options["url"] and not options["secret"] and shows_password(options["url"]):
                self.stderr.write(_("The password was visible to others on the command line: --secret hides it."))
            for item in SECRET_FIELDS:
                if text := absence(str(fields.get(item, ""))):
                    self.stderr.write(
                        _("%(item)s: %(text)s (here and now; workers read it where they run)")
                        % {"item": item, "text": in_words(text, _)}
                    )
        self.stdout.write(_outcome(change, dry_run=options["dry_run"]) % {"name": name})
        for line in described(change):
            self.stdout.write(f"  {line}")
        account = Account.objects.filter(name=name).first()
        if account is not None and account.awaits_sign_in:
            self.stdout.write(
                _("The account is inactive until somebody signs in: manage.py outbox_authorize %(name)s")
                % {"name": name}
            )


@sensitive_variables()
def _put(name: str, fields: dict[str, Any], *, dry_run: bool) -> AccountChange:
    """As ``put_account``; a new account that lacks nothing but a sign-in is made inactive until then."""
    try:
        return put_account(name, fields, dry_run=dry_run)
    except ValidationError as error:
        if "is_active" in fields or not lacks_sign_in(error) or Account.objects.filter(name=name).exists():
            raise
    return put_account(name, fields | {"is_active": False}, dry_run=dry_run)


def _outcome(change: AccountChange, *, dry_run: bool) -> str:
    if change.created:
        return _("account “%(name)s”: would be created") if dry_run else _("account “%(name)s”: created")
    if change.changed:
        return _("account “%(name)s”: would be changed") if dry_run else _("account “%(name)s”: changed")
    return _("account “%(name)s”: nothing to change")


def _refuse_declared(name: str) -> None:
    declared = outbox_settings().accounts.get(name)
    if declared is not None:
        raise CommandError(
            _("The settings declare the account “%(name)s”: change %(path)s.") % {"name": name, "path": declared.path}
        )
    if Account.objects.filter(name=name, source="settings").exists():
        raise CommandError(
            _(
                "The account “%(name)s” comes from the settings, which do not declare it any more: declare it "
                "again, or choose another name."
            )
            % {"name": name}
        )
