"""A statement that is begun: whoever uses the connection meanwhile finds it free, and the result comes all the same."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from django.db import DataError, Error, OperationalError, connections, transaction

import prx_email_django as prx
from prx_email_django import signals
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.store import claims, finalize, prepared_sessions
from prx_email_django.store.begun import Begun, BegunCursor, begin
from prx_email_django.store.outbox import outbox_state
from prx_email_django.store.prepared import execute
from prx_email_django.transports.memory import shared
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.connection import Connection
from prx_email_django.worker.network import Network
from prx_email_django.worker.prefetch import ClaimPrefetch
from prx_email_django.worker.queues import ResultQueue
from prx_email_django.worker.render_ahead import RenderAhead
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


def by_a_ping() -> int:
    assert connection.is_usable()
    return 42


def by_the_driver() -> int:
    connection.connection.rollback()
    connection.connection.commit()
    return int(connection.connection.execute("SELECT 42").fetchone()[0])


@pytest.mark.parametrize(
    "use",
    [
        selected,
        in_a_transaction,
        by_the_orm,
        by_another_prepared_statement,
        by_another_begun_statement,
        by_a_ping,
        by_the_driver,
    ],
)
def test_the_connection_can_be_used_meanwhile(use: Callable[[], int]) -> None:
    first = begun(SLOW, 7)
    assert use() == 42
    assert first.rows()[0][1] == b"7"
    assert first.rows()[0][1] == b"7", "it may be asked again"
    assert not {"wait", "close"} & set(vars(connection.connection))


def test_a_cursor_that_is_open_can_be_used_meanwhile() -> None:
    with connection.cursor() as cursor:
        first = begun(SLOW, 7)
        cursor.execute("SELECT 42")
        assert cursor.fetchone() == (42,)
    assert first.rows()[0][1] == b"7"


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


def test_a_connection_that_is_closed_meanwhile_waits_for_the_statement() -> None:
    """Another session could not see yet what it has written."""
    first = begun(SLOW, 7)
    connection.close()
    assert selected() == 42
    assert first.rows()[0][1] == b"7"


def test_whoever_is_interrupted_while_the_result_is_read_leaves_a_free_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> Any:
        raise SystemExit

    first = begun(SLOW, 7)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(type(connection.connection), "wait", interrupted)
        first.rows()
    assert selected() == 42
    assert first.rows()[0][1] == b"7"
    first = begun(SLOW, 7)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(BegunCursor, "take", interrupted)
        first.rows()
    assert selected() == 42
    with pytest.raises(Error, match="was not read"):
        first.rows()


def test_what_is_read_late_is_not_the_result_of_the_next_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise SystemExit

    first = begun(SLOW, 7)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(BegunCursor, "take", interrupted)
        first.rows()
    assert execute(connection, NUMBER, [42], plan_for=60) == [(b"42",)]
    with pytest.raises(Error, match="was not read"):
        first.rows()


def test_a_time_limit_that_passes_meanwhile_leaves_the_result_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise any exception, as Celery's does."""

    class TimeLimit(Exception):
        pass

    def passes(*_: Any) -> Any:
        raise TimeLimit

    first = begun(SLOW, 7)
    with monkeypatch.context() as patched, pytest.raises(TimeLimit):
        patched.setattr(type(connection.connection), "wait", passes)
        selected()
    assert selected() == 42
    assert first.rows()[0][1] == b"7"


def test_a_connection_closes_wherever_the_taking_was_interrupted() -> None:
    first = begun(NUMBER, 7)
    first.rows()
    vars(connection.connection)["close"] = first._take_and_close  # the other one is not replaced any more
    assert begun(NUMBER, 8).rows() == [(b"8",)]
    second = begun(NUMBER, 9)
    second.rows()
    vars(connection.connection)["close"] = second._take_and_close
    connection.close()
    assert selected() == 42


def test_asking_for_a_result_again_leaves_the_next_statement_under_way() -> None:
    first = begun(NUMBER, 7)
    second = begun(SLOW, 8)
    assert first.rows() == first.rows() == [(b"7",)]
    assert selected() == 42
    assert second.rows()[0][1] == b"8"


def test_nothing_keeps_the_rows_but_who_asked_for_them() -> None:
    gc.collect()
    gc.disable()
    try:
        first = begun(NUMBER, 7)
        assert first.rows() == [(b"7",)]
        there = weakref.ref(first)
        del first
        assert there() is None
    finally:
        gc.enable()


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
    wait = connection.connection.wait
    connection.connection.wait = lambda *given, **options: wait(*given, **options)
    try:
        return begin(connection, NUMBER, [7], plan_for=60)
    finally:
        del connection.connection.wait


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


def test_a_wrapper_of_the_host_uses_the_connection_after_the_statement() -> None:
    seen: list[int] = []

    def selects_afterwards(run: Callable[..., Any], sql: str, *given: Any) -> Any:
        result = run(sql, *given)
        if sql == SLOW:
            seen.append(selected())
        return result

    with connection.execute_wrapper(selects_afterwards):
        first = begin(connection, SLOW, [7], plan_for=60)
    assert first is not None and first.rows()[0][1] == b"7"
    assert seen == [42]


def test_a_wrapper_of_the_host_that_fails_after_the_statement_leaves_a_free_connection() -> None:
    def fails_afterwards(run: Callable[..., Any], *given: Any) -> Any:
        run(*given)
        raise LookupError("the host's")

    with connection.execute_wrapper(fails_afterwards), pytest.raises(LookupError, match="the host's"):
        begin(connection, SLOW, [7], plan_for=60)
    assert selected() == 42


@pytest.fixture
def told() -> Iterator[list[Callable[[OutboxMessage], object]]]:
    """Functions that are called with each message that was sent."""
    functions: list[Callable[[OutboxMessage], object]] = []

    def receive(message: OutboxMessage, **_: Any) -> None:
        for function in functions:
            function(message)

    signals.message_sent.connect(receive)
    yield functions
    signals.message_sent.disconnect(receive)


def test_nothing_is_under_way_where_the_host_learns_of_what_was_sent(memory_transport: object, told: Any) -> None:
    """Else a claim could hold locks of rows while the host's code waits for somebody who waits for these."""
    backlog(account("known", max_connections=2), 120)
    lines: list[Any] = []
    told.append(lambda message: lines.append(connection.connection.info.transaction_status.name))
    assert prx.drain(time_budget=60).sent == 120
    assert lines == ["IDLE"] * 120


@pytest.mark.parametrize("domain", [True, False])
def test_nothing_is_under_way_where_the_host_renders(
    domain: bool, memory_transport: object, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_host = {"MESSAGE_ID_DOMAIN": f"{__name__}.domain_of_host"} if domain else {}
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, **of_host}
    begins, began = claims._begin_to_take, []
    monkeypatch.setattr(
        claims, "_begin_to_take", lambda *given, **options: began.append(1) or begins(*given, **options)
    )
    backlog(account("known", max_connections=2), 120)
    assert prx.drain(time_budget=60).sent == 120
    if domain:
        assert lines_of_host and set(lines_of_host) == {"IDLE"}
    else:
        assert began


#: What a connection was doing when the host's function was called.
lines_of_host: list[str] = []


def domain_of_host() -> str:
    raw = connection.connection
    lines_of_host.append("IDLE" if raw is None else raw.info.transaction_status.name)
    return "host.example"


def test_an_error_of_an_account_loses_no_signal_of_what_is_under_way(
    memory_transport: object, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (account(name, max_connections=2) for name in ("first", "second"))
    backlog(first, 150), backlog(second, 150)
    seen: list[int] = []
    told.append(lambda message: seen.append(message.pk))
    render, broken = RenderAhead.render, []

    def breaks(rendering: RenderAhead) -> bool:
        prefetch: Any = rendering.forget.__self__  # type: ignore[attr-defined]
        if not broken and prefetch.current.account.pk == first.pk and prefetch.is_recording():
            broken.append(True)
            raise RuntimeError("unexpected")
        return render(rendering)

    monkeypatch.setattr(RenderAhead, "render", breaks)
    begins = AccountWorker._begins_to_record

    def noted(worker: AccountWorker, messages: Any) -> bool:
        worker.prefetch.is_recording = lambda: bool(worker.unrecorded())  # type: ignore[attr-defined]
        return begins(worker, messages)

    monkeypatch.setattr(AccountWorker, "_begins_to_record", noted)
    monkeypatch.setattr(ClaimPrefetch, "is_recording", lambda _: False, raising=False)
    report = prx.drain(time_budget=60)
    assert broken, "a group was under way"
    sent = OutboxMessage.objects.filter(status="sent").values_list("pk", flat=True)
    assert sorted(seen) == sorted(sent)
    assert report.sent == len(seen)


@pytest.mark.parametrize("is_told", [True, False])
def test_an_account_that_fails_by_what_was_under_way_goes_on_with_nothing(
    is_told: bool, memory_transport: object, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims nothing more, and what it had to record is recorded, counted and announced once."""
    first, second = (account(name, max_connections=2) for name in ("first", "second"))
    backlog(first, 150), backlog(second, 150)
    seen: list[int] = []
    if is_told:
        told.append(lambda message: seen.append(message.pk))
    else:
        signals.message_sent.receivers, receivers = [], signals.message_sent.receivers
        signals.message_sent.sender_receivers_cache.clear()
    finish, broken = AccountWorker._finish_group, []

    def breaks(worker: AccountWorker, *given: Any) -> None:
        if not broken and worker.current.account.pk == first.pk and worker.ready.recorded > 10:
            broken.append(True)
            raise RuntimeError("unexpected")
        finish(worker, *given)

    monkeypatch.setattr(AccountWorker, "_finish_group", breaks)
    begun_at = monotonic()
    try:
        report = prx.drain(time_budget=60)
    finally:
        if not is_told:
            signals.message_sent.receivers = receivers
    assert broken and monotonic() - begun_at < 30
    assert not OutboxMessage.objects.filter(status="sending").exists()
    sent = OutboxMessage.objects.filter(status="sent")
    assert len(shared.delivered) == sent.count() == DeliveryAttempt.objects.count() >= report.sent
    assert len(seen) == len(set(seen))
    if is_told:
        assert len(seen) == report.sent


def test_a_claim_of_an_account_waits_for_no_other_one(
    memory_transport: object, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account's step takes what the other one has claimed; that one's messages go at once all the same."""
    quick, slow = (account(name, max_connections=1) for name in ("quick", "slow"))
    backlog(quick, 40), backlog(slow, 1)
    prx.drain(time_budget=60)  # the session has prepared its statements
    run, greets = Connection.run, asyncio.Event()

    async def run_late(self: Connection, *given: Any) -> None:
        if self.account is not None and self.account.pk == slow.pk:
            await asyncio.wait_for(greets.wait(), 30)
        await run(self, *given)

    monkeypatch.setattr(Connection, "run", run_late)
    rows = backlog(quick, 400)
    backlog(slow, 1)
    left = {row.pk for row in rows}
    loops: list[asyncio.AbstractEventLoop] = []
    started = Network.start

    def noted(network: Network, work: Any) -> Any:
        loops.append(network.loop)
        return started(network, work)

    def heard(message: OutboxMessage) -> None:
        left.discard(message.pk)
        if not left:
            loops[0].call_soon_threadsafe(greets.set)

    monkeypatch.setattr(Network, "start", noted)
    told.append(heard)
    waited: list[float] = []
    wait = ResultQueue.wait

    def timed(results: ResultQueue, timeout: float) -> None:
        begun_at = monotonic()
        wait(results, timeout)
        if left:
            waited.append(monotonic() - begun_at)

    monkeypatch.setattr(ResultQueue, "wait", timed)
    assert prx.drain(time_budget=60, accounts=[quick, slow]).sent == 401
    assert max(waited, default=0.0) < 0.7, "nobody woke the loop, which waits for a second at most"


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


def test_a_drain_begins_nearly_all_its_statements_and_keeps_its_session(
    memory_transport: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(account("known", max_connections=2), 600)
    results: list[bool] = []
    taken = Begun.rows

    def noted(self: Begun) -> Any:
        results.append(False)
        rows = taken(self)
        results[-1] = True
        return rows

    monkeypatch.setattr(Begun, "rows", noted)
    process = connection.connection.info.backend_pid
    assert prx.drain(time_budget=60).sent == len(shared.delivered) == 600
    assert len(results) > 20 and all(results)
    assert connection.connection.info.backend_pid == process
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
