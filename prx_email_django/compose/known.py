"""Accounts that this process has read to queue messages, each with the version of its row.

Nothing old is used: what queues a message compares the version in the same statement (PostgreSQL) or transaction, and
writes nothing if the row has changed, whoever changed it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from django.db.models import QuerySet, TextField
from django.db.models.expressions import RawSQL

from prx_email_django.conf import outbox_settings
from prx_email_django.models import Account
from prx_email_django.models.managers import outbox_connection
from prx_email_django.store.insert_sql import version_of

#: Accounts that are kept; after so many all are read again.
MOST = 1000
#: (database, name or primary key) -> account and version.
_Known: TypeAlias = dict[tuple[object, ...], tuple[Account, str]]
#: The settings by which accounts were read, and the accounts.  Settings that are read again are another object.
_known: tuple[object, _Known] = (None, {})


def get(connection: Any, account: int | str) -> tuple[Account, str] | None:
    """The account of this name or primary key in this database, as it was read, and its version; None: read it."""
    return _accounts().get(_key(connection, account))


def keep(connection: Any, named: int | str, account: Account) -> tuple[Account, str]:
    """Keep an account that was read with its version and is as the settings say; the account and its version."""
    found = (account, str(getattr(account, "row_version", "")))
    if found[1] and not account.settings_differ:
        known = _accounts()
        if len(known) >= MOST:
            known.clear()
        known[_key(connection, named)] = found
    return found


def forget() -> None:
    """Read every account again."""
    _accounts().clear()


def _accounts() -> _Known:
    """The accounts that were read by the settings in force."""
    global _known
    settings, known = outbox_settings(), _known
    if known[0] is not settings:
        known = _known = (settings, {})
    return known[1]


def with_version() -> QuerySet[Account]:
    """Accounts with the versions of their rows."""
    table = outbox_connection().ops.quote_name(Account._meta.db_table)
    # No input: the table's own name.
    row_version = RawSQL(version_of(table), (), output_field=TextField())  # noqa: S611
    accounts: QuerySet[Account] = Account.objects.annotate(row_version=row_version)
    return accounts


def _key(connection: Any, account: int | str) -> tuple[object, ...]:
    database: dict[str, Any] = connection.settings_dict
    return (connection.alias, database["NAME"], database["HOST"], database["PORT"], type(account), account)
