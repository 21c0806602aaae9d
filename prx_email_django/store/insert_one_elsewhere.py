"""enqueue on SQLite and MariaDB: one message, which is the common case.

SQLite writes message and recipients by two statements of a short transaction; MariaDB by one compound statement, since
each statement is a round trip.  Both ask first whether the draft fits its account, as PostgreSQL's statement does
(``insert_one``).  MySQL has neither RETURNING nor compound statements outside a stored program (``insert_rows``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from django.db import IntegrityError, ProgrammingError, connections

from prx_email_django.models import Account, AccountState, OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import atomic, database_now, instant_as_read
from prx_email_django.store.draft import Draft, row_of
from prx_email_django.store.insert_columns import FIRST, RECIPIENT, columns_of, recipient_columns, recipients_sql
from prx_email_django.store.insert_execution import Inserted, Unfit, Unsuited
from prx_email_django.store.insert_sql import version_of
from prx_email_django.store.inserted_rows import instance_maker
from prx_email_django.store.outbox import WAKE_AGAIN
from prx_email_django.store.short_transaction import short_transaction

#: MariaDB: the statement cannot be parsed.
SYNTAX_ERROR = 1064


def can_insert_one(connection: Any) -> bool:
    """Whether the database takes these statements; MariaDB's writes its own instants, which are UTC."""
    if connection.vendor == "sqlite":
        return bool(connection.features.can_return_columns_from_insert)
    is_mariadb = connection.vendor == "mysql" and connection.mysql_is_mariadb
    return bool(is_mariadb and connection.timezone is not None and connection.timezone_name == "UTC")


def insert_one_elsewhere(connection: Any, draft: Draft, *, now: datetime | None, asks: bool) -> Inserted:
    """Write a draft without files.

    Raises:
        Unfit: nothing was written.
    """
    row = row_of(draft)
    write = _on_sqlite if connection.vendor == "sqlite" else _on_mariadb
    try:
        pk, moment, asked_at = write(connection, draft, row, now=now, asks=asks)
    except IntegrityError as error:
        if draft.idempotency_key is not None:  # the key is known
            return Inserted([None], is_due=False, asked=None)
        raise Unfit from error  # the account was deleted at this moment
    if pk is None:
        return Inserted([None], is_due=False, asked=None)
    message = instance_maker(moment, alias=connection.alias)(draft, row, pk, None)
    is_due = draft.due_at is None or draft.due_at <= moment
    was_asked = now is None and asked_at is not None and asked_at >= moment - WAKE_AGAIN
    return Inserted([message], is_due=is_due, asked=False if was_asked else None)


def _fitting(alias: str, *, versioned: bool) -> str:
    """FROM and WHERE of the draft's account, where it and its server take the draft.

    Parameters: the account's key, its version where there is one, the least size of the message.
    """
    quote = connections[alias].ops.quote_name
    account, account_state = quote(Account._meta.db_table), quote(AccountState._meta.db_table)
    return f"""FROM {account} a LEFT JOIN {account_state} s ON s.account_id = a.id
 WHERE a.id = %s {f"AND {version_of('a', alias)} = %s" if versioned else ""}
 AND (COALESCE(s.size_limit, 0) = 0 OR s.size_limit >= %s)"""


def _fitting_values(draft: Draft) -> list[Any]:
    return [draft.account.id, *([draft.version] if draft.version else []), draft.least_size]


def _asked(alias: str, *, asks: bool) -> str:
    """When a drain was asked for; in a caller's transaction nobody looks, since that may lock the row for drains."""
    return f"(SELECT wake_requested_at FROM {_table(alias, OutboxState)} WHERE id = 1)" if asks else "NULL"


def _table(alias: str, model: Any) -> str:
    return connections[alias].ops.quote_name(model._meta.db_table)


# SQLite


def _on_sqlite(
    connection: Any, draft: Draft, row: Mapping[str, Any], *, now: datetime | None, asks: bool
) -> tuple[int, datetime, datetime | None]:
    alias, names, moment = outbox_alias(), tuple(sorted(row)), now or database_now()
    if (expires_at := row.get("expires_at")) is not None and expires_at <= moment:
        raise Unfit
    adapt = connection.ops.adapt_datetimefield_value
    instant = adapt(moment)
    due = instant if draft.due_at is None else adapt(draft.due_at)
    values = columns_of(alias, names).values_of(row, connection)
    params = [instant, instant, due, due, *values, *_fitting_values(draft)]
    with short_transaction(connection, in_autocommit=asks) as cursor:
        # The write comes first: SQLite refuses one that follows a read, where another has written meanwhile.
        cursor.execute(_sqlite_sql(alias, names, versioned=bool(draft.version), asks=asks), params)
        written = cursor.fetchall()
        if not written:
            raise Unfit
        pk, asked = written[0]
        given = [value for kind, address in draft.recipients for value in (pk, kind, address)]
        cursor.execute(recipients_sql(alias, len(draft.recipients)), given)
        # Before the commit: a text that a person wrote there may be no instant.
        asked_at = instant_as_read(asked and datetime.fromisoformat(asked), connection)
    return pk, moment, asked_at


@lru_cache(maxsize=256)
def _sqlite_sql(alias: str, names: tuple[str, ...], *, versioned: bool, asks: bool) -> str:
    columns = columns_of(alias, names)
    values = ["a.id", *["%s"] * (columns.width - 1), *columns.defaults]
    asked = f"{_asked(alias, asks=asks)} || ''"  # an expression, so that the driver leaves the text as it is
    return f"""INSERT INTO {_table(alias, OutboxMessage)} ({", ".join(columns.names)})
 SELECT {", ".join(values)} {_fitting(alias, versioned=versioned)} RETURNING id, {asked}"""


# MariaDB


def _on_mariadb(
    connection: Any, draft: Draft, row: Mapping[str, Any], *, now: datetime | None, asks: bool
) -> tuple[int | None, datetime, datetime | None]:
    alias, names, adapt = outbox_alias(), tuple(sorted(row)), connection.ops.adapt_datetimefield_value
    params = [now and adapt(now), draft.due_at and adapt(draft.due_at), *_fitting_values(draft)]
    if expires := (expires_at := row.get("expires_at")) is not None:
        params.append(adapt(expires_at))
    if draft.idempotency_key is not None:
        params += [draft.account.id, row["idempotency_hash"]]
    params += [draft.account.id, *columns_of(alias, names).values_of(row, connection)]
    params += chain.from_iterable(draft.recipients)
    sql = _mariadb_sql(_Shape(alias, names, len(draft.recipients), bool(draft.version), expires, asks))
    try:
        if asks:
            found = _execute(connection, sql, params)
        else:  # Django's savepoint, since whatever fails must leave the caller's transaction as it was
            with atomic(), connection.cursor() as cursor:
                cursor.execute(sql, params)
                found = cursor.fetchone()
    except ProgrammingError as error:
        if error.args[0] != SYNTAX_ERROR:
            raise
        raise Unsuited from error  # sql_mode=ORACLE spells compound statements in another way
    pk, is_known, moment, asked = found
    if not pk and not is_known:
        raise Unfit
    return pk or None, moment.replace(tzinfo=UTC), asked and asked.replace(tzinfo=UTC)


def _execute(connection: Any, sql: str, params: list[Any]) -> Any:
    """Execute a statement that holds a transaction, of which Django knows nothing.

    The session must not stay in it where the statement was cut off: what comes next would be part of it.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone()
    except BaseException:
        try:
            connection.connection.rollback()
        except Exception:  # noqa: BLE001  (lost, or in the middle of an answer: the server ends what it has begun)
            with suppress(Exception):
                connection.close()
        raise


class _Shape(NamedTuple):
    """What the text of MariaDB's statement depends on."""

    alias: str
    #: Columns that the draft gives.
    names: tuple[str, ...]
    recipients: int
    versioned: bool
    expires: bool
    asks: bool


@lru_cache(maxsize=256)
def _mariadb_sql(shape: _Shape) -> str:
    """The compound statement; its variables have a prefix, since they would hide columns of the same name.

    It reads before its transaction begins, and by SELECT … INTO: in a serializable transaction, and as a variable's
    default, InnoDB would lock what it reads.
    """
    alias, asks = shape.alias, shape.asks
    columns, message = columns_of(alias, shape.names), _table(alias, OutboxMessage)
    recipient, recipient_names = recipient_columns(alias)
    instants = ["prx_moment", "prx_moment", "prx_due", "prx_due"]
    values = ["%s", *instants, *["%s"] * (columns.width - len(FIRST)), *columns.defaults]
    rows = ", ".join([RECIPIENT.replace("%s", "prx_id", 1)] * shape.recipients)
    look = f"SELECT COUNT(*) INTO prx_known FROM {message} WHERE account_id = %s AND idempotency_hash = %s;"
    return f"""BEGIN NOT ATOMIC
 DECLARE prx_moment DATETIME(6) DEFAULT COALESCE(%s, UTC_TIMESTAMP(6));
 DECLARE prx_due DATETIME(6) DEFAULT COALESCE(%s, prx_moment);
 DECLARE prx_asked DATETIME(6);
 DECLARE prx_fit, prx_known, prx_id BIGINT DEFAULT 0;
 SELECT COUNT(*), {_asked(alias, asks=asks)} INTO prx_fit, prx_asked {_fitting(alias, versioned=shape.versioned)}
 {"AND %s > prx_moment" if shape.expires else ""};
 {look if "idempotency_hash" in shape.names else ""}
 IF prx_fit AND NOT prx_known THEN
  {"START TRANSACTION;" if asks else ""}
  INSERT INTO {message} ({", ".join(columns.names)}) VALUES ({", ".join(values)});
  SET prx_id = LAST_INSERT_ID();
  INSERT INTO {recipient} ({recipient_names}) VALUES {rows};
  {"COMMIT AND NO CHAIN NO RELEASE;" if asks else ""}
 END IF;
 SELECT prx_id, prx_fit AND prx_known, prx_moment, prx_asked;
END"""
