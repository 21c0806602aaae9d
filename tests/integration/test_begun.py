"""A statement that is begun: whoever uses the connection meanwhile finds it free, and the result comes all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DataError, Error, OperationalError, connections, transaction

import prx_email_django as prx
from prx_email_django import signals
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.store import claims, finalize, prepared_sessions
from prx_email_django.store.begun import Begun, begin
from prx_email_django.store.outbox import outbox_state
from prx_email_django.store.prepared import execute
from prx_email_django.transports.memory import shared
from tests.support.factories import account, backlog

#: Not Django's proxy of it, which has attributes of its own.
connection: Any = connections["default"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="only statements of PostgreSQL are begun"),
]

NUMBER = "SELECT %s::int"
SLOW = "SELECT pg_sleep(0.05), %s::int"
INVERSE = "SELECT 1 / %s::int"


@pytest.fixture(autouse=True)
def _a_session_that_prepares() -> Any:
    connection.close()
    connection.ensure_connection()
    prepared_sessions.note_process(connection, connection.connection.info.backend_pid)
    for sql in (NUMBER, SLOW, INVERSE):
        execute(connection, sql, [1], plan_for=60)
    yield
    connection.close()


def begun(sql: str, number: int) -> Begun:
    found = begin(connection, sql, [number], plan_for=60)
    assert found is not None
    return found


def selected() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 42")
        return int(cursor.fetchone()[0])


def in_a_transaction() -> int:
    with transaction.atomic():
        return selected()


def by_the_orm() -> int:
    outbox_state()  # get_or_create: a transaction of Django's own
    return selected()


def by_another_prepared_statement() -> int:
    return int(execute(connection, NUMBER, [42], plan_for=60)[0][0])


def by_another_begun_statement() -> int:
    return int(begun(NUMBER, 42).rows()[0][0])


@pytest.mark.parametrize(
    "use", [selected, in_a_transaction, by_the_orm, by_another_prepared_statement, by_another_begun_statement]
)
def test_the_connection_can_be_used_meanwhile(use: Callable[[], int]) -> None:
    first = begun(SLOW, 7)
    assert use() == 42
    assert first.rows()[0][1] == b"7"
    assert first.rows()[0][1] == b"7", "it may be asked again"
    assert "ensure_connection" not in vars(connection)


def test_an_error_is_told_to_whom_it_concerns_alone() -> None:
    first = begun(INVERSE, 0)
    assert selected() == 42
    with pytest.raises(DataError, match="division by zero"):
        first.rows()
    assert selected() == 42


def test_a_connection_that_breaks_is_told_to_whom_waits() -> None:
    first = begun(SLOW, 7)
    connection.connection.pgconn.finish()
    with pytest.raises(Error):
        first.rows()
    connection.close()
    assert selected() == 42


def test_a_connection_that_is_closed_meanwhile_opens_again() -> None:
    first = begun(SLOW, 7)
    connection.close()
    assert selected() == 42
    with pytest.raises(Error):
        first.rows()


def test_a_statement_that_was_lost_is_executed_in_the_ordinary_way_from_then_on() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    with pytest.raises(Error):
        begun(NUMBER, 7).rows()
    assert begin(connection, NUMBER, [7], plan_for=60) is None


def not_prepared() -> Begun | None:
    return begin(connection, "SELECT %s::int + 1", [7], plan_for=60)


def to_be_planned_anew() -> Begun | None:
    return begin(connection, NUMBER, [7], plan_for=0)


def within_a_transaction() -> Begun | None:
    with transaction.atomic():
        return begin(connection, NUMBER, [7], plan_for=60)


def with_a_text_that_libpq_cuts() -> Begun | None:
    return begin(connection, NUMBER, ["7\x00"], plan_for=60)


def on_a_connection_that_is_gone() -> Begun | None:
    connection.connection.pgconn.finish()
    return begin(connection, NUMBER, [7], plan_for=60)


def not_executed_by_a_wrapper() -> Begun | None:
    with connection.execute_wrapper(lambda *_: None):
        return begin(connection, NUMBER, [7], plan_for=60)


def watched_by_somebody() -> Begun | None:
    ensure = connection.ensure_connection
    connection.ensure_connection = lambda: ensure()
    try:
        return begin(connection, NUMBER, [7], plan_for=60)
    finally:
        del connection.ensure_connection


@pytest.mark.parametrize(
    "attempt",
    [
        not_prepared,
        to_be_planned_anew,
        within_a_transaction,
        with_a_text_that_libpq_cuts,
        on_a_connection_that_is_gone,
        not_executed_by_a_wrapper,
        watched_by_somebody,
    ],
)
def test_what_needs_the_ordinary_way_is_not_begun(attempt: Callable[[], Begun | None]) -> None:
    assert attempt() is None
    connection.close()
    assert selected() == 42


def test_a_wrapper_of_the_host_that_fails_after_the_statement_leaves_a_free_connection() -> None:
    def fails_afterwards(run: Callable[..., Any], *given: Any) -> Any:
        run(*given)
        raise LookupError("the host's")

    with connection.execute_wrapper(fails_afterwards), pytest.raises(LookupError, match="the host's"):
        begin(connection, SLOW, [7], plan_for=60)
    assert selected() == 42


def test_a_receiver_of_signals_uses_the_connection_while_the_next_group_is_recorded(
    memory_transport: object,
) -> None:
    """With its own transactions, which fail on a connection that is in the middle of a statement."""
    owner = account("known", max_connections=2)
    backlog(owner, 120)
    seen: list[int] = []

    def receive(message: OutboxMessage, **_: Any) -> None:
        with transaction.atomic():
            assert OutboxMessage.objects.filter(pk=message.pk, status="sent").exists()
            OutboxMessage.objects.select_for_update().get(pk=message.pk)
        seen.append(message.pk)

    signals.message_sent.connect(receive)
    try:
        assert prx.drain(time_budget=60).sent == 120
    finally:
        signals.message_sent.disconnect(receive)
    assert sorted(seen) == sorted(OutboxMessage.objects.values_list("pk", flat=True))


class Other:
    """Another session, which ends ours."""

    def __init__(self) -> None:
        self.connection: Any = connection.copy()
        self.connection.connect()

    def end_ours(self) -> None:
        """End the session whose statement is under way, and wait until it is gone."""
        process = connection.connection.info.backend_pid
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [process])

    def wait_until(self, condition: str) -> None:
        """Wait until the condition is true for what is committed."""
        with self.connection.cursor() as cursor:
            for _ in range(500):
                cursor.execute(f"SELECT {condition}, pg_sleep(0.01)")
                if cursor.fetchone()[0]:
                    return
        raise AssertionError(condition)


@pytest.fixture
def other() -> Any:
    found = Other()
    yield found
    found.connection.close()


def is_recorded(group: Any, **_: Any) -> str:
    return f"EXISTS (SELECT 1 FROM prx_email_django_deliveryattempt WHERE message_id = {group[0].claim.id})"


def is_granted(_account: int, *, lease: Any, **_: Any) -> str:
    return f"EXISTS (SELECT 1 FROM prx_email_django_outboxmessage WHERE claim_token = '{lease.token}')"


BEGINNINGS: dict[str, tuple[Any, str, Callable[..., str]]] = {
    "results": (finalize, "begin_to_record", is_recorded),
    "claims": (claims, "_begin_to_take", is_granted),
}


@pytest.mark.parametrize("what", sorted(BEGINNINGS))
@pytest.mark.parametrize("session", ["ends", "goes on"])
def test_an_answer_that_is_lost_under_way_costs_no_copy_and_no_attempt(
    what: str, session: str, other: Other, memory_transport: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = account("known", max_connections=2)
    backlog(owner, 150)
    module, name, is_done = BEGINNINGS[what]
    begins, lost = getattr(module, name), []

    def begin_and_lose(*given: Any, **options: Any) -> Any:
        found = begins(*given, **options)
        if found is None or lost:
            return found
        other.wait_until(is_done(*given, **options))
        lost.append(True)
        if session == "ends":
            other.end_ours()
            return found

        def without_answer() -> Any:
            found()
            raise OperationalError("the answer is lost")

        return without_answer

    monkeypatch.setattr(module, name, begin_and_lose)
    report = prx.drain(time_budget=60)
    assert lost, "a statement was under way"
    assert report.sent == len(shared.delivered) == 150
    assert DeliveryAttempt.objects.filter(outcome="sent", number=1).count() == DeliveryAttempt.objects.count() == 150
    assert set(OutboxMessage.objects.values_list("status", flat=True)) == {"sent"}


@pytest.mark.parametrize("what", sorted(BEGINNINGS))
@pytest.mark.parametrize("is_executed", [True, False])
def test_a_drain_that_is_ended_while_a_statement_is_under_way_leaves_nothing_behind(
    what: str, is_executed: bool, memory_transport: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = account("known", max_connections=2)
    backlog(owner, 150)
    module, name, _ = BEGINNINGS[what]
    begins, ended = getattr(module, name), []

    def interrupted() -> Any:
        raise SystemExit

    def begin_and_exit(*given: Any, **options: Any) -> Any:
        found = begins(*given, **options) if is_executed else None
        if ended or (is_executed and found is None):
            return found
        ended.append(True)
        return interrupted

    monkeypatch.setattr(module, name, begin_and_exit)
    with pytest.raises(SystemExit):
        prx.drain(time_budget=60)
    assert ended, "a statement was under way"
    assert not OutboxMessage.objects.filter(status="sending").exists()
    assert OutboxMessage.objects.filter(status="sent").count() == len(shared.delivered)
    monkeypatch.setattr(module, name, begins)
    prx.drain(time_budget=60)
    assert len(shared.delivered) == DeliveryAttempt.objects.count() == 150


def test_a_limit_holds_over_accounts_whose_claims_are_under_way(memory_transport: object) -> None:
    for number in range(3):
        backlog(account(f"known{number}", max_connections=2), 60)
    assert prx.drain(limit=70, time_budget=60).sent == len(shared.delivered) == 70
