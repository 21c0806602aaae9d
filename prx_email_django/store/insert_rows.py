"""enqueue on SQLite, MariaDB and MySQL: the rows and a look at the accounts, by statements that are written by hand.

By the ORM, queueing a message took eight times as much of the processor.  What is checked and written is what
PostgreSQL's one statement checks and writes (``insert_statement``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import IntegrityError, connections

from prx_email_django.models import Account, AccountState, OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import MOST_VALUES, database_now, instant_as_read
from prx_email_django.store.draft import Draft, row_of
from prx_email_django.store.insert_columns import columns_of, recipients_sql
from prx_email_django.store.insert_execution import Inserted, Unfit, Unsuited
from prx_email_django.store.insert_sql import version_of
from prx_email_django.store.inserted_rows import instance_maker
from prx_email_django.store.outbox import WAKE_AGAIN
from prx_email_django.store.short_transaction import short_transaction

#: Messages of one INSERT, and characters of all their columns: MariaDB and MySQL refuse a packet of more than 16 MB.
MOST_ROWS, MOST_TEXT = 500, 1_000_000
#: ``sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER``; a Python that is used with MariaDB may be built without that module.
_LIMIT_VARIABLE_NUMBER = 9


class _Seen(NamedTuple):
    """What one look has found of an account and of the outbox."""

    version: str
    size_limit: int
    #: When a drain was asked for; None: nobody asks.
    wake_requested_at: datetime | None
    moment: datetime


def insert_rows(connection: Any, drafts: Sequence[Draft], *, now: datetime | None, asks: bool) -> Inserted:
    """Write drafts without files, all or none.

    Raises:
        Unfit: nothing was written.
    """
    if any(draft.raw is not None or draft.parts for draft in drafts):
        raise Unsuited
    if len(drafts) > 1 and not _returns_keys(connection):
        raise Unsuited  # MySQL gives back the key of one row only
    keyed = [draft for draft in drafts if draft.idempotency_key is not None]
    if keyed and len(drafts) > 1:
        raise Unsuited  # which of them is known would be unknown
    rows = [row_of(draft) for draft in drafts]
    try:
        with short_transaction(connection, in_autocommit=asks) as cursor:
            if connection.vendor == "sqlite":
                # The write comes first: SQLite refuses one that follows a read, where another has written meanwhile.
                moment = now or database_now()
                ids = _insert(cursor, connection, drafts, rows, moment=moment)
                seen = _look_at_accounts(cursor, connection, drafts, now=moment, asks=asks)
            else:
                seen = _look_at_accounts(cursor, connection, drafts, now=now, asks=asks)
                if keyed and _is_known(cursor, drafts[0], rows[0]):
                    return Inserted([None], is_due=False, asked=None)
                ids = _insert(cursor, connection, drafts, rows, moment=seen.moment)
    except IntegrityError as error:
        if keyed:  # the key is known
            return Inserted([None], is_due=False, asked=None)
        raise Unfit from error  # the account was deleted at this moment
    make = instance_maker(seen.moment, alias=connection.alias)
    messages: list[OutboxMessage | None] = [
        make(draft, row, pk, None) for draft, row, pk in zip(drafts, rows, ids, strict=True)
    ]
    is_due = any(draft.due_at is None or draft.due_at <= seen.moment for draft in drafts)
    asked_at = seen.wake_requested_at if now is None else None
    was_asked = asked_at is not None and asked_at >= seen.moment - WAKE_AGAIN
    return Inserted(messages, is_due=is_due, asked=False if was_asked else None)


def _returns_keys(connection: Any) -> bool:
    return bool(connection.features.can_return_rows_from_bulk_insert)


# The look


def _look_at_accounts(
    cursor: Any, connection: Any, drafts: Sequence[Draft], *, now: datetime | None, asks: bool
) -> _Seen:
    """Look at the account of each draft, and return the last look.

    Raises:
        Unfit: an account is gone or has changed, its server takes no message so large, or a draft is too old.
    """
    needs: dict[tuple[int, str], int] = {}
    for draft in drafts:
        of = draft.account.id, draft.version
        needs[of] = max(needs.get(of, 0), draft.least_size)
    for (pk, version), size in needs.items():
        seen = _look(cursor, connection, pk, now=now, asks=asks)
        if version not in ("", seen.version) or 0 < seen.size_limit < size:
            raise Unfit
    ends = [draft.fields["expires_at"] for draft in drafts if draft.fields.get("expires_at") is not None]
    if ends and min(ends) <= seen.moment:
        raise Unfit
    return seen


def _look(cursor: Any, connection: Any, account_id: int, *, now: datetime | None, asks: bool) -> _Seen:
    cursor.execute(_look_sql(outbox_alias(), asks=asks), [account_id])
    found = cursor.fetchone()
    if found is None:
        raise Unfit
    version, size_limit, asked, moment = found
    asked_at = instant_as_read(asked, connection)
    return _Seen(str(version), size_limit or 0, asked_at, now or moment.replace(tzinfo=UTC))


@lru_cache(maxsize=4)
def _look_sql(alias: str, *, asks: bool) -> str:
    """The look; in a caller's transaction not at the outbox's row, which a serializable one would lock for drains."""
    quote = connections[alias].ops.quote_name
    account, account_state, state = (quote(model._meta.db_table) for model in (Account, AccountState, OutboxState))
    clock = "NULL" if connections[alias].vendor == "sqlite" else "UTC_TIMESTAMP(6)"
    asked, joined = ("o.wake_requested_at", f"LEFT JOIN {state} o ON o.id = 1") if asks else ("NULL", "")
    return f"""SELECT {version_of("a", alias)}, s.size_limit, {asked}, {clock}
 FROM {account} a LEFT JOIN {account_state} s ON s.account_id = a.id {joined}
 WHERE a.id = %s"""  # noqa: S608  (names of columns only)


def _is_known(cursor: Any, draft: Draft, row: dict[str, Any]) -> bool:
    """Whether the account has a message with this key."""
    table = connections[outbox_alias()].ops.quote_name(OutboxMessage._meta.db_table)
    sql = f"SELECT 1 FROM {table} WHERE account_id = %s AND idempotency_hash = %s"  # noqa: S608  (a name)
    cursor.execute(sql, [draft.account.id, row["idempotency_hash"]])
    return cursor.fetchone() is not None


# The rows


def _insert(
    cursor: Any, connection: Any, drafts: Sequence[Draft], rows: Sequence[dict[str, Any]], *, moment: datetime
) -> list[int]:
    """Insert the messages with their recipients, and return the keys of the messages, in order."""
    names = tuple(sorted(rows[0] if len(rows) == 1 else set().union(*rows)))
    columns, instant = columns_of(outbox_alias(), names), connection.ops.adapt_datetimefield_value(moment)
    most, text = min(MOST_ROWS, _most_values(connection) // columns.width), 0
    ids: list[int] = []
    params: list[Any] = []
    for draft, row in zip(drafts, rows, strict=True):
        due = instant if draft.due_at is None else connection.ops.adapt_datetimefield_value(draft.due_at)
        values = [draft.account.id, instant, instant, due, due, *columns.values_of(row, connection)]
        size = sum([len(value) for value in values if isinstance(value, str)])
        if params and (len(params) >= most * columns.width or text + size > MOST_TEXT):
            ids += _inserted(cursor, connection, names, params)
            params, text = [], 0
        params += values
        text += size
    ids += _inserted(cursor, connection, names, params)
    _insert_recipients(cursor, drafts, ids, most=_most_values(connection))
    return ids


def _most_values(connection: Any) -> int:
    """Values of one statement: a build of SQLite has a limit of its own (999 before 3.32)."""
    if connection.vendor != "sqlite":
        return MOST_VALUES
    return min(MOST_VALUES, int(connection.connection.getlimit(_LIMIT_VARIABLE_NUMBER)))


def _inserted(cursor: Any, connection: Any, names: tuple[str, ...], params: list[Any]) -> list[int]:
    sql = _messages_sql(outbox_alias(), names, len(params) // columns_of(outbox_alias(), names).width)
    if connection.features.can_return_columns_from_insert:
        cursor.execute(f"{sql} RETURNING id", params)
        # They are given in the order of the rows; the database may return them in any order.
        return sorted(int(pk) for (pk,) in cursor.fetchall())
    cursor.execute(sql, params)
    return [int(cursor.lastrowid)]


def _insert_recipients(cursor: Any, drafts: Sequence[Draft], ids: Sequence[int], *, most: int) -> None:
    rows = [
        value
        for pk, draft in zip(ids, drafts, strict=True)
        for kind, address in draft.recipients
        for value in (pk, kind, address)
    ]
    step = most // 3 * 3
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        cursor.execute(recipients_sql(outbox_alias(), len(part) // 3), part)


@lru_cache(maxsize=256)
def _messages_sql(alias: str, names: tuple[str, ...], rows: int) -> str:
    columns, table = columns_of(alias, names), connections[alias].ops.quote_name(OutboxMessage._meta.db_table)
    row = f"({', '.join([*['%s'] * columns.width, *columns.defaults])})"
    return f"INSERT INTO {table} ({', '.join(columns.names)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  (names)
