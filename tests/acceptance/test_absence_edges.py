"""The database is away, or a session of it ends, at the edges of a worker's life: its deadline, its end, its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
from django.db import OperationalError, connection
from django.test import override_settings

import prx_email_django as prx
from prx_email_django import signals, store
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store import claims as claims_module
from prx_email_django.store import finalize as finalize_module
from prx_email_django.store.absence import Unwritten, unwritten, waiting_for_database
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.worker import loop
from prx_email_django.worker.account import AccountWorker
from prx_email_django.worker.drain import Drain
from prx_email_django.worker.ready_accounts import ReadyAccounts
from prx_email_django.worker.recorder import Recorder
from tests.acceptance.test_database_away import end_session_of, session_id
from tests.acceptance.workers import assert_all_sent, assert_each_once, outbox
from tests.support.factories import account_on, at, backlog, mail, outcome, take
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)
T = TypeVar("T")


def gone() -> OperationalError:
    return OperationalError("server closed the connection unexpectedly")


class Statements:
    """What the statements of one thread meet."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.noticed = threading.Event()
        #: The next statement with all of these words is not run, or (``answer_only``) its answer is lost.
        self.fail_next: tuple[str, ...] | None = None
        self.answer_only = False

    def during(self, what: Callable[[], T]) -> T:
        with connection.execute_wrapper(self):
            return what()

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.away.is_set():
            self.noticed.set()
            raise gone()
        if self.fail_next is None or not all(word in sql for word in self.fail_next):
            return execute(sql, params, many, context)
        self.fail_next = None
        if self.answer_only:
            execute(sql, params, many, context)
        raise gone()


@pytest.mark.parametrize("stage", ["greeting", "final"])
def test_a_drain_that_is_ended_from_outside_does_not_wait_for_the_database(stage: str) -> None:
    """``SystemExit`` while the database is away: what is left to write is left to the process at once."""
    ended, statements = threading.Event(), Statements()

    def stop() -> bool:
        if ended.is_set():
            ended.clear()
            raise SystemExit
        return False

    with outbox(max_connections=1) as (server, account):
        backlog(account, 1)
        reached = server.on(stage, stall=True, nth=1)
        draining = CallInThread(statements.during, what=partial(prx.drain, stop=stop))
        assert reached.reached.wait(PATIENCE)
        statements.away.set()
        if stage == "final":
            server.release(reached)
        assert statements.noticed.wait(PATIENCE)
        ended.set()
        draining.join(PATIENCE)
        assert not draining.is_alive()
        with pytest.raises(SystemExit):
            draining.outcome()
        assert unwritten.wait_until_written(PATIENCE)
        server.release(reached)
        prx.drain()
        assert_all_sent(1)
        assert_each_once(server, 1)


def test_send_returns_what_was_recorded_while_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database comes back just when ``send`` has waited long enough: its result is in the table after all."""
    monkeypatch.setattr(loop, "END_GRACE", 0.2)
    statements, leave = Statements(), loop.WorkerLoop.leave

    def comes_back(self: loop.WorkerLoop) -> None:
        statements.away.clear()
        leave(self)

    monkeypatch.setattr(loop.WorkerLoop, "leave", comes_back)
    with outbox() as (server, account):
        final = server.on("final", stall=True, nth=1)
        with override_settings(PRX_EMAIL={"SEND_DEADLINE": 1}):
            sending = CallInThread(statements.during, what=partial(prx.send, **mail(account)))
            assert final.reached.wait(PATIENCE)
            statements.away.set()
            server.release(final)
            result = sending.outcome()
        assert (result.status, len(server.messages)) == ("sent", 1)
        assert_all_sent(1)


@override_settings(PRX_EMAIL={"SEND_DEADLINE": 1})
@pytest.mark.parametrize("stage", ["greeting", "mail"])
def test_a_session_of_the_database_that_ended_before_the_deadline_does_not_break_send(stage: str) -> None:
    """The database is there: the failure is recorded over a new session, although the time is over."""
    sessions: list[int] = []

    def send(**arguments: Any) -> prx.SendResult:
        sessions.append(session_id())
        return prx.send(**arguments)

    with outbox() as (server, account):
        reached = server.on(stage, stall=True, nth=1)
        sending = CallInThread(send, **mail(account))
        assert reached.reached.wait(PATIENCE)
        end_session_of(sessions[0])
        result = sending.outcome()
        server.release(reached)
        assert (result.status, result.error_code) == ("failed", "timeout")
        assert OutboxMessage.objects.get(pk=result.outbox_id).retries == 1


def test_what_is_written_after_a_drain_broke_off_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary of a loop, and its ``--limit``, count it."""
    monkeypatch.setattr(loop, "LONGEST_ABSENCE", 0.2)
    monkeypatch.setattr(loop, "END_GRACE", 0.2)
    statements, reports = Statements(), list[prx.DrainReport]()
    with outbox(max_connections=1) as (server, account):
        backlog(account, 3)
        final = server.on("final", stall=True, nth=1)
        draining = CallInThread(statements.during, what=partial(prx.drain, progress=reports.append))
        assert final.reached.wait(PATIENCE)
        statements.away.set()
        server.release(final)
        with pytest.raises(OperationalError):
            draining.outcome()
        assert unwritten.wait_until_written(PATIENCE)
        assert OutboxMessage.objects.filter(status="sent").count() == len(server.messages) > 0
        assert reports[-1].sent == len(server.messages)
        assert reports[-1].claimed - reports[-1].released == len(server.messages)


def test_a_failure_of_send_is_recorded_over_a_new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session ends between the loop and the record of the failure."""
    statements, finished = Statements(), Recorder.finished

    def struck(self: Recorder, group: Any) -> Any:
        statements.fail_next = statements.fail_next if struck_before else ("UPDATE",)
        struck_before.append(True)
        return finished(self, group)

    struck_before: list[bool] = []
    with outbox() as (server, account):
        Account.objects.update(port=9)  # nobody listens
        account.refresh_from_db()
        monkeypatch.setattr(Recorder, "finished", struck)
        result = CallInThread(statements.during, what=partial(prx.send, **mail(account))).outcome()
        assert struck_before
        assert (result.status, result.error_code) == ("failed", "network")


def test_a_drain_whose_time_is_over_ends_well_where_only_a_session_ended() -> None:
    """All is recorded, and the slot is given back over a new session."""
    over, statements = threading.Event(), Statements()
    with outbox(max_connections=1) as (server, account):
        backlog(account, 1)
        final = server.on("final", stall=True, nth=1)
        draining = CallInThread(statements.during, what=partial(prx.drain, stop=over.is_set))
        assert final.reached.wait(PATIENCE)
        statements.fail_next = ("UPDATE", "connectionslot")
        over.set()
        server.release(final)
        assert draining.outcome().sent == 1
        assert statements.fail_next is None
        assert_all_sent(1)


def test_what_a_group_recorded_before_the_database_went_away_is_counted_and_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with outbox() as (_, account):
        first, second = backlog(account, 2)
        sent, deferred = (claim for claim in take(account, now=prx_now()))
        assert (sent.id, deferred.id) == (first.pk, second.pk)
        group = []
        for claim, ending in ((sent, Ending.ACCEPTED), (deferred, Ending.TEMPORARY)):
            said = outcome(ending, claim)
            group.append(FinishedAttempt(claim, said, said.recipients, started_at=prx_now(), finished_at=prx_now()))
        monkeypatch.setattr(finalize_module, "_record_one", raising(gone()))
        heard: list[int] = []

        def hear(message: OutboxMessage, **_: Any) -> None:
            heard.append(message.pk)

        signals.message_sent.connect(hear)
        recorder = Recorder(at(None))
        try:
            with pytest.raises(OperationalError):
                recorder.finished(group)
        finally:
            signals.message_sent.disconnect(hear)
        assert (recorder.counts["sent"], heard) == (1, [first.pk])


def prx_now() -> Any:
    return store.db.database_now()


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def other_database_is_down(body: bytes, message: OutboxMessage) -> bytes:
    """The host's ``TRANSFORM_MIME``: it asks a database of its own."""
    if message.subject == "n 0":
        raise OperationalError("could not connect to server: legacy.example.org")
    return body


@override_settings(PRX_EMAIL={"TRANSFORM_MIME": f"{__name__}.other_database_is_down"})
def test_another_database_of_the_host_that_is_away_stops_no_other_message() -> None:
    with outbox() as (server, account):
        backlog(account, 3)
        report = CallInThread(prx.drain, time_budget=20).outcome()
        assert (report.sent, report.failed) == (2, 1)
        assert report.seconds < 10
        assert OutboxMessage.objects.get(subject="n 0").last_error_code == "content"
        assert len(server.messages) == 2


def test_an_unexpected_error_of_an_account_forgets_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account's work breaks off, and just then the session of the database ends."""
    statements, record, struck = Statements(), AccountWorker.record, []

    def breaks(self: AccountWorker, messages: Any) -> None:
        if not struck and any(message.is_touched for message in messages):
            struck.append(True)
            statements.fail_next = ("SELECT",)
            raise RuntimeError("unexpected")
        record(self, messages)

    monkeypatch.setattr(AccountWorker, "record", breaks)
    with outbox(max_connections=1) as (server, account), SmtpServer() as other:
        backlog(account, 1)
        stalled = other.on("greeting", stall=True, nth=1)
        backlog(account_on(other, "other"), 1)
        draining = CallInThread(statements.during, what=prx.drain)
        assert stalled.reached.wait(PATIENCE)
        other.release(stalled)
        draining.outcome()
        assert struck
        assert unwritten.wait_until_written(PATIENCE)
        assert_all_sent(2)
        assert (len(server.messages), len(other.messages), DeliveryAttempt.objects.count()) == (1, 1, 2)


def test_an_end_from_outside_while_results_are_written_leaves_the_others_to_the_process() -> None:
    keeper, written = Unwritten(), []

    def strike() -> None:
        if not written:
            written.append("struck")
            raise SystemExit

    with pytest.raises(SystemExit):
        keeper.write([strike, lambda: written.append("result")])
    assert keeper.wait_until_written(PATIENCE)
    assert written == ["struck", "result"]


def test_a_release_whose_answer_was_lost_is_counted() -> None:
    """``--limit`` counts what was claimed and not released."""
    statements = Statements()
    with outbox() as (_, account):
        backlog(account, 3)
        claims = take(account, now=prx_now())
        statements.fail_next, statements.answer_only = ("UPDATE",), True
        with waiting_for_database(lambda error, absent: True):
            assert statements.during(lambda: store.claims.release(claims)) == 3


def test_a_drain_that_waits_for_due_messages_outlasts_the_end_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    statements, candidates = Statements(), ReadyAccounts.candidates

    def strike(self: ReadyAccounts, only: Any = None) -> Any:
        found = candidates(self, only)
        if threading.current_thread() is not threading.main_thread() and waiting:
            statements.fail_next = ("SELECT",)
            waiting.clear()
        return found

    waiting: list[bool] = []
    wait_for_due = Drain._wait_for_due

    def wait(self: Drain) -> bool:
        if not struck:
            struck.append(True)
            waiting.append(True)
        return wait_for_due(self)

    struck: list[bool] = []
    monkeypatch.setattr(ReadyAccounts, "candidates", strike)
    monkeypatch.setattr(Drain, "_wait_for_due", wait)
    with outbox() as (_, account):
        backlog(account, 1)
        call = partial(prx.drain, wait=True, time_budget=2)
        assert CallInThread(statements.during, what=call).outcome().sent == 1
        assert struck and not waiting


@pytest.mark.parametrize("verb", ["drain", "send"])
def test_an_end_from_outside_during_a_claim_releases_what_was_claimed(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was written of it: it is no lost message, which might have been delivered."""
    with outbox() as (_, account):
        if verb == "drain":
            backlog(account, 2)
            monkeypatch.setattr(claims_module, "claims_of", raising(SystemExit()))
            calling: CallInThread[Any] = CallInThread(prx.drain)
        else:
            monkeypatch.setattr(store.insert, "load_claims", raising(SystemExit()))
            monkeypatch.setattr(connection.features.__class__, "can_return_rows_from_bulk_insert", False)
            calling = CallInThread(prx.send, **mail(account))
        with pytest.raises(SystemExit):
            calling.outcome()
        assert set(OutboxMessage.objects.values_list("status", "attempts")) == {("pending", 0)}


@pytest.mark.parametrize("verb", ["drain", "send", "retry"])
def test_a_process_whose_session_ended_while_it_rested_goes_on(verb: str) -> None:
    """A program that calls ``drain`` every minute failed for ever after one restart of the database."""
    with outbox() as (server, account):
        backlog(account, 1)
        row = OutboxMessage.objects.get()
        CallInThread(end_session_of, thread_id=session_id()).outcome()
        statements = Statements()
        statements.fail_next = ("prx_email_django_outboxstate",) if connection.vendor == "sqlite" else None
        calls: dict[str, Callable[[], Any]] = {
            "drain": prx.drain,
            "send": lambda: prx.send(**mail(account) | {"account": account.name}),
            "retry": lambda: prx.retry_outbox(row.pk),
        }
        statements.during(calls[verb])
        assert len(server.messages) == 1
