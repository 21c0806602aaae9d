"""The database goes away while workers send: what they know is written when it is back, and nothing is sent twice."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import pytest
from django.db import OperationalError, connection, connections, transaction

import prx_email_django as prx
from prx_email_django.models import OutboxMessage
from prx_email_django.store.absence import Unwritten
from tests.acceptance.drainer import Drainer
from tests.acceptance.test_loop import summary
from tests.acceptance.workers import Worker, assert_all_sent, assert_each_once, environment, eventually, outbox
from tests.support.database_proxy import DatabaseProxy
from tests.support.smtp_script import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.factories import backlog, mail
from tests.support.threads import CallInThread, Sending

pytestmark = pytest.mark.django_db(transaction=True)
COUNT = 60
NOTICED = "the database is away"


class Absence(Protocol):
    environment: Mapping[str, str]

    def go_away(self, pid: int) -> None:
        """Take the database away from the process."""

    def come_back(self, pid: int) -> None:
        """Let the process use it again."""


class ServerAway:
    """The database's server cannot be reached."""

    def __init__(self, proxy: DatabaseProxy) -> None:
        self._proxy = proxy
        self.environment = proxy.environment

    def go_away(self, pid: int) -> None:
        self._proxy.go_away()

    def come_back(self, pid: int) -> None:
        self._proxy.come_back()


class FileCannotGrow:
    """SQLite's files cannot be written, as on a full disk."""

    environment: Mapping[str, str] = {}

    def go_away(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def come_back(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def absence() -> Iterator[Absence]:
    """The way in which this database goes away."""
    if connection.vendor == "sqlite":
        yield FileCannotGrow()
        return
    with DatabaseProxy() as proxy:
        yield ServerAway(proxy)


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


@pytest.mark.parametrize("stage", ["mail", "final"])
def test_a_drain_outlasts_an_absence_and_copies_nothing(absence: Absence, stage: str) -> None:
    with outbox(max_connections=3) as (server, account):
        backlog(account, COUNT)
        moment = Moment(server, stage, first=10, connections=3)
        with Drainer(env=absence.environment) as drainer:
            moment.wait()
            absence.go_away(drainer.process.pid)
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
