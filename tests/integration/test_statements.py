"""SQL statements for one message, with BEGIN and COMMIT: those that ``docs/design/decisions.md`` gives a reason for."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from tests.support.documents import tables
from tests.support.factories import account, mail

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

ENGINES = ("postgresql", "sqlite", "mysql")
SEND, DRAIN = (table for table in tables("docs/design/decisions.md") if table[0][0] == "`SELECT outboxstate`")
#: The most that one message may cost: the aim, and what an engine without a statement for two tables pays more.
MOST_FOR_SEND = {"postgresql": 11}.get(connection.vendor, 14)
MOST_FOR_DRAIN = {"postgresql": 15, "sqlite": 21}.get(connection.vendor, 24)


def named(table: list[list[str]]) -> list[str]:
    """The statements that the table has for this engine."""
    place = 2 + ENGINES.index(connection.vendor)
    return [row[0].strip("`") for row in table if row[place] != "·"]


def executed(call: Callable[[], object], *, prepare: Callable[[], object] = lambda: None) -> list[str]:
    """What the call executes: each statement's verb and first table.

    What is known is read again once a second, and an hour has a row of its own: a call that was slow, or met the turn
    of an hour, is repeated.
    """
    for _ in range(20):
        prepare()
        begun = monotonic()
        with CaptureQueriesContext(connection) as captured:
            call()
        texts = [query["sql"] for query in captured.captured_queries]
        found = [" ".join([text.split()[0], *re.findall(r"prx_email_django_([a-z]+)", text)[:1]]) for text in texts]
        if monotonic() - begun < 0.9 and "INSERT hourlycount" not in found:
            break
    return found


def test_a_send_executes_no_statement_without_a_reason() -> None:
    owner = account()
    assert prx.send(**mail(owner)).status == "sent"  # creates the state rows of the account
    statements = executed(lambda: prx.send(**mail(owner)))
    assert statements == named(SEND)
    assert len(statements) == MOST_FOR_SEND


def test_a_drain_of_one_message_executes_no_statement_without_a_reason() -> None:
    owner = account()

    def queue() -> None:
        prx.enqueue(**mail(owner))

    queue()
    assert prx.drain().sent == 1

    def drain() -> None:
        assert prx.drain().sent == 1

    statements = executed(drain, prepare=queue)
    assert statements == named(DRAIN)
    assert len(statements) == MOST_FOR_DRAIN


def test_a_drain_with_nothing_to_do_costs_at_most_seven_statements() -> None:
    account()
    prx.drain()
    with CaptureQueriesContext(connection) as statements:
        assert prx.drain().claimed == 0
    assert len(statements) <= 7, [query["sql"] for query in statements.captured_queries]
