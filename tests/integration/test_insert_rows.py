"""Queueing on SQLite, MariaDB and MySQL by statements of our own: all rows or none, of an account that is as it was."""

from __future__ import annotations

import gc
import sqlite3
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import sleep
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection, connections, transaction

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.compose import known
from prx_email_django.models import Account, OutboxMessage, OutboxState, Recipient
from prx_email_django.store import db, insert_columns, insert_rows, insert_statement
from prx_email_django.store.insert_sql import version_of
from tests.support.factories import account, mail
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

#: PostgreSQL, whose one statement these tests do not concern, runs those that hold for every database.
IS_POSTGRES = connection.vendor == "postgresql"
needs_rows = pytest.mark.skipif(IS_POSTGRES, reason="PostgreSQL queues by one statement")


@pytest.fixture
def _as_on_mysql(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message too is written by ``insert_rows``."""
    monkeypatch.setattr(insert_statement, "can_insert_one", lambda _: False)


def given(number: int, **more: Any) -> dict[str, Any]:
    return {"to": f"c{number}@example.org", "subject": f"s{number}", "body_text": f"text {number}", **more}


def written() -> list[tuple[str, str, list[str]]]:
    return [
        (row.subject, row.body_text, list(row.recipients.order_by("pk").values_list("address", flat=True)))
        for row in OutboxMessage.objects.order_by("pk")
    ]


@pytest.mark.parametrize(("most_rows", "most_text"), [(3, 10**6), (500, 20), (1, 1)])
def test_a_list_that_needs_several_statements_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch, most_rows: int, most_text: int
) -> None:
    owner = account()
    monkeypatch.setattr(insert_rows, "MOST_ROWS", most_rows)
    monkeypatch.setattr(insert_rows, "MOST_TEXT", most_text)
    monkeypatch.setattr(insert_rows, "MOST_VALUES", 60)
    rows = prx.enqueue_many((given(n, cc=[f"d{n}@example.org"] * (n % 3)) for n in range(10)), account=owner)
    expected = [(f"s{n}", f"text {n}", [f"c{n}@example.org", *[f"d{n}@example.org"] * (n % 3 > 0)]) for n in range(10)]
    assert written() == expected
    assert [(row.pk, row.subject) for row in rows] == list(
        OutboxMessage.objects.order_by("pk").values_list("pk", "subject")
    )


@needs_rows
@pytest.mark.usefixtures("_as_on_mysql")
def test_an_account_that_is_deleted_at_this_moment_gets_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account("known")
    look, looks = insert_rows._look_at_accounts, []

    def deletes(cursor: Any, *args: Any, **options: Any) -> Any:
        seen = look(cursor, *args, **options)
        looks.append(seen)
        table = connection.ops.quote_name(Account._meta.db_table)
        if connection.vendor == "mysql":  # of an account without a message nothing else refers to it
            cursor.execute(f"DELETE FROM {connection.ops.quote_name('prx_email_django_accountstate')}")
        cursor.execute(f"DELETE FROM {table} WHERE id = %s", [owner.pk])
        return seen

    monkeypatch.setattr(insert_rows, "_look_at_accounts", deletes)
    # The account is back when the transaction is undone, and the ordinary way finds it.
    assert prx.enqueue(**mail("known")).account_id == owner.pk
    assert len(looks) == 1
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 1


@needs_rows
@pytest.mark.usefixtures("_as_on_mysql")
def test_a_key_that_another_caller_writes_at_this_moment_gives_that_message(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account()
    first = prx.enqueue(**mail(owner, idempotency_key="k"))
    monkeypatch.setattr(insert_rows, "_is_known", lambda *_: False)
    assert prx.enqueue(**mail(owner, idempotency_key="k")).pk == first.pk
    with transaction.atomic():
        assert prx.enqueue(**mail(owner, idempotency_key="k")).pk == first.pk
        assert prx.enqueue(**mail(owner)).pk != first.pk
    assert OutboxMessage.objects.count() == 2


@needs_rows
@pytest.mark.usefixtures("_as_on_mysql")
def test_a_database_that_returns_no_keys_gives_that_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MySQL: several rows are then written by the ORM, one by one."""
    owner = account()
    for feature in ("can_return_columns_from_insert", "can_return_rows_from_bulk_insert"):
        monkeypatch.setattr(type(connection.features), feature, False)
    one = prx.enqueue(**mail(owner))
    rows = prx.enqueue_many((given(n) for n in range(3)), account=owner)
    assert [one.pk, *(row.pk for row in rows)] == list(
        OutboxMessage.objects.order_by("pk").values_list("pk", flat=True)
    )


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite has transactions that become writers")
def test_no_message_is_refused_where_transactions_of_sqlite_begin_as_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django's default is DEFERRED: a write that follows a read is refused at once if another has written meanwhile."""
    owner, errors = account(), []
    monkeypatch.setattr(db, "CONFLICT_TRIES", 1)

    def queue(first: int) -> None:
        try:
            connections[connection.alias].ensure_connection()
            connections[connection.alias].transaction_mode = "DEFERRED"  # type: ignore[attr-defined]
            for number in range(first, first + 40):
                prx.enqueue(account=owner.name, **given(number))
                prx.enqueue(account=owner.name, idempotency_key=str(number % 100), **given(number))
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=queue, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert OutboxMessage.objects.count() == 4 * 40 + 40


def sessions() -> int:
    """The sessions of this test's database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()")
        return int(cursor.fetchone()[0])


@pytest.mark.skipif(connection.vendor != "mysql", reason="the others do not show sessions in this way")
def test_the_session_of_a_thread_ends_with_it() -> None:
    """What is kept from one call to the next keeps no connection: its locks would stay too."""
    owner, before = account(), sessions()
    insert_columns.columns_of.cache_clear()

    def work(options: dict[str, Any]) -> None:
        connections[connection.alias].set_autocommit(False)
        prx.enqueue(**mail(owner, **options))

    for options in ({}, {"cc": "x@example.org"}, {"tag": "t"}, {"idempotency_key": "k"}):
        thread = Thread(target=work, args=(options,))
        thread.start()
        thread.join()
    for _ in range(50):
        gc.collect()
        if sessions() == before:
            break
        sleep(0.1)  # the server ends a session a moment after its client
    assert sessions() == before
    assert OutboxMessage.objects.count() == 0


@pytest.mark.skipif(IS_POSTGRES, reason="PostgreSQL stores instants with their zone")
def test_an_instant_is_stored_in_the_zone_of_the_present_connection() -> None:
    owner, later = account(), datetime(2030, 6, 1, 12, tzinfo=UTC)
    options = {"expires_at": later + timedelta(hours=1), "send_at": later}
    insert_columns.columns_of.cache_clear()

    def work() -> None:
        prx.enqueue(**mail(owner, **options))
        connections.close_all()

    thread = Thread(target=work)  # with a connection whose zone stays
    thread.start()
    thread.join()
    before = connection.settings_dict["TIME_ZONE"]
    try:
        set_zone("Asia/Tokyo")
        row = OutboxMessage.objects.get(pk=prx.enqueue(**mail(owner, **options)).pk)
        assert (row.expires_at, row.next_attempt_at) == (later + timedelta(hours=1), later)
    finally:
        set_zone(before)


def set_zone(name: str | None) -> None:
    own = connections[connection.alias]
    own.close()  # as Django's own tests change it
    own.settings_dict["TIME_ZONE"] = name
    for cached in ("timezone", "timezone_name"):
        vars(own).pop(cached, None)


@pytest.mark.skipif(connection.vendor != "mysql", reason="an isolation level of MariaDB and MySQL")
def test_a_serializable_transaction_keeps_no_drain_from_its_beginning() -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    connection.close()
    connection.settings_dict["OPTIONS"]["isolation_level"] = "serializable"
    errors: list[BaseException] = []

    def begins() -> None:
        try:
            with connections[connection.alias].cursor() as cursor:
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
            OutboxState.objects.filter(pk=1).update(last_drain_at=None)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    try:
        with transaction.atomic():
            assert prx.enqueue(**mail("known")).account_id == owner.pk
            thread = Thread(target=begins)
            thread.start()
            thread.join(PATIENCE)
    finally:
        del connection.settings_dict["OPTIONS"]["isolation_level"]
        connection.close()
    assert errors == []


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a limit of SQLite")
def test_a_build_of_sqlite_that_takes_few_parameters() -> None:
    owner = account()
    connection.ensure_connection()
    before = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    try:
        prx.enqueue_many((given(n) for n in range(500)), account=owner)
        prx.enqueue(**mail(owner, cc=[f"c{n}@example.org" for n in range(700)]))
    finally:
        connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)
    assert len(written()) == 501
    assert Recipient.objects.count() == 500 + 701


@pytest.mark.parametrize("more", [{"metadata": {"x": "y" * 60_000}}, {"body_html": "y" * 60_000}])
def test_a_list_of_large_messages_fits_the_packets_of_the_database(more: dict[str, Any]) -> None:
    rows = prx.enqueue_many((given(n, **more) for n in range(400)), account=account())
    assert len(rows) == OutboxMessage.objects.count() == 400


def test_a_file_does_not_make_other_messages_read_their_account_anew() -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    before = known.get(connection, "known")
    prx.enqueue(**mail("known"), attachment=("a.txt", b"text"))
    email = EmailMessage("S", "T", "f@example.com", ["e@example.com"])
    email.attach("a.txt", "text", "text/plain")
    email.outbox_account = owner.name  # type: ignore[attr-defined]
    OutboxEmailBackend().send_messages([email])
    assert before is not None
    assert known.get(connection, "known") is before
    assert OutboxMessage.objects.count() == 3


def test_the_version_of_an_account_holds_all_that_its_row_holds() -> None:
    """PostgreSQL knows by itself that a row has changed."""
    version = version_of("a")
    columns = [connection.ops.quote_name(str(field.column)) for field in Account._meta.concrete_fields]
    assert IS_POSTGRES or [column for column in columns if f"a.{column}" not in version] == []
    owner = account("known")
    prx.enqueue(**mail("known"))
    assert known.get(connection, "known") is not None
    Account.objects.filter(pk=owner.pk).update(display_name="A new name")
    assert prx.enqueue(**mail("known")).from_email.startswith("A new name")
