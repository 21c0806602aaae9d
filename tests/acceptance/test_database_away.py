"""The database goes away while workers send: what they know is written when it is back, and nothing is sent twice."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any, Protocol
from unittest.mock import patch

import pytest
from django.db import Error, OperationalError, connection, connections, transaction
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.models import Account, ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.store.absence import Unwritten, unwritten
from prx_email_django.worker import loop
from tests.acceptance.drainer import Drainer
from tests.acceptance.test_loop import summary
from tests.acceptance.test_qcluster import cluster, ended, queue, site
from tests.acceptance.workers import Worker, assert_all_sent, assert_each_once, environment, eventually, outbox
from tests.support.database_proxy import DatabaseProxy
from tests.support.factories import backlog, mail
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)
COUNT = 60
NOTICED = "the database is away"


class Absence(Protocol):
    environment: Mapping[str, str]

    def go_away(self, pid: int) -> None:
        """Take the database away from the process."""

    def lose_answer(self, pid: int) -> None:
        """Let the next statement end without an answer."""

    def come_back(self, pid: int) -> None:
        """Let the process use it again."""


class ServerAway:
    """The database's server cannot be reached."""

    def __init__(self, proxy: DatabaseProxy) -> None:
        self._proxy = proxy
        self.environment = proxy.environment

    def go_away(self, pid: int) -> None:
        self._proxy.go_away()

    def lose_answer(self, pid: int) -> None:
        self._proxy.lose_answer()

    def come_back(self, pid: int) -> None:
        self._proxy.come_back()


class FileCannotGrow:
    """SQLite's files cannot be written, as on a full disk."""

    environment: Mapping[str, str] = {}

    def go_away(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    lose_answer = go_away

    def come_back(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class ReadOnly(FileCannotGrow):
    """PostgreSQL takes no writes, as after a failover to a server that is not promoted yet."""

    def go_away(self, pid: int) -> None:
        self._execute("ALTER DATABASE {} SET default_transaction_read_only = on")

    lose_answer = go_away

    def come_back(self, pid: int) -> None:
        self._execute("ALTER DATABASE {} RESET default_transaction_read_only")

    def _execute(self, statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement.format(connection.ops.quote_name(connection.settings_dict["NAME"])))
            # Sessions keep the default that they began with.
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()"
            )


class MayNotWrite(FileCannotGrow):
    """PostgreSQL refuses the worker's writes, as after a failover to a server whose grants are not complete."""

    def __init__(self) -> None:
        name = connection.settings_dict["NAME"]
        self._role, self._database = f"worker_of_{name}", connection.ops.quote_name(name)
        self._execute(f"CREATE ROLE {self._role}", f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {self._role}")
        self.come_back(0)
        # Sessions that begin from now on have this role.
        self._execute(f"ALTER DATABASE {self._database} SET role = {self._role}")

    def go_away(self, pid: int) -> None:
        self._execute(f"REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public FROM {self._role}")

    lose_answer = go_away

    def come_back(self, pid: int) -> None:
        self._execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self._role}")

    def close(self) -> None:
        self._execute(
            f"ALTER DATABASE {self._database} RESET role", f"DROP OWNED BY {self._role}", f"DROP ROLE {self._role}"
        )

    def _execute(self, *statements: str) -> None:
        with connection.cursor() as cursor:
            for statement in ("SET ROLE NONE", *statements):
                cursor.execute(statement)


class TableAway(FileCannotGrow):
    """A table has another name for a moment, as while a backup is restored or ``search_path`` leads elsewhere."""

    _table = DeliveryAttempt._meta.db_table

    def go_away(self, pid: int) -> None:
        self._rename(self._table, "away")

    lose_answer = go_away

    def come_back(self, pid: int) -> None:
        self._rename("away", self._table)

    def _rename(self, old: str, new: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


WAYS = {
    "postgresql": ("server", "read only", "may not write", "table"),
    "mysql": ("server", "table"),
    "sqlite": ("file", "table"),
}


@pytest.fixture(params=WAYS[connection.vendor])
def absence(request: pytest.FixtureRequest) -> Iterator[Absence]:
    """A way in which this database goes away."""
    if request.param == "server":
        with DatabaseProxy() as proxy:
            yield ServerAway(proxy)
    elif request.param == "file":
        yield FileCannotGrow()
    elif request.param == "table":
        yield TableAway()
    elif request.param == "may not write":
        with closing(MayNotWrite()) as may_not_write:
            yield may_not_write
    else:
        yield (read_only := ReadOnly())
        read_only.come_back(0)


class Moment:
    """A moment at which every connection waits for the server."""

    def __init__(self, server: SmtpServer, stage: str, *, first: int, connections: int) -> None:
        self._server = server
        self._rules = [server.on(stage, stall=True, nth=first + number) for number in range(connections)]

    def wait(self) -> None:
        assert all(rule.reached.wait(PATIENCE) for rule in self._rules)

    def pass_by(self) -> None:
        for rule in self._rules:
            self._server.release(rule)


@pytest.mark.parametrize("way", ["go_away", "lose_answer"])
@pytest.mark.parametrize("stage", ["mail", "final"])
def test_a_drain_outlasts_an_absence_and_copies_nothing(absence: Absence, stage: str, way: str) -> None:
    """Where only an answer is lost, the commit took effect and nobody was told."""
    with outbox(max_connections=3) as (server, account):
        backlog(account, COUNT)
        moment = Moment(server, stage, first=10, connections=3)
        with Drainer(env=absence.environment) as drainer:
            moment.wait()
            getattr(absence, way)(drainer.process.pid)
            moment.pass_by()
            assert eventually(lambda: NOTICED in drainer.errors)
            absence.come_back(drainer.process.pid)
            report = drainer.report()
        assert (report["sent"], report["claimed"] - report["released"]) == (COUNT, COUNT)
        assert_each_once(server, COUNT)


@pytest.mark.parametrize("stage", ["mail", "final"])
def test_a_loop_counts_what_it_sent_before_and_after_absences(absence: Absence, stage: str) -> None:
    with outbox(max_connections=2) as (server, account):
        backlog(account, COUNT)
        moments = [Moment(server, stage, first=first, connections=2) for first in (5, 30)]
        arguments = ("flush_outbox", "--loop", "--json", "--limit", str(COUNT))
        with Worker(*arguments, env=environment(**absence.environment)) as worker:
            for number, moment in enumerate(moments, 1):
                moment.wait()
                absence.go_away(worker.process.pid)
                moment.pass_by()
                assert eventually(lambda number=number: worker.output.count(NOTICED) >= number)
                absence.come_back(worker.process.pid)
            assert worker.wait() == 0
        assert summary(worker)["sent"] == COUNT
        assert_each_once(server, COUNT)


def test_a_task_of_a_cluster_outlasts_an_absence(absence: Absence) -> None:
    """Forgotten acceptances would be sent again when their leases end, minutes later."""
    env = site() | dict(absence.environment)
    with outbox(max_connections=2) as (server, account), cluster(env) as worker:
        moment = Moment(server, "final", first=10, connections=2)
        queue(env, COUNT)
        moment.wait()
        slot = ConnectionSlot.objects.filter(token__isnull=False).first()
        assert slot
        drain_process = int(slot.holder.rpartition(":")[2])
        absence.go_away(drain_process)
        moment.pass_by()
        assert eventually(lambda: NOTICED in worker.output)
        absence.come_back(drain_process)
        assert eventually(lambda: OutboxMessage.objects.filter(status="sent").count() == COUNT)
        ended(worker)
        assert_each_once(server, COUNT)


def test_a_worker_that_must_end_meanwhile_leaves_its_results_to_its_process() -> None:
    """A drain whose time is over cannot wait: the process writes the result when it can."""
    away, tries, keeper = threading.Event(), [], Unwritten()
    away.set()

    def write() -> None:
        tries.append(threading.current_thread().name)
        if away.is_set():
            if len(tries) == 3:
                away.clear()
            raise OperationalError("server closed the connection unexpectedly")

    keeper.write([lambda: tries.append("before"), write, lambda: tries.append("after")])
    assert keeper.wait_until_written(PATIENCE)
    assert tries[0] == "before" and tries[-1] == "after"
    assert tries.count("prx-email-unwritten") == 2


def end_session_of(thread_id: int) -> None:
    """End the database session of another thread of this process, as a restart of the server does."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_terminate_backend(%s)", [thread_id])
        elif connection.vendor == "mysql":
            cursor.execute(f"KILL {thread_id:d}")


def session_id() -> int:
    """The session of this thread."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_backend_pid()")
        elif connection.vendor == "mysql":
            cursor.execute("SELECT CONNECTION_ID()")
        else:
            return 0
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("stage", ["greeting", "mail", "final"])
def test_send_returns_the_result_that_was_recorded(stage: str) -> None:
    sessions: list[int] = []

    def send(**arguments: Any) -> prx.SendResult:
        sessions.append(session_id())
        return prx.send(**arguments)

    with outbox() as (server, account):
        reached = server.on(stage, stall=True, nth=1)
        sending = CallInThread(send, **mail(account))
        assert reached.reached.wait(PATIENCE)
        end_session_of(sessions[0])
        server.release(reached)
        result = sending.outcome()
        assert (result.status, len(server.messages)) == ("sent", 1)
        assert OutboxMessage.objects.get(pk=result.outbox_id).status == "sent"
        assert_all_sent(1)


def test_a_due_row_in_somebodys_open_transaction_costs_no_login() -> None:
    held = connection.features.has_select_for_update_skip_locked  # else a writer keeps every other writer out
    expected = 0 if held else 1
    with outbox() as (server, account):
        (row,) = backlog(account, 1)
        with transaction.atomic() if held else nullcontext():
            if held:
                OutboxMessage.objects.filter(pk=row.pk).update(tag="held")
            assert sum(CallInThread(prx.drain).outcome().claimed for _ in range(3)) == expected
            assert server.connections == expected
        prx.drain()
        assert_each_once(server, 1)


@contextmanager
def database_of_new_threads() -> Iterator[Callable[[bool], None]]:
    """Threads that begin from now on find the database away, once the yielded function was called with True."""
    settings = connections.settings["default"]
    if connection.vendor == "sqlite":
        writer = ExitStack()

        def lock(away: bool) -> None:
            writer.close()
            if away:
                writer.enter_context(transaction.atomic())
                Account.objects.update(display_name="")

        changes: dict[str, Any] = {"OPTIONS": {**settings["OPTIONS"], "timeout": 0.01}}
        with writer, patch.dict(settings, changes):
            yield lock
        return
    with DatabaseProxy() as proxy:
        host, port = proxy.environment.values()
        with patch.dict(settings, {"HOST": host, "PORT": port}):
            yield lambda away: proxy.go_away() if away else proxy.come_back()


def test_a_send_that_cannot_wait_is_recorded_by_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "END_GRACE", 0.2)
    with outbox() as (server, account), database_of_new_threads() as set_away:
        final = server.on("final", stall=True, nth=1)
        with override_settings(PRX_EMAIL={"SEND_DEADLINE": 1}):
            sending = CallInThread(prx.send, **mail(account))
            assert final.reached.wait(PATIENCE)
            set_away(True)
            server.release(final)
            with pytest.raises(Error):
                sending.outcome()
        set_away(False)
        assert unwritten.wait_until_written(PATIENCE)
        assert_all_sent(1)
        assert len(server.messages) == DeliveryAttempt.objects.count() == 1


@pytest.fixture
def without_limits_afterwards() -> Iterator[None]:
    """Whoever cleans up opens a connection of their own: one that was opened meanwhile would keep the limits."""
    yield
    connection.close()


@pytest.mark.usefixtures("without_limits_afterwards")
@pytest.mark.parametrize("verb", ["drain", "send"])
def test_what_is_on_its_way_is_not_cut_where_statements_take_too_long(
    verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock and the database's limit for statements: after three tries the connections were cut in the body."""
    limits = {
        "postgresql": {"options": "-c statement_timeout=50"},
        "mysql": {"init_command": "SET max_statement_time=0.05"},
    }
    settings = connections.settings["default"]
    changes = {"OPTIONS": {**settings["OPTIONS"], **limits.get(connection.vendor, {})}}
    if connection.vendor == "sqlite":
        return  # it has no limit for a statement
    with outbox(max_connections=2) as (server, account), patch.dict(settings, changes):
        finals = [server.on("final", stall=True, nth=number) for number in (1, 2)]
        if verb == "drain":
            backlog(account, 2)
            calling: CallInThread[Any] = CallInThread(prx.drain)
            assert all(final.reached.wait(PATIENCE) for final in finals)
        else:
            calling = CallInThread(prx.send, **mail(account))
            assert finals[0].reached.wait(PATIENCE)
        with transaction.atomic():
            list(OutboxMessage.objects.select_for_update())
            server.release(finals[0])
            assert eventually(lambda: "limit, try 4" in caplog.text or not calling.is_alive())
            server.release(finals[1])
            assert server.wait_for(len(OutboxMessage.objects.all()))
        calling.outcome()
        assert set(DeliveryAttempt.objects.values_list("outcome", flat=True)) == {"sent"}
        assert_all_sent(2 if verb == "drain" else 1)


def slot_ends() -> list[object]:
    return list(ConnectionSlot.objects.filter(number__lte=2).order_by("number").values_list("expires_at", flat=True))


@override_settings(PRX_EMAIL={"LEASE": 6})
def test_a_message_that_a_renewal_does_not_find_is_not_sent_here() -> None:
    """Eight are claimed, the server is slow; a person sets them all to pending, and another worker sends them."""
    with outbox(max_connections=2) as (server, account):
        backlog(account, 8)
        moment = Moment(server, "rcpt", first=1, connections=2)
        slow = CallInThread(prx.drain)
        moment.wait()
        Account.objects.update(max_connections=3)
        OutboxMessage.objects.update(status="pending")
        assert CallInThread(prx.drain).outcome().sent == 8
        before = slot_ends()
        assert eventually(lambda: slot_ends() != before)  # renewed: the claims a moment earlier
        moment.pass_by()
        report = slow.outcome()
        assert report.sent == 0
        assert report.released == report.claimed == 8, "what was taken from a worker leaves its limit to others"
        assert len(server.messages) == 8
        assert_each_once(server, 8)
