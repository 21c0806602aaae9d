"""Rows of the accounts that the settings declare: made, and kept equal to the settings.

Nothing is written where nothing differs, and nobody waits: an account that is read has the values of the settings
whatever its row says (``models.declared``), so a row that another transaction holds is written at a later use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from django.db import IntegrityError, connections
from django.db.models import QuerySet

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.declared import DeclaredAccount
from prx_email_django.models import Account
from prx_email_django.models.declared import SETTINGS, DeclaredFields, declared_fields
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import atomic, retried

#: Seconds between two writes of one row by this process: processes with different settings do not write in turns.
WRITE_AGAIN_AFTER = 60.0
_written_at: weakref.WeakKeyDictionary[DeclaredAccount, float] = weakref.WeakKeyDictionary()


def keep_declared_accounts() -> None:
    """Make and correct the row of every declared account; one query where nothing is missing or differs."""
    names = list(outbox_settings().accounts)
    if not names:
        return
    found = {account.name: account for account in Account.objects.filter(name__in=names)}
    make_missing(missing_names(found))
    for account in found.values():
        keep_equal(account)


def missing_names(found: Collection[str]) -> set[str]:
    """Names of declared accounts that are not among ``found`` and could be made."""
    wanted = (name for name in outbox_settings().accounts if name not in found)
    return {name for name in wanted if (made := declared_fields(name)) is not None and not made.problems}


def make_missing(names: Collection[str]) -> None:
    """Make the rows of these declared accounts."""
    for name in sorted(names):
        make(name)


def make(name: str) -> Account | None:
    """The row of a declared account, which is made if it is missing; None: the settings declare none that could work.

    Another process may make it at the same time, and a person may have given its name to another account.  In a
    caller's transaction it is made beside that, so that nobody waits for the transaction's end.
    """
    made = declared_fields(name)
    if made is None or made.problems:
        return None
    return _on_own_connection(_insert, made) if _has_other_callers() else _insert(made)


@retried
def _insert(made: DeclaredFields) -> Account | None:
    account = Account(name=made.declared.name, source=SETTINGS, **made.columns)
    try:
        with atomic():
            account.save(force_insert=True)
    except IntegrityError:
        found: Account | None = Account.objects.filter(name=made.declared.name).first()
        if found is None:
            raise
        return found if found.name == made.declared.name else None  # “Shop” is “shop” in MariaDB
    _written_at[made.declared] = monotonic()
    return account


def _on_own_connection(function: Callable[[DeclaredFields], Account | None], made: DeclaredFields) -> Account | None:
    """Call the function in a thread, which has a connection to the database of its own."""

    def call() -> Account | None:
        try:
            return function(made)
        finally:
            connections[outbox_alias()].close()

    with ThreadPoolExecutor(1, "prx-email-account") as executor:
        return executor.submit(call).result()


def _has_other_callers() -> bool:
    """Whether a transaction is open that others may have to wait for, and another connection reaches the same tables.

    The transaction of a ``TestCase`` is alone, and so is every writer of SQLite.  A backend that is not Django's may
    keep more in its connection, as django-tenants keeps the schema.
    """
    connection: Any = connections[outbox_alias()]
    if not type(connection).__module__.startswith("django.db.backends."):
        return False
    if connection.vendor == "sqlite" or any(
        getattr(block, "_from_testcase", False) for block in connection.atomic_blocks
    ):
        return False
    return _is_in_transaction(connection)


def _is_in_transaction(connection: Any) -> bool:
    inside = any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return inside or not (connection.in_atomic_block or connection.get_autocommit())


def keep_equal(account: Account) -> None:
    """Write the settings to the row of an account that was read and differs, but not in a caller's transaction.

    There the row, or what workers have learned of the account, would hold others until that transaction ends.
    """
    made = declared_fields(account.name) if account.settings_differ else None
    if made is None or monotonic() < _written_at.get(made.declared, -WRITE_AGAIN_AFTER) + WRITE_AGAIN_AFTER:
        return
    connection: Any = connections[outbox_alias()]
    would_wait = connection.vendor == "mysql" and not connection.features.has_select_for_update_skip_locked
    if would_wait or _is_in_transaction(connection):
        return
    if _write(account.pk):
        _written_at[made.declared] = monotonic()


@retried
def _write(account_id: int) -> bool:
    """Whether the row is as the settings declare it now; False: another transaction holds it."""
    with atomic():
        account = _unlocked().filter(pk=account_id, source=SETTINGS).first()
        if account is None:
            return False
        if account.settings_differ:
            account.save()
        return True


def _unlocked() -> QuerySet[Account]:
    """Rows that nobody holds, with a lock that no message of the account waits for in PostgreSQL.

    SQLite has one writer at a time, and no such lock.
    """
    features: Any = connections[outbox_alias()].features
    rows: QuerySet[Account] = Account.objects.select_for_update(
        skip_locked=features.has_select_for_update_skip_locked, no_key=features.has_select_for_no_key_update
    )
    return rows
