"""Rows of the accounts that the settings declare: made, and kept equal to the settings.

Nothing is written where nothing differs, and nobody waits: an account that is read has the values of the settings
whatever its row says (``models.declared``), so a row that another transaction holds is written at a later use.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from time import monotonic
from typing import Any

from django.db import IntegrityError, connections
from django.db.models import QuerySet

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.declared import DeclaredAccount
from prx_email_django.models import Account
from prx_email_django.models.declared import SETTINGS, declared_fields
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


@retried
def make(name: str) -> bool:
    """Make the row of a declared account; False: the settings declare none that could work.

    Another process may make it at the same time, and a person may have given its name to another account.
    """
    made = declared_fields(name)
    if made is None or made.problems:
        return False
    try:
        with atomic():
            Account(name=name, source=SETTINGS, **made.columns).save(force_insert=True)
    except IntegrityError:
        if not _exists(name):
            raise
    else:
        _written_at[made.declared] = monotonic()
    return True


def _exists(name: str) -> bool:
    """Asked as the last committed state has it: a repeatable read would not show another transaction's row."""
    if connections[outbox_alias()].vendor != "mysql":
        return bool(Account.objects.filter(name=name).exists())
    with atomic():
        return bool(Account.objects.select_for_update().filter(name=name).values_list("pk"))


def keep_equal(account: Account) -> None:
    """Write the settings to the row of an account that was read and differs, unless that could make anybody wait.

    In MariaDB and MySQL a row that is changed in a caller's transaction would hold every ``enqueue`` of the account
    until that transaction ends.
    """
    made = declared_fields(account.name) if account.settings_differ else None
    if made is None or monotonic() < _written_at.get(made.declared, -WRITE_AGAIN_AFTER) + WRITE_AGAIN_AFTER:
        return
    if not _may_write():
        return
    if _write(account.pk):
        _written_at[made.declared] = monotonic()


def _may_write() -> bool:
    """Whether a write now waits for nobody, and lets nobody wait."""
    connection: Any = connections[outbox_alias()]
    if connection.vendor != "mysql":
        return True
    inside = any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    is_open = inside or not bool(connection.in_atomic_block or connection.get_autocommit())
    return not is_open and bool(connection.features.has_select_for_update_skip_locked)


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
    """Rows that nobody holds, with a lock; SQLite has one writer at a time and knows no such lock."""
    skips = connections[outbox_alias()].features.has_select_for_update_skip_locked
    rows: QuerySet[Account] = Account.objects.select_for_update(skip_locked=skips)
    return rows
