"""The statement that queues a message is planned once for a connection, and only where that can go well."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import (
    DatabaseError,
    InternalError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.compose import known
from prx_email_django.errors import AccountUnavailable, InvalidMessage
from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store import claims, prepared, prepared_sessions
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.cursor import ClaimCursor
from prx_email_django.store.finalize import finalize
from prx_email_django.store.libpq_parameters import NotPrepared
from prx_email_django.store.outbox import outbox_state
from prx_email_django.worker.outgoing import ClaimedMessage
from tests.support.factories import NOW, account, at, backlog, mail, outcome, take_one

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL's statement is prepared"),
]


@pytest.fixture(autouse=True)
def _a_new_connection() -> Any:
    connection.close()
    known.forget()
    outbox_state()
    yield
    connection.close()


MESSAGE = {"to": "ann@example.org", "subject": "Good day", "body_text": "Words."}


def names() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE name LIKE 'prx_%%'")
        return [name for (name,) in cursor.fetchall()]


def queue(**options: Any) -> OutboxMessage:
    return prx.enqueue(**mail("known", **options))


def test_a_statement_is_prepared_once_and_writes_the_same() -> None:
    account("known")
    for number in range(3):
        queue(subject=f"Number {number}", metadata={"é": number})
    assert len(names()) == 1
    with transaction.atomic():
        rows = [queue(subject=f"Number {number}", metadata={"é": number}) for number in range(3)]
        assert len(names()) == 2
    assert len(names()) == 3  # after the transaction a look whether a drain was asked for
    held = list(OutboxMessage.objects.order_by("pk"))
    assert [row.subject for row in held] == [f"Number {number}" for number in (0, 1, 2, 0, 1, 2)]
    assert [row.pk for row in held[3:]] == [row.pk for row in rows]
    assert {row.metadata == {"é": number % 3} for number, row in enumerate(held)} == {True}
    assert Recipient.objects.count() == 6


def test_a_key_that_is_known_is_found_by_the_prepared_statement_too() -> None:
    account("known")
    assert len({queue(idempotency_key="order-1").pk for _ in range(4)}) == 1
    assert OutboxMessage.objects.count() == 1


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_statement_that_was_lost_is_executed_all_the_same(in_transaction: bool) -> None:
    """A pooler, or the host, discards what a session has prepared."""
    account("known")
    for _ in range(3):
        with transaction.atomic() if in_transaction else nullcontext():
            queue()
    assert names()
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    for _ in range(2):
        with transaction.atomic() if in_transaction else nullcontext():
            queue()
    assert OutboxMessage.objects.count() == 5
    assert not names()


def other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler names a process of its own at login."""
    note = prepared_sessions.note_process
    monkeypatch.setattr(prepared_sessions, "note_process", lambda connection, process: note(connection, process + 1))


def test_nothing_is_prepared_behind_a_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    account("known")
    other_process(monkeypatch)
    for _ in range(3):
        queue()
    with transaction.atomic():
        queue()
    assert not names()


@pytest.mark.parametrize("behind_pooler", [False, True])
def test_the_first_statement_of_a_connection_sends_its_lists_in_binary_too(
    behind_pooler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text the server read each character of the bodies twice: a process that queues once paid that for all."""
    if behind_pooler:
        note = prepared_sessions.note_process
        monkeypatch.setattr(
            prepared_sessions, "note_process", lambda connection, process: note(connection, process + 1)
        )
    account("known")
    seen: list[set[str]] = []

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.lstrip().startswith("WITH"):
            seen.append({type(value).__name__ for value in params if "Number" in str(value)})
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        for batch in range(3):
            subjects = [f"Number {batch} {number}, é" for number in range(3)]
            prx.enqueue_many(({**MESSAGE, "subject": subject} for subject in subjects), account="known")
    assert seen == [{"list"}] * 3
    assert len(names()) == (not behind_pooler)
    wanted = [f"Number {batch} {number}, é" for batch in range(3) for number in range(3)]
    assert list(OutboxMessage.objects.order_by("pk").values_list("subject", flat=True)) == wanted


def test_nothing_is_prepared_where_the_options_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    account("known")
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "prepare_threshold", None)
    for _ in range(3):
        queue()
    assert not names()


def test_nothing_is_prepared_where_somebody_else_makes_the_cursors(monkeypatch: pytest.MonkeyPatch) -> None:
    """django-tenants sets the search path when it makes a cursor: without it a message went into another schema."""
    account("known")
    wrapper: Any = type(connections["default"])
    djangos = wrapper._cursor

    def cursor(self: Any, name: str | None = None) -> Any:
        return djangos(self, name)

    monkeypatch.setattr(wrapper, "_cursor", cursor)
    for _ in range(3):
        queue()
    assert not names()


def is_ready() -> bool:
    return prepared_sessions.is_ready(connection, "SELECT %s::int")


def test_nothing_is_prepared_while_statements_are_logged(settings: Any) -> None:
    account("known")
    queue(), queue()
    for debug in (False, True, False):
        settings.DEBUG = debug
        assert is_ready() is (not debug)
        with override_settings(DEBUG=not debug):
            assert is_ready() is debug
        connection.force_debug_cursor = True
        assert not is_ready()
        connection.force_debug_cursor = False


def test_a_connection_is_refused_as_django_refuses_it() -> None:
    """In another thread, and in a coroutine: nothing is executed."""
    account("known")
    queue(), queue()
    default = connections["default"]

    def execute() -> object:
        return prepared.execute(default, "SELECT %s::int", [1])

    async def in_coroutine() -> object:
        return execute()

    assert execute() == [(b"1",)]
    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(in_coroutine())
    with ThreadPoolExecutor() as pool, pytest.raises(DatabaseError, match="created in a thread"):
        pool.submit(execute).result()
    default.inc_thread_sharing()
    with ThreadPoolExecutor() as pool:
        assert pool.submit(execute).result() == [(b"1",)]
    default.dec_thread_sharing()


def test_only_some_statements_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number of recipients is a statement of its own."""
    account("known")
    monkeypatch.setattr(prepared_sessions, "MOST", 2)
    queue()
    for number in (1, 2, 3, 4, 1, 3):
        queue(to=[f"person{other}@example.org" for other in range(number)])
    assert len(names()) == 2
    assert Recipient.objects.count() == 1 + 14


def test_a_text_that_postgresql_cannot_hold_is_refused_and_not_cut() -> None:
    account("known")
    queue(), queue()
    for text in ("a NUL \x00 here", "a lone surrogate \udc80"):
        with pytest.raises(InvalidMessage):
            queue(body_text=text)
    with pytest.raises(InvalidMessage), transaction.atomic():
        queue(metadata={"n": "\x00"})
    assert OutboxMessage.objects.count() == 2
    with pytest.raises(NotPrepared):
        prepared.execute(connection, "SELECT %s::text", ["\x00"])


def test_an_error_of_the_statement_is_djangos_and_is_seen_by_execute_wrappers() -> None:
    account("known")
    queue(), queue()
    seen: list[str] = []

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        queue()
    assert len(seen) == 1
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    with pytest.raises(InternalError, match="read-only"):
        queue()


def test_a_plan_that_depends_on_the_size_of_a_table_is_made_anew() -> None:
    """A plan for a nearly empty table reads all of it: such a plan must not outlive the growth of the table."""
    account("known")
    queue(), queue()

    def prepared_at() -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT prepare_time FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1::int + 41%%'"
            )
            return cursor.fetchall()

    def fetch(plan_for: float) -> list[tuple[Any, ...]]:
        return prepared.fetch(connection, "SELECT %s::int + 41", [1], plan_for=plan_for)

    assert fetch(60) == fetch(60) == [(b"42",)]
    first = prepared_at()
    assert len(first) == 1
    assert fetch(0) == [(b"42",)]
    assert len(prepared_at()) == 1
    assert prepared_at() != first
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    assert fetch(0) == [(42,)], "it was lost, and is executed all the same"
    with transaction.atomic():
        assert fetch(60) == [(42,)]


def test_a_plan_is_kept_as_long_as_those_before_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that grows doubles ever more seldom, and each new plan costs the database five."""
    now = 100.0
    monkeypatch.setattr(prepared, "monotonic", lambda: now)
    monkeypatch.setattr(prepared_sessions, "monotonic", lambda: now)
    session = prepared_sessions.Session()
    session.note_prepared("one")
    planned: list[float] = []
    for eighth in range(8 * 200):
        now = 100.0 + eighth / 8
        if prepared.is_outdated(session, "one", 1.0):
            session.note_prepared("one")
            planned.append(now - 100)
    assert planned == [1.125, 2.375, 4.875, 9.875, 19.875, 39.875, 79.875, 140.0]
    assert not prepared.is_outdated(session, "one", None)


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_claims_and_groups_of_any_size_keep_their_plans(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the planner knew that a list is short, its plan for this list seemed cheaper than one for all lists.

    It was planned for each group then, which took as long as to execute it.
    """
    monkeypatch.setattr(prepared, "is_outdated", lambda *_: False)  # however slow the machine is
    owner = account("known")
    OutboxMessage.objects.bulk_create(
        OutboxMessage(account=owner, status="sent", sent_at=NOW, subject="s", body_text="words " * 200)
        for _ in range(2000)
    )
    backlog(owner, 8 * size)
    with connection.cursor() as sql:
        sql.execute(f"ANALYZE {OutboxMessage._meta.db_table}")
    clock, cursor = at(None), ClaimCursor()
    for _ in range(8):
        taken = claims.claim(owner.pk, limit=size, hold_limit=size, clock=clock, cursor=cursor).claims
        said = [outcome(Ending.ACCEPTED, claim) for claim in taken]
        finalize(
            [
                FinishedAttempt(claim, result, result.recipients, started_at=clock.now, finished_at=clock.now)
                for claim, result in zip(taken, said, strict=True)
            ],
            clock=clock,
        )
    assert not OutboxMessage.objects.exclude(status="sent").exists()
    with connection.cursor() as sql:
        sql.execute(
            "SELECT custom_plans, generic_plans, statement FROM pg_prepared_statements WHERE name LIKE 'prx_%%'"
        )
        plans = {statement.split()[1]: (custom, generic) for custom, generic, statement in sql.fetchall()}
    # The first statement of a connection is not prepared.
    assert (plans["due"], plans["few"]) == ((5, 2), (5, 3))


def test_a_message_that_cannot_be_rendered_says_so_however_often_it_is_asked() -> None:
    (row,) = backlog(account(), 1)
    OutboxMessage.objects.filter(pk=row.pk).update(envelope_from="Ann <bad")
    outgoing = ClaimedMessage(take_one(row, now=at(None).now), clock=at(None))
    first, second = outgoing.render(), outgoing.render()
    assert first is not None and second is not None and "must be one address" in first.error == second.error


@pytest.mark.parametrize("on_class", [True, False])
def test_who_replaces_ensure_connection_is_asked_for_each_message(
    monkeypatch: pytest.MonkeyPatch, *, on_class: bool
) -> None:
    """So does pytest-django, to forbid access to the database."""
    account("known")
    queue()

    def forbid(*_: object) -> None:
        raise RuntimeError("no access to the database here")

    with monkeypatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper if on_class else connections["default"], "ensure_connection", forbid)
        with pytest.raises(RuntimeError, match="no access"):
            prx.enqueue(account="known", **MESSAGE)
    assert OutboxMessage.objects.count() == 1


def test_a_wrapper_that_executes_nothing_is_an_error_of_django() -> None:
    account("known")
    queue()
    with connection.execute_wrapper(lambda *_: None), pytest.raises(DatabaseError):
        prx.enqueue(account="known", **MESSAGE)
    assert OutboxMessage.objects.count() == 1


def test_an_error_of_enqueue_keeps_nothing_of_an_earlier_try() -> None:
    account("known")
    queue()
    OutboxMessage.objects.all().delete()
    Account.objects.update(is_active=False)
    with pytest.raises(AccountUnavailable) as caught:
        prx.enqueue(account="known", **MESSAGE)
    assert caught.value.__context__ is None
