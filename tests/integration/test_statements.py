"""SQL statements for one message, with BEGIN and COMMIT: account, account state and outbox state are read once."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from tests.support.factories import account, mail

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

#: PostgreSQL needs one statement to record an acceptance and a transaction to claim; other databases the reverse.
SEND = {"postgresql": 10}.get(connection.vendor, 13)
DRAIN = {"sqlite": 18, "postgresql": 17}.get(connection.vendor, 20)


def test_a_send_does_not_read_the_same_rows_twice() -> None:
    owner = account()
    assert prx.send(**mail(owner)).status == "sent"  # creates the state rows of the account
    with CaptureQueriesContext(connection) as statements:
        assert prx.send(**mail(owner)).status == "sent"
    assert len(statements) <= SEND, [query["sql"] for query in statements.captured_queries]


def test_a_drain_of_one_message_does_not_read_the_same_rows_twice() -> None:
    owner = account()
    prx.enqueue(**mail(owner))
    assert prx.drain().sent == 1
    prx.enqueue(**mail(owner))
    with CaptureQueriesContext(connection) as statements:
        assert prx.drain().sent == 1
    assert len(statements) <= DRAIN, [query["sql"] for query in statements.captured_queries]


def test_a_drain_with_nothing_to_do_costs_at_most_six_statements() -> None:
    account()
    prx.drain()
    with CaptureQueriesContext(connection) as statements:
        assert prx.drain().claimed == 0
    assert len(statements) <= 6, [query["sql"] for query in statements.captured_queries]
