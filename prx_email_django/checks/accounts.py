"""Checks of the accounts that settings name; run by ``migrate`` and by ``check --database``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks
from django.db import connections
from django.utils.translation import gettext as _

from prx_email_django.checks.project import settings_in_force
from prx_email_django.compose.accounts import DEFAULT_ACCOUNT
from prx_email_django.models import Account
from prx_email_django.models.account_validation import SECRET_FIELDS
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.models.managers import outbox_alias
from prx_email_django.status.configured_accounts import unusable_accounts


@checks.register(checks.Tags.database)
def check_secrets(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W043: a stored secret of an account cannot be decrypted with the keys in force: the account cannot log in."""
    if settings_in_force() is None or not has_accounts(databases):
        return []
    hint = _("Add the key with which it was encrypted to CREDENTIAL_KEYS (or SECRET_KEY_FALLBACKS), or enter it again.")
    return [
        checks.Warning(
            _("Of the account “%(name)s” these secrets cannot be decrypted with the present keys: %(names)s.")
            % {"name": account.name, "names": names},
            hint=hint,
            obj=account.name,
            id="prx_email_django.W043",
        )
        for account in Account.objects.order_by("name")
        if (names := ", ".join(_unreadable(account)))
    ]


def _unreadable(account: Account) -> Iterator[str]:
    for name in SECRET_FIELDS:
        try:
            getattr(account, name)
        except DecryptionFailed:
            yield name


def has_accounts(databases: Sequence[str] | None) -> bool:
    """Whether the outbox's database is checked and has the table of accounts; before the first migrate it has not."""
    alias = outbox_alias()
    if alias not in (databases or ()):
        return False
    with connections[alias].cursor() as cursor:
        columns = {
            column.name
            for table in connections[alias].introspection.table_names(cursor)
            if table == Account._meta.db_table
            for column in connections[alias].introspection.get_table_description(cursor, table)
        }
    return "source" in columns


def _warnings(databases: Sequence[str] | None, *, of_default: bool, rule: str) -> list[checks.CheckMessage]:
    if settings_in_force() is None or not has_accounts(databases):
        return []
    hint = _(
        "Mail that is sent there raises AccountUnavailable and is not queued. Add the account, or correct the name."
    )
    return [
        checks.Warning(f"{found.problem[0].upper()}{found.problem[1:]}.", hint=hint, obj=found.named_by, id=rule)
        for found in unusable_accounts()
        if (found.named_by == DEFAULT_ACCOUNT) is of_default
    ]


@checks.register(checks.Tags.database)
def check_default_account(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W040: DEFAULT_ACCOUNT names an account that does not exist or is switched off.

    A warning: an error would stop the ``migrate`` after which the account can be added.
    """
    return _warnings(databases, of_default=True, rule="prx_email_django.W040")


@checks.register(checks.Tags.database)
def check_mailer_accounts(databases: Sequence[str] | None = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """W041: a mailer names an account that does not exist or is switched off, or finds no account at all."""
    return _warnings(databases, of_default=False, rule="prx_email_django.W041")
