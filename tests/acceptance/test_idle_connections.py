"""Connections that a loop keeps between drains: who gets them, what ends them, and that no message pays for them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django.limits.slots import SLOT_LEASE, Slot
from prx_email_django.models import Account, ConnectionSlot, OutboxMessage
from prx_email_django.store.outbox import outbox_state, wake_requested
from prx_email_django.worker import idle as idle_module
from prx_email_django.worker.drain import Drain
from prx_email_django.worker.heartbeat import LOOP, working_as
from prx_email_django.worker.idle import IdleConnections, keeping_connections
from tests.support.factories import account, account_on, at, backlog
from tests.support.patience import PATIENCE
from tests.support.slots import acquire_slot
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer(users={"ann": "secret"}) as server:
        yield server


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdleConnections]:
    """A loop whose idle connections end for a reason only, not by the clock."""
    monkeypatch.setattr(idle_module, "IDLE_FOR", 600.0)
    with working_as(LOOP), keeping_connections() as kept:
        yield kept


def owner_on(server: SmtpServer, **fields: Any) -> Account:
    return account_on(server, auth_method="password", user="ann", password="secret", **fields)


def send_one(owner: Account) -> None:
    """One drain with one message, which is sent at its first attempt."""
    (row,) = backlog(owner, 1)
    assert prx.drain().sent == 1
    row.refresh_from_db()
    assert (row.status, row.attempts) == ("sent", 0)


def slots_taken() -> int:
    return ConnectionSlot.objects.filter(token__isnull=False).count()


def wait_released(kept: IdleConnections) -> bool:
    """The connections that are being closed are closed, and their slots free."""
    assert all(connection.closed.wait(PATIENCE) for connection in kept._held())
    kept.release_closed()
    return not slots_taken()


@pytest.mark.parametrize("chunking", [False, True])
def test_the_next_message_of_a_loop_uses_the_connection_of_the_last_one(chunking: bool) -> None:
    with (
        SmtpServer(tls="starttls", users={"ann": "secret"}, chunking=chunking) as server,
        working_as(LOOP),
        keeping_connections(),
    ):
        owner = owner_on(server, tls_ca_file=server.ca_file, pipelining="chunked" if chunking else "auto")
        for _ in range(4):
            send_one(owner)
        assert (server.connections, len(server.auth_attempts)) == (1, 1)
        assert slots_taken() == 1
    assert (server.lines("QUIT"), slots_taken()) == (["QUIT"], 0)


def test_a_drain_outside_a_loop_keeps_nothing(server: SmtpServer) -> None:
    owner = owner_on(server)
    send_one(owner)
    assert server.lines("QUIT") and not slots_taken()
    assert not [thread for thread in threading.enumerate() if thread.name == "prx-email-network"]


def hang_up(server: SmtpServer) -> None:
    server.hang_up()
    assert server.wait_closed()


def say_goodbye(server: SmtpServer) -> None:
    server.say(b"421 4.4.2 idle for too long\r\n", close=True)


def close_at_rset(server: SmtpServer) -> None:
    """The end of the connection is seen only when something is written."""
    server.on("rset", drop=True, times=1)


def refuse_rset(server: SmtpServer) -> None:
    server.on("rset", reply="421 4.3.2 going down", times=1)


def stay_silent(server: SmtpServer) -> None:
    server.on("rset", stall=True, times=1)


@pytest.mark.parametrize("end", [hang_up, say_goodbye, close_at_rset, refuse_rset, stay_silent])
def test_a_connection_that_the_server_has_ended_costs_no_attempt(
    server: SmtpServer, kept: IdleConnections, monkeypatch: pytest.MonkeyPatch, end: Callable[[SmtpServer], None]
) -> None:
    monkeypatch.setattr("prx_email_django.transports.smtp.session.RESUME_TIMEOUT", 0.2)
    owner = owner_on(server)
    send_one(owner)
    end(server)
    send_one(owner)
    assert server.connections == 2
    assert not OutboxMessage.objects.exclude(status="sent", attempts=0, retries=0).exists()
    owner.runtime_state.refresh_from_db()
    assert owner.runtime_state.connection_failures == 0


def take_slot(owner: Account) -> Slot | None:
    return acquire_slot(owner, noted=set(), clock=at(None))


def test_the_only_slot_of_an_account_is_given_back(server: SmtpServer, kept: IdleConnections) -> None:
    owner = owner_on(server, max_connections=1)
    send_one(owner)
    assert not slots_taken()
    assert prx.send(account=owner, to="bob@example.org", subject="s", body_text="t").status == "sent"


def test_a_slot_is_given_back_when_others_hold_all_the_rest(server: SmtpServer, kept: IdleConnections) -> None:
    owner = owner_on(server, max_connections=2)
    send_one(owner)
    assert slots_taken() == 1, "an idle connection keeps its slot: the server counts it"
    assert take_slot(owner) is not None, "another one is free at once"
    prx.drain()
    assert all(connection.closed.wait(PATIENCE) for connection in kept._held())
    kept.release_closed()
    assert take_slot(owner) is not None
    assert server.wait_closed() and server.lines("QUIT")


def test_nothing_is_kept_while_others_hold_all_the_rest(server: SmtpServer, kept: IdleConnections) -> None:
    owner = owner_on(server, max_connections=2)
    assert take_slot(owner) is not None
    send_one(owner)
    assert slots_taken() == 1
    assert take_slot(owner) is not None


def test_nothing_is_kept_where_the_server_takes_no_further_connection(
    server: SmtpServer, kept: IdleConnections
) -> None:
    backlog(owner_on(server, pipelining="off"), 4)
    body = server.on("final", stall=True, nth=1)
    refused = server.on("greeting", reply="421 4.7.0 too many connections", connection=2)

    def release() -> None:
        assert refused.reached.wait(PATIENCE)
        server.release(body)

    releasing = CallInThread(release)
    assert prx.drain().sent == 4
    releasing.outcome()
    assert server.wait_closed() and not slots_taken()


def test_a_connection_that_has_completed_nothing_is_not_kept(server: SmtpServer, kept: IdleConnections) -> None:
    """Its end would count as a failure of the account."""
    (row,) = backlog(owner_on(server), 1)
    greeting = server.on("greeting", stall=True)

    def withdraw() -> None:
        assert greeting.reached.wait(PATIENCE)
        prx.cancel_outbox(row)
        server.release(greeting)

    withdrawing = CallInThread(withdraw)
    assert prx.drain().claimed == 0
    withdrawing.outcome()
    assert server.wait_closed() and server.lines("QUIT") and not slots_taken()


def test_changed_credentials_are_used_at_once(server: SmtpServer, kept: IdleConnections) -> None:
    owner = owner_on(server)
    send_one(owner)
    server.users["ann"] = "fresh"
    owner.password = "fresh"
    owner.save()
    send_one(owner)
    assert (server.connections, len(server.auth_attempts)) == (2, 2)


def pause(owner: Account) -> None:
    prx.pause_outbox(owner, reason="maintenance")


def pause_everything(owner: Account) -> None:
    prx.pause_outbox(reason="maintenance")


def change_password(owner: Account) -> None:
    owner.password = "fresh"
    owner.save()


def switch_off(owner: Account) -> None:
    Account.objects.update(is_active=False)


@pytest.mark.parametrize("change", [pause, pause_everything, change_password, switch_off])
def test_an_idle_connection_ends_at_the_next_look_when_its_account_changes(
    server: SmtpServer, kept: IdleConnections, change: Callable[[Account], None]
) -> None:
    owner = owner_on(server)
    send_one(owner)
    change(owner)
    prx.drain()
    assert server.wait_closed() and server.lines("QUIT")
    assert wait_released(kept)


def test_an_idle_connection_ends_although_the_loop_is_held_up(
    server: SmtpServer, kept: IdleConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the network's thread: the calling thread may wait for its database."""
    monkeypatch.setattr(idle_module, "IDLE_FOR", 0.1)
    send_one(owner_on(server))
    assert server.wait_closed() and server.lines("QUIT")
    assert wait_released(kept)


def test_a_drain_that_breaks_off_leaves_no_connection_and_no_slot(server: SmtpServer, kept: IdleConnections) -> None:
    class Broken(Exception):
        pass

    def progress(report: prx.DrainReport) -> None:
        raise Broken

    owner = owner_on(server)
    send_one(owner)
    other = account_on(server, "other", auth_method="password", user="ann", password="secret")
    backlog(other, 1)
    with pytest.raises(Broken):
        prx.drain(progress=progress)
    assert server.wait_closed() and not server.lines("QUIT")
    assert not slots_taken()
    assert prx.drain().sent == 1


def test_the_slot_of_a_connection_that_is_used_again_and_again_is_renewed(
    server: SmtpServer, kept: IdleConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owner_on(server)
    send_one(owner)
    first = ConnectionSlot.objects.get().expires_at
    monkeypatch.setattr(idle_module, "RENEW_BELOW", SLOT_LEASE.total_seconds() + 1)
    send_one(owner)
    slot = ConnectionSlot.objects.get()
    assert first is not None and slot.expires_at is not None
    assert slot.expires_at > first
    assert server.connections == 1


@pytest.mark.parametrize("accounts", [1, 100])
def test_an_idle_loop_costs_at_most_four_statements_a_second_beside_the_watch(
    kept: IdleConnections, accounts: int
) -> None:
    """Twenty looks at the wake row a second, and one drain: at most 25, whatever the number of accounts."""
    for number in range(accounts):
        account(f"a{number}")
    prx.drain()
    with CaptureQueriesContext(connection) as statements:
        for _ in range(4):
            prx.drain()
    assert len(statements) <= 4 * 3 + 2, [query["sql"] for query in statements.captured_queries]
    with CaptureQueriesContext(connection) as statements:
        wake_requested()
    assert len(statements) == 1


@pytest.mark.parametrize("accounts", [1, 100])
def test_a_message_for_a_kept_connection_waits_for_four_statements_whatever_the_number_of_accounts(
    server: SmtpServer, kept: IdleConnections, accounts: int
) -> None:
    """The outbox's row, the wake-up, who has something due, and that account alone; then its claim."""
    owner = owner_on(server)
    for number in range(accounts - 1):
        account(f"a{number}")
    send_one(owner)
    prx.enqueue(account=owner, to="bob@example.org", subject="s", body_text="t")
    kept.recover_at = float("inf")
    with CaptureQueriesContext(connection) as statements:
        assert prx.drain().sent == 1
    texts = [query["sql"] for query in statements if query["sql"] != "BEGIN"]
    before = list(itertools.takewhile(lambda sql: not is_claim(sql), texts))
    assert len(before) <= 4, before
    read = [sql for sql in before if "runtime" in sql or "accountstate" in sql]
    assert len(read) == 1
    assert accounts == 1 or " IN (" in read[0], "not a hundred accounts for one message"
    assert server.connections == 1


def is_claim(sql: str) -> bool:
    """Whether a statement reads or writes the messages of one account."""
    return "prx_email_django_outboxmessage" in sql and "SELECT DISTINCT a.id" not in sql


def test_a_drain_of_a_loop_leaves_the_second_look_to_the_next_drain(server: SmtpServer, kept: IdleConnections) -> None:
    """Tried: it slept until then, and a message that was queued meanwhile waited for that."""
    owner = owner_on(server)
    prx.enqueue(account=owner, to="bob@example.org", subject="s", body_text="t")
    begun = time.monotonic()
    drain = Drain(clock=at(None), outbox=outbox_state())
    sleeps: list[float] = []
    drain._sleep = lambda seconds: bool(sleeps.append(seconds))  # type: ignore[method-assign]
    drain.run()
    assert not sleeps
    assert begun < kept.look_at < begun + 600
    prx.drain()
    assert kept.look_at == float("inf"), "the next drain has looked"
