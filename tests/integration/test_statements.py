"""SQL statements for one message, with BEGIN and COMMIT: no step reads again what an earlier step has read."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from tests.support.factories import account, mail

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

#: Where rows can be locked, a drain asks once whether a claim would get what is due, before it connects.
#: PostgreSQL needs one statement to claim, and one to record an acceptance; other databases a transaction for each.
#: One statement counts what was sent, and in a drain another says that the worker lives.  A drain that was asked for
#: looks once more at its end.
SEND = {"postgresql": 12}.get(connection.vendor, 15)
DRAIN = {"sqlite": 23, "postgresql": 17}.get(connection.vendor, 26)


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


def test_a_drain_with_nothing_to_do_costs_at_most_seven_statements() -> None:
    account()
    prx.drain()
    with CaptureQueriesContext(connection) as statements:
        assert prx.drain().claimed == 0
    assert len(statements) <= 7, [query["sql"] for query in statements.captured_queries]
