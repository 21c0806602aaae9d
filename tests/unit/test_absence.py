"""Which errors mean that the database is away, and which that a statement is wrong."""

from __future__ import annotations

import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)

from prx_email_django.store.absence import is_away, is_missing, may_pass


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("server closed the connection unexpectedly"),
        OperationalError("connection to server on socket failed: No such file or directory"),
        OperationalError(2006, "Server has gone away"),
        OperationalError(2013, "Lost connection to server during query"),
        OperationalError(1290, "The MariaDB server is running with the --read-only option"),
        OperationalError(
            1142, "UPDATE command denied to user 'shop'@'localhost' for table 'prx_email_django_outboxmessage'"
        ),
        OperationalError("database or disk is full"),
        OperationalError("attempt to write a readonly database"),
        OperationalError("database is locked"),
        InterfaceError("connection already closed"),
        InternalError("cannot execute UPDATE in a read-only transaction"),
        InternalError("terminating connection due to idle-in-transaction timeout"),
        DatabaseError("file is not a database"),
    ],
)
def test_every_error_of_the_connection_means_wait(error: Exception) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("value too long for type character varying(255)"),
        IntegrityError("duplicate key value violates unique constraint"),
        ProgrammingError("column does not exist"),
        OperationalError("no such table: prx_email_django_account"),
        OperationalError("no such column: tag"),
        OperationalError(1366, "Incorrect string value"),
        OperationalError(1054, "Unknown column 'tag' in 'field list'"),
        ValueError("not of the database"),
    ],
)
def test_an_error_of_a_statement_is_raised_at_once(error: Exception) -> None:
    assert not is_away(error)


class _Diagnosis:
    def __init__(self, source_function: str) -> None:
        self.source_function = source_function


def of_postgresql(error: Exception, sqlstate: str, source_function: str = "") -> Exception:
    """The error as Django raises it for PostgreSQL."""
    error.__cause__ = cause = Exception()
    cause.sqlstate, cause.diag = sqlstate, _Diagnosis(source_function)  # type: ignore[attr-defined]
    return error


def test_a_lost_or_outdated_prepared_statement_means_wait() -> None:
    """A pooler gave the session another process, or a column has been added: the statement is prepared anew."""
    assert is_away(of_postgresql(ProgrammingError('prepared statement "_pg3_0" does not exist'), "26000"))
    assert is_away(of_postgresql(ProgrammingError('prepared statement "_pg3_0" already exists'), "42P05"))
    changed = "der Ergebnistyp eines gespeicherten Plans darf sich nicht ändern"
    assert is_away(of_postgresql(NotSupportedError(changed), "0A000", "RevalidateCachedQuery"))
    assert not is_away(of_postgresql(NotSupportedError("FOR UPDATE is not allowed"), "0A000", "CheckSelectLocking"))


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("no such table: prx_email_django_account"),
        OperationalError("no such column: tag"),
        OperationalError(1054, "Unknown column 'tag' in 'field list'"),
        ProgrammingError(1146, "Table 'shop.prx_email_django_outboxmessage' doesn't exist"),
        of_postgresql(ProgrammingError('relation "prx_email_django_outboxmessage" does not exist'), "42P01"),
        of_postgresql(ProgrammingError('schema "shop" does not exist'), "3F000"),
    ],
)
def test_results_outlive_missing_tables(error: Exception) -> None:
    """A backup is being restored, or ``search_path`` leads elsewhere; a process that begins needs a migration."""
    assert is_missing(error) and may_pass(error)
    assert not is_away(error)


def test_an_error_of_a_statement_does_not_pass() -> None:
    assert not may_pass(ProgrammingError("syntax error"))
    assert not may_pass(OperationalError(1366, "Incorrect string value"))
