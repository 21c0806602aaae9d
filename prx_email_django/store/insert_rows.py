"""enqueue on SQLite, MariaDB and MySQL: the rows and a look at the accounts, by statements that are written by hand.

The ORM took three times as long to write these statements as all else that queueing a message needs.  What is checked
and written is what PostgreSQL's one statement checks and writes (``insert_statement``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple

from django.db import IntegrityError, connections
from django.db.models import CharField, Field, TextField
from django.utils.timezone import make_aware

from prx_email_django.models import Account, AccountState, OutboxMessage, OutboxState, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import MOST_VALUES, atomic
from prx_email_django.store.draft import Draft, row_of
from prx_email_django.store.insert_execution import Inserted, Unfit
from prx_email_django.store.insert_sql import literal, version_of
from prx_email_django.store.inserted_rows import attributes, instance_maker
from prx_email_django.store.outbox import WAKE_AGAIN

#: Messages of one INSERT, and characters of their texts: MariaDB and MySQL refuse a packet of more than 16 MB.
MOST_ROWS, MOST_TEXT = 500, 1_000_000
#: Columns of ``OutboxMessage`` that follow from the draft and the moment.
_INSTANTS = ("created_at", "updated_at", "next_attempt_at", "due_since")
#: What a preparation of values does where nothing is to be done.
_AS_IT_IS = None


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
        raise Unfit
    if len(drafts) > 1 and not _returns_keys(connection):
        raise Unfit  # MySQL gives back the key of one row only
    keyed = [draft for draft in drafts if draft.idempotency_key is not None]
    if keyed and len(drafts) > 1:
        raise Unfit  # which of them is known would be unknown
    rows = [row_of(draft) for draft in drafts]
    try:
        with atomic(), connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                # The write comes first: SQLite refuses one that follows a read, where another has written meanwhile.
                moment = now or datetime.now(UTC)
                ids = _insert(cursor, connection, drafts, rows, moment=moment)
                seen = _look_at_accounts(cursor, connection, drafts, now=moment)
            else:
                seen = _look_at_accounts(cursor, connection, drafts, now=now)
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
    asked_at = seen.wake_requested_at
    was_asked = asks and asked_at is not None and asked_at >= seen.moment - WAKE_AGAIN and now is None
    return Inserted(messages, is_due=is_due, asked=False if was_asked else None)


def _returns_keys(connection: Any) -> bool:
    return bool(connection.features.can_return_rows_from_bulk_insert)


# The look


def _look_at_accounts(cursor: Any, connection: Any, drafts: Sequence[Draft], *, now: datetime | None) -> _Seen:
    """Look at the account of each draft, and return the last look.

    Raises:
        Unfit: an account is gone or has changed, its server takes no message so large, or a draft is too old.
    """
    needs: dict[tuple[int, str], int] = {}
    for draft in drafts:
        of = draft.account.id, draft.version
        needs[of] = max(needs.get(of, 0), draft.least_size)
    for (pk, version), size in needs.items():
        seen = _look(cursor, connection, pk, now=now)
        if version not in ("", seen.version) or 0 < seen.size_limit < size:
            raise Unfit
    ends = [draft.fields["expires_at"] for draft in drafts if draft.fields.get("expires_at") is not None]
    if ends and min(ends) <= seen.moment:
        raise Unfit
    return seen


def _look(cursor: Any, connection: Any, account_id: int, *, now: datetime | None) -> _Seen:
    cursor.execute(_look_sql(outbox_alias()), [account_id])
    found = cursor.fetchone()
    if found is None:
        raise Unfit
    version, size_limit, asked, moment = found
    # As Django reads an instant: without a zone, in that of the connection.
    asked_at = asked and make_aware(asked, connection.timezone)
    return _Seen(str(version), size_limit or 0, asked_at, now or moment.replace(tzinfo=UTC))


@lru_cache(maxsize=4)
def _look_sql(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    account, account_state, state = (quote(model._meta.db_table) for model in (Account, AccountState, OutboxState))
    clock = "NULL" if connections[alias].vendor == "sqlite" else "UTC_TIMESTAMP(6)"
    return f"""SELECT {version_of("a", alias)}, s.size_limit, o.wake_requested_at, {clock}
 FROM {account} a LEFT JOIN {account_state} s ON s.account_id = a.id LEFT JOIN {state} o ON o.id = 1
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
    columns = _columns(outbox_alias(), names)
    instant = connection.ops.adapt_datetimefield_value(moment)
    ids: list[int] = []
    for start, end in _parts(drafts, columns.width):
        params: list[Any] = []
        for draft, row in zip(drafts[start:end], rows[start:end], strict=True):
            due = instant if draft.due_at is None else connection.ops.adapt_datetimefield_value(draft.due_at)
            params += (draft.account.id, instant, instant, due, due)
            for name, prepared in columns.given:
                value = row[name] if name in row else _default(name)
                params.append(value if prepared is _AS_IT_IS else prepared(value))
        ids += _inserted(cursor, connection, columns, params, rows=end - start)
    _insert_recipients(cursor, drafts, ids)
    return ids


def _inserted(cursor: Any, connection: Any, columns: _Columns, params: list[Any], *, rows: int) -> list[int]:
    sql = columns.sql_of(rows)
    if connection.features.can_return_columns_from_insert:
        cursor.execute(f"{sql} RETURNING id", params)
        # They are given in the order of the rows; the database may return them in any order.
        return sorted(int(pk) for (pk,) in cursor.fetchall())
    cursor.execute(sql, params)
    return [int(cursor.lastrowid)]


def _insert_recipients(cursor: Any, drafts: Sequence[Draft], ids: Sequence[int]) -> None:
    rows = [
        value
        for pk, draft in zip(ids, drafts, strict=True)
        for kind, address in draft.recipients
        for value in (pk, kind, address)
    ]
    most = MOST_VALUES // 3 * 3
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        cursor.execute(_recipients_sql(outbox_alias(), len(part) // 3), part)


@lru_cache(maxsize=256)
def _recipients_sql(alias: str, rows: int) -> str:
    quote = connections[alias].ops.quote_name
    names = ", ".join(map(quote, ("message_id", "kind", "address", "result", "text")))
    values = ", ".join(["(%s, %s, %s, '', '')"] * rows)
    return f"INSERT INTO {quote(Recipient._meta.db_table)} ({names}) VALUES {values}"  # noqa: S608  (names)


def _parts(drafts: Sequence[Draft], width: int) -> Iterator[tuple[int, int]]:
    """Places of drafts that go in one statement, of so many values each."""
    most, start, text = min(MOST_ROWS, MOST_VALUES // width), 0, 0
    for place, draft in enumerate(drafts):
        if place > start and (place - start >= most or text + draft.size > MOST_TEXT):
            yield start, place
            start, text = place, 0
        text += draft.size
    yield start, len(drafts)


class _Columns(NamedTuple):
    """The columns that are written of each message."""

    #: Name of a column that drafts give, and what prepares a value for it.
    given: list[tuple[str, Callable[[Any], Any] | None]]
    #: Values of a message.
    width: int
    sql_of: Callable[[int], str]


@lru_cache(maxsize=256)
def _columns(alias: str, names: tuple[str, ...]) -> _Columns:
    """The columns of drafts that give these."""
    connection, fields = connections[alias], {field.name: field for field in OutboxMessage._meta.concrete_fields}
    given = [(name, _prepared(fields[name], connection)) for name in names]
    first = [str(fields[name].column) for name in ("account", *_INSTANTS)]
    others = {
        str(field.column): literal(field)
        for field in fields.values()
        if field.column not in first and field.name not in names and _needs_value(field)
    }
    columns = [*first, *(str(fields[name].column) for name in names), *others]
    row = f"({', '.join([*['%s'] * (len(first) + len(names)), *others.values()])})"
    quote = connection.ops.quote_name
    begin = f"INSERT INTO {quote(OutboxMessage._meta.db_table)} ({', '.join(map(quote, columns))}) VALUES "  # noqa: S608
    sql_of = lru_cache(maxsize=32)(lambda rows: begin + ", ".join([row] * rows))
    return _Columns(given, len(first) + len(names), sql_of)


def _needs_value(field: Any) -> bool:
    return not (field.null or field.primary_key or getattr(field, "generated", False))


def _prepared(field: Field[Any, Any], connection: Any) -> Callable[[Any], Any] | None:
    """What prepares a value for the column; texts, which are nearly all, go as they are."""
    if type(field) in (CharField, TextField):
        return _AS_IT_IS
    return partial(field.get_db_prep_save, connection=connection)


def _default(name: str) -> Any:
    """What a draft means that does not give this column."""
    _, constants, others = attributes()
    return constants[name] if name in constants else dict(others)[name]()
