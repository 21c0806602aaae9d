"""Which errors mean that the database is away, and which that a statement is wrong."""

from __future__ import annotations

import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

from prx_email_django.store.absence import is_away


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
