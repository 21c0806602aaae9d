"""Connections of an account in a drain: opened one first, closed before their slot ends, their slots released soon."""

from __future__ import annotations

import threading
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.db import connection

import prx_email_django as prx
from prx_email_django import api
from prx_email_django.limits import slots
from prx_email_django.limits.slots import acquire_slots, release_slots
from prx_email_django.models import AccountState, ConnectionSlot
from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.worker.connections import TOKEN_POLL, Connections
from tests.acceptance.workers import assert_each_once
from tests.support.factories import account_on, at, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_slot_is_released_within_two_seconds_of_a_quit_that_is_not_answered() -> None:
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=1), 1)
        closing = server.on("quit", stall=True)
        draining = Draining()
        assert closing.reached.wait(PATIENCE)
        since = monotonic()
        assert draining.outcome().sent == 1
        assert monotonic() - since < 30, "the drain waited for the reply to QUIT, which has a minute"
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_one_connection_is_tried_first_and_the_others_once_it_has_greeted() -> None:
    """Also after a lost connection, when there is work for all connections: a server that is down gets one attempt."""
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=3), 30)
        bodies = [server.on("final", stall=True, connection=number, times=1) for number in (1, 2, 3)]
        draining = Draining()
        assert all(body.reached.wait(PATIENCE) for body in bodies)
        greeting = server.on("greeting", stall=True)
        body = server.on("final", stall=True, connection=4, times=1)
        server.hang_up()
        assert greeting.reached.wait(PATIENCE)
        assert not server.wait_connections(5, timeout=0.5)
        server.release(greeting)
        assert body.reached.wait(PATIENCE) and server.wait_connections(5)
        server.release(body)
        assert draining.outcome().sent == 27


def test_the_slots_of_many_connections_are_taken_together() -> None:
    """Three statements for each connection were a third of the time that a hundred messages took."""
    statements: list[str] = []

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        statements.append(sql)
        return execute(sql, *arguments)

    with SmtpServer() as server:
        owner = account_on(server, max_connections=8)
        release_slots(acquire_slots(owner, 8, noted=set(), clock=at(None)))  # a drain before has made them
        backlog(owner, 60)
        server.on("final", delay=0.05)
        with connection.execute_wrapper(note):
            assert prx.drain().sent == 60
        assert server.max_open_connections == 8
    table = connection.ops.quote_name(ConnectionSlot._meta.db_table)
    assert len([sql for sql in statements if sql.startswith(f"SELECT {table}")]) <= 1
    assert len([sql for sql in statements if sql.startswith(f"UPDATE {table}") and "CASE" in sql]) == 2
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_slots_that_were_taken_together_and_are_not_needed_are_free_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The access token is being fetched, say, once the second of four connections is open."""
    real, release_spare = Connections.settings, Connections.release_spare
    refused, released = threading.Event(), threading.Event()

    def settings(self: Connections) -> ConnectionSettings | None:
        if len(self) < 2:
            return real(self)
        refused.set()
        self.retry_in(TOKEN_POLL)
        return None

    def release(self: Connections) -> None:
        release_spare(self)
        if refused.is_set():
            released.set()

    monkeypatch.setattr(Connections, "release_spare", release)
    monkeypatch.setattr(Connections, "settings", settings)
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=4), 30)
        bodies = [server.on("final", stall=True, connection=number, times=1) for number in (1, 2)]
        draining = Draining()
        assert all(body.reached.wait(PATIENCE) for body in bodies)
        assert released.wait(PATIENCE)
        assert ConnectionSlot.objects.filter(token__isnull=False).count() == 2
        for body in bodies:
            server.release(body)
        assert draining.outcome().sent == 30


def test_an_idle_connection_is_closed_when_its_slot_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle slots are not renewed: a worker that is stuck must not keep more connections than the account allows."""
    monkeypatch.setattr(slots, "SLOT_LEASE", timedelta(seconds=2))
    monkeypatch.setattr(slots, "SLOT_MARGIN", 0.2)
    with SmtpServer() as server:
        backlog(account_on(server, max_connections=2, pipelining="off"), 2)
        body = server.on("final", stall=True, nth=1)
        closing = server.on("quit", reply="221 2.0.0 bye")
        draining = Draining()
        assert body.reached.wait(PATIENCE) and server.wait_for(1)
        assert closing.reached.wait(PATIENCE), "the idle connection was not closed"
        assert draining.is_alive() and server.open_connections >= 1
        server.release(body)
        assert draining.outcome().sent == 2


def test_a_hold_message_that_waits_for_a_permit_opens_no_further_connections() -> None:
    """It opened and closed hundreds of connections a second, until the limit let it go."""
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, rate_limits="2/hour")
        backlog(account, 1)
        backlog(account, 3, on_unknown="hold")
        server.on("quit", connection=1, delay=0.5)  # the other one has closed by then
        report = api.drain(time_budget=5)
        assert report.sent == 2
        assert server.connections <= 2


def test_no_connection_is_opened_where_others_have_taken_every_message() -> None:
    """Four messages of a window counted as work for one more connection, which logged in for nothing."""
    with SmtpServer(chunking=True) as server:
        owner = account_on(server, max_connections=2, max_messages_per_connection=4)
        AccountState.objects.update_or_create(account=owner, defaults={"window": 4})
        backlog(owner, 8)
        body = server.on("final", stall=True, connection=2, times=1)
        draining = Draining()
        assert body.reached.wait(PATIENCE) and server.wait_for(4)
        assert not server.wait_connections(3, timeout=0.5)
        server.release(body)
        assert draining.outcome().sent == 8 and server.connections == 2


@pytest.mark.parametrize(
    ("pipelining", "stage"),
    [(level, stage) for level in ("off", "full") for stage in ("mail", "data", "final")]
    + [("chunked", "mail"), ("chunked", "final")],
)
@pytest.mark.parametrize(
    "words", ["421 4.7.0 Too many messages in this session", "452 4.5.3 Maximum transactions per connection reached"]
)
def test_a_session_that_is_full_burns_no_attempt_of_a_message(pipelining: str, words: str, stage: str) -> None:
    """After the body it was judged as a failure of the message and of the connection: one retry a session."""
    with SmtpServer(chunking=pipelining == "chunked") as server:
        server.on(stage, reply=words, nth=4, times=1)
        backlog(account_on(server, max_connections=1, pipelining=pipelining), 8)
        assert prx.drain().sent == 8
        assert_each_once(server, 8)
        assert server.connections == 2
