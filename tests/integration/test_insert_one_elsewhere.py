"""Queueing one message on SQLite and MariaDB: what is cut off leaves nothing behind, neither rows nor a transaction."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper
from django.db.transaction import TransactionManagementError
from django.test import SimpleTestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import Account, AccountState, OutboxMessage, Recipient
from prx_email_django.store import insert_one_elsewhere, insert_statement
from tests.support.factories import account, mail
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("memory_transport")]

needs_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="a transaction of SQLite")
needs_mariadb = pytest.mark.skipif(connection.vendor != "mysql", reason="a statement of MariaDB")
not_on_postgres = pytest.mark.skipif(connection.vendor == "postgresql", reason="PostgreSQL has a statement of its own")


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways by which messages were written: ``one`` or ``rows``."""
    taken: list[str] = []

    def noting(name: str, way: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            taken.append(name)
            return way(*args, **options)

        return write

    monkeypatch.setattr(insert_statement, "insert_one_elsewhere", noting("one", insert_statement.insert_one_elsewhere))
    monkeypatch.setattr(insert_statement, "insert_rows", noting("rows", insert_statement.insert_rows))
    return taken


def is_in_transaction() -> bool:
    if connection.vendor == "sqlite":
        return bool(connection.connection.in_transaction)
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@in_transaction")
        return bool(cursor.fetchone()[0])


def raises_at(text: str, error: BaseException) -> Any:
    """A host's wrapper that fails at a statement."""

    def wrapper(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if text in sql:
            raise error
        return execute(sql, params, many, context)

    return connection.execute_wrapper(wrapper)


@not_on_postgres
def test_one_message_is_written_by_the_short_way(ways: list[str]) -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    prx.enqueue(**mail(owner, cc=[f"c{n}@example.org" for n in range(99)], metadata={"order": "ä"}))
    with transaction.atomic():
        prx.enqueue(**mail("known", idempotency_key="k"))
    assert ways == ["one"] * 3
    prx.enqueue(**mail(owner, cc=[f"c{n}@example.org" for n in range(100)]))
    assert ways[3:] == ["rows"]
    assert Recipient.objects.count() == 1 + 100 + 1 + 101


TEXTS = ["100% %s %(x)s", "back\\slash \\' \\\" '", "emoji 😀 ü 漢字", "? ; -- /* */ :name", "END; ROLLBACK; "]
MODES = ["", "NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES", "ANSI_QUOTES,STRICT_TRANS_TABLES"]
#: What differs between two rows in any case.
OWN = {"id", "created_at", "updated_at", "idempotency_key", "idempotency_hash"}


@not_on_postgres
@pytest.mark.parametrize("mode", MODES)
def test_the_short_way_writes_what_the_long_one_writes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account("known")
    if connection.vendor == "mysql" and mode:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = %s", [mode])
    later = timezone.now() + timedelta(hours=2)
    for text in TEXTS:
        options = mail("known", subject=text, body_text=text, body_html=f"<p>{text}", tag=text[:20], send_at=later)
        options |= {"cc": ["Ännä <a@example.org>", "b@example.org"], "metadata": {"k": text, "l": [text]}}
        options |= {"headers": {"X-A": "b%s"}, "expires_at": later + timedelta(hours=1)}
        made = prx.enqueue(**options, idempotency_key=text)
        with monkeypatch.context() as patch:
            patch.setattr(insert_statement, "can_insert", lambda _: False)
            patch.setattr("prx_email_django.api.queueing.can_insert", lambda _: False)
            other = OutboxMessage.objects.get(pk=prx.enqueue(**options, idempotency_key=f"{text} 2").pk)
        stored = OutboxMessage.objects.get(pk=made.pk)
        for name in [field.attname for field in OutboxMessage._meta.concrete_fields if field.name not in OWN]:
            assert getattr(stored, name) == getattr(other, name) == getattr(made, name), name
        assert stored.created_at == stored.updated_at == made.created_at
        columns = ("kind", "address", "address_lower", "result", "code", "text")
        assert [list(row.recipients.order_by("pk").values_list(*columns)) for row in (stored, other)] == [
            [(kind, to, to.lower(), "", None, "") for kind, to in recipients(options)]
        ] * 2
        assert prx.enqueue(**options, idempotency_key=text).pk == made.pk
    connection.close()


def recipients(options: dict[str, Any]) -> list[tuple[str, str]]:
    return [("to", options["to"]), ("cc", "a@example.org"), ("cc", "b@example.org")]


def test_callers_with_the_same_keys_get_the_same_messages() -> None:
    account("known")
    prx.enqueue(**mail("known"))
    found: list[tuple[int, int]] = []
    errors: list[Exception] = []

    def queue() -> None:
        try:
            found.extend((n, prx.enqueue(**mail("known", idempotency_key=f"k{n}")).pk) for n in range(40))
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [Thread(target=queue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert (len(found), len(set(found))) == (160, 40)
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 41


@needs_mariadb
def test_a_trigger_of_the_host_does_not_change_the_key() -> None:
    account("known")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE prx_log (id BIGINT AUTO_INCREMENT PRIMARY KEY, m BIGINT) AUTO_INCREMENT = 90000")
        cursor.execute(
            "CREATE TRIGGER prx_test AFTER INSERT ON prx_email_django_outboxmessage FOR EACH ROW"
            " INSERT INTO prx_log (m) VALUES (NEW.id)"
        )
    try:
        message = prx.enqueue(**mail("known"))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER prx_test")
            cursor.execute("DROP TABLE prx_log")
    assert OutboxMessage.objects.get().pk == message.pk == Recipient.objects.get().message_id


@not_on_postgres
@pytest.mark.parametrize("inside", [False, True])
def test_a_draft_that_does_not_fit_its_account_any_more_is_not_written(inside: bool, ways: list[str]) -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    prx.enqueue(**mail("known"))
    AccountState.objects.update_or_create(account=owner, defaults={"size_limit": 50})

    def refuse() -> None:
        with pytest.raises(InvalidMessage):
            prx.enqueue(**mail("known", body_text="x" * 100))
        AccountState.objects.update(size_limit=0)
        Account.objects.filter(pk=owner.pk).update(email="new@example.com")
        assert prx.enqueue(**mail("known")).from_email == "new@example.com"

    if inside:
        with transaction.atomic():
            refuse()
    else:
        refuse()
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 3
    assert not is_in_transaction()
    assert "rows" not in ways


@not_on_postgres
def test_a_message_that_has_expired_is_refused(ways: list[str]) -> None:
    account("known")
    prx.enqueue(**mail("known"))
    with pytest.raises(InvalidMessage):
        prx.enqueue(**mail("known", expires_at=timezone.now() - timedelta(seconds=5)))
    later = timezone.now() + timedelta(hours=1)
    message = prx.enqueue(**mail("known", expires_at=later, send_at=later - timedelta(minutes=5)))
    stored = OutboxMessage.objects.get(pk=message.pk)
    assert stored.expires_at == message.expires_at == later
    assert stored.next_attempt_at == message.next_attempt_at == stored.due_since
    assert (stored.created_at, stored.claim_rank) == (message.created_at, message.claim_rank)


@needs_sqlite
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), OperationalError("disk I/O error")])
@pytest.mark.parametrize("place", ["outboxmessage", "recipient"])
def test_an_error_between_the_statements_leaves_nothing(error: BaseException, place: str) -> None:
    account("known")
    prx.enqueue(**mail("known"))
    with pytest.raises(type(error)), raises_at(f'INSERT INTO "prx_email_django_{place}"', error):
        prx.enqueue(**mail("known"))
    assert not is_in_transaction()
    assert connection.get_autocommit()
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 1
    prx.enqueue(**mail("known"))
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 2


@needs_sqlite
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), OperationalError("disk I/O error")])
@pytest.mark.parametrize("place", ["outboxmessage", "recipient"])
def test_an_error_between_the_statements_leaves_the_callers_transaction(error: BaseException, place: str) -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    with transaction.atomic():
        Account.objects.filter(pk=owner.pk).update(display_name="changed")
        with pytest.raises(type(error)), raises_at(f'INSERT INTO "prx_email_django_{place}"', error):
            prx.enqueue(**mail(owner))
        assert OutboxMessage.objects.count() == Recipient.objects.count() == 1
        prx.enqueue(**mail(owner))
    assert Account.objects.get().display_name == "changed"
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 2


@needs_sqlite
def test_a_transaction_that_the_database_has_ended_is_not_used_any_more() -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))

    def ends(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if "INSERT" not in sql:
            return execute(sql, params, many, context)
        connection.connection.rollback()
        raise OperationalError("database or disk is full")

    with pytest.raises(TransactionManagementError), transaction.atomic():
        Account.objects.filter(pk=owner.pk).update(display_name="changed")
        with pytest.raises(OperationalError), connection.execute_wrapper(ends):
            prx.enqueue(**mail(owner))
        OutboxMessage.objects.count()
    assert OutboxMessage.objects.count() == 1


@needs_sqlite
def test_a_transaction_that_was_begun_by_hand_is_left_as_it_was() -> None:
    account("known")
    prx.enqueue(**mail("known"))
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        Account.objects.update(display_name="changed")
        with pytest.raises(OperationalError, match="within a transaction"):
            prx.enqueue(**mail("known"))
        assert is_in_transaction()
        cursor.execute("COMMIT")
    assert Account.objects.get().display_name == "changed"


@needs_sqlite
def test_a_cursor_of_the_hosts_backend_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    account("known")
    prx.enqueue(**mail("known"))
    made: list[str] = []
    own = connections[connection.alias]

    class Backend(type(own)):  # type: ignore[misc]
        def create_cursor(self, name: Any = None) -> Any:
            made.append("cursor")
            return super().create_cursor(name)

    monkeypatch.setattr(own, "__class__", Backend)
    prx.enqueue(**mail("known"))
    assert made
    assert OutboxMessage.objects.count() == 2


WITHOUT_SQLITE = """
import sys
sys.modules["sqlite3"] = sys.modules["_sqlite3"] = None
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "prx_email_django"], SECRET_KEY="x")
import django
django.setup()
import prx_email_django.store.insert_statement
"""


@needs_sqlite
def test_a_python_without_sqlite_can_import_the_package() -> None:
    """As one that is used with MariaDB may be built."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SQLITE], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_test_that_forbids_the_database_forbids_it_here_too() -> None:
    account("known")
    prx.enqueue(**mail("known"))
    prx.enqueue(**mail("known"))

    class Forbids(SimpleTestCase):
        pass

    Forbids._add_databases_failures()  # type: ignore[attr-defined]
    try:
        with pytest.raises(AssertionError, match="not allowed in SimpleTestCase"):
            prx.enqueue(**mail("known"))
    finally:
        Forbids._remove_databases_failures()  # type: ignore[attr-defined]
        Forbids.doClassCleanups()
        for name in ("connect", "temporary_connection", "cursor", "chunked_cursor"):
            vars(connections[connection.alias]).pop(name, None)  # Django leaves its methods there
    assert OutboxMessage.objects.count() == 2


@not_on_postgres
def test_the_log_of_statements_holds_them() -> None:
    account("known")
    prx.enqueue(**mail("known"))
    with CaptureQueriesContext(connection) as captured:
        prx.enqueue(**mail("known", subject="A subject to find"))
    assert any("A subject to find" in query["sql"] for query in captured)


@contextmanager
def at_recipients(statement: str) -> Iterator[None]:
    """What happens where the second table is written."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TRIGGER prx_test BEFORE INSERT ON prx_email_django_recipient FOR EACH ROW {statement}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER prx_test")


#: A statement that the server cuts off, and one that fails.
SECONDS = {"SET @prx_test = SLEEP(60)": 1, "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'": 0}


@needs_mariadb
@pytest.mark.parametrize("statement", SECONDS)
def test_a_statement_that_the_server_cuts_off_leaves_no_transaction(statement: str) -> None:
    """A handler within the statement would not run then: the server ends it where it is."""
    account("known")
    prx.enqueue(**mail("known"))
    with at_recipients(statement):
        with connection.cursor() as cursor:
            cursor.execute("SET max_statement_time = %s", [SECONDS[statement]])
        with pytest.raises(DatabaseError):
            prx.enqueue(**mail("known"))
        assert not is_in_transaction()
        connection.close()
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 1


@needs_mariadb
@pytest.mark.parametrize("statement", SECONDS)
def test_a_statement_that_the_server_cuts_off_leaves_the_callers_transaction(statement: str) -> None:
    owner = account("known")
    prx.enqueue(**mail("known"))
    with at_recipients(statement):
        with transaction.atomic():
            Account.objects.filter(pk=owner.pk).update(display_name="changed")
            with connection.cursor() as cursor:
                cursor.execute("SET max_statement_time = %s", [SECONDS[statement]])
            with pytest.raises(DatabaseError):
                prx.enqueue(**mail(owner))
            assert OutboxMessage.objects.count() == 1
        connection.close()
    assert Account.objects.get().display_name == "changed"
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 1


@needs_mariadb
def test_an_error_before_the_first_table_leaves_the_callers_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that catches the error and ends its block would lose its work, and nobody would tell it."""
    owner = account("known")
    sql_of, missing = insert_one_elsewhere._mariadb_sql, "LEFT JOIN no_such_table ON TRUE LEFT JOIN"
    monkeypatch.setattr(
        insert_one_elsewhere, "_mariadb_sql", lambda shape: sql_of(shape).replace("LEFT JOIN", missing, 1)
    )
    with transaction.atomic():
        Account.objects.filter(pk=owner.pk).update(display_name="changed")
        with pytest.raises(DatabaseError, match="no_such_table"):
            prx.enqueue(**mail(owner))
    assert Account.objects.get().display_name == "changed"


@needs_mariadb
def test_no_transaction_stays_open_where_commits_chain() -> None:
    account("known")
    prx.enqueue(**mail("known"))  # it asks for a drain, by a transaction of Django's
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION completion_type = 'CHAIN'")
    try:
        prx.enqueue(**mail("known"))
        assert not is_in_transaction()
    finally:
        connection.close()
    assert OutboxMessage.objects.count() == 2


@needs_mariadb
@pytest.mark.parametrize("code", [1213, 1206])  # a deadlock, and too many locks
def test_a_transaction_that_met_a_deadlock_is_not_used_any_more(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account("known")

    def rolled_back(self: Any, sql: str, params: Any = None) -> Any:
        if sql.startswith("BEGIN NOT ATOMIC"):
            execute(self, "ROLLBACK")  # what the server does with the transaction that it chooses
            raise OperationalError(code, "the server has ended the transaction")
        return execute(self, sql, params)

    execute = CursorWrapper.execute
    with pytest.raises(TransactionManagementError), transaction.atomic():
        Account.objects.filter(pk=owner.pk).update(display_name="changed")
        monkeypatch.setattr(CursorWrapper, "execute", rolled_back)
        with pytest.raises(OperationalError, match="has ended"):
            prx.enqueue(**mail(owner))
        monkeypatch.undo()
        OutboxMessage.objects.count()
    assert OutboxMessage.objects.count() == 0


@needs_mariadb
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_exit_while_the_answer_is_read_leaves_no_transaction(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    account("known")
    prx.enqueue(**mail("known"))
    execute = CursorWrapper.execute

    def exits(self: Any, sql: str, params: Any = None) -> Any:
        if sql.startswith("BEGIN NOT ATOMIC"):
            # As far as a statement comes that is cut off: it has begun its transaction.
            execute(self, "START TRANSACTION")
            execute(self, "UPDATE prx_email_django_account SET display_name = 'half'")
            raise error
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", exits)
    with pytest.raises(type(error)):
        prx.enqueue(**mail("known"))
    monkeypatch.undo()
    assert not is_in_transaction()
    assert Account.objects.get().display_name != "half"


@needs_mariadb
def test_a_session_with_oracles_syntax_takes_the_other_way() -> None:
    account("known")
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'ORACLE'")
    try:
        prx.enqueue(**mail("known"))
        with transaction.atomic():
            prx.enqueue(**mail("known"))
    finally:
        connection.close()
    assert OutboxMessage.objects.count() == Recipient.objects.count() == 2


@needs_mariadb
def test_another_error_of_the_statement_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    account("known")
    monkeypatch.setattr(insert_one_elsewhere, "_mariadb_sql", lambda *_, **__: "SELECT * FROM no_such_table")
    with pytest.raises(DatabaseError, match="no_such_table|arguments"):
        prx.enqueue(**mail("known"))
