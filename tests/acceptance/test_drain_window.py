"""A drain whose account's server offers CHUNKING: the window is the account's, and what was learned of it is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from time import monotonic

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import AccountState, OutboxMessage
from prx_email_django.worker.queues import ResultQueue
from tests.support.factories import account_on, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer(chunking=True) as server:
        yield server


def data_and_bdat(server: SmtpServer) -> tuple[int, int]:
    """The messages that went by DATA, and by BDAT."""
    bdat = [line for line in server.lines("BDAT") if line != "BDAT 6 LAST"]
    return len(server.lines("DATA")), len(bdat)


def test_account_learns_its_window_and_a_single_send_uses_it(server: SmtpServer) -> None:
    owner = account_on(server, max_connections=1)
    backlog(owner, 60)
    assert prx.drain().sent == 60
    assert data_and_bdat(server) == (3, 57) and AccountState.objects.get().window == 4
    server.commands.clear()
    result = prx.send(account=owner, to="one@example.org", subject="s", body_text="b")
    assert result.status == "sent" and data_and_bdat(server) == (0, 1)
    assert "BDAT 6 LAST" not in server.lines("BDAT"), "the server was probed before"


def test_last_results_of_a_window_are_recorded_at_once(server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of a window runs out of messages before its last replies come: those waited for other results."""
    backlog(owner := account_on(server, max_connections=3), 2)
    AccountState.objects.update_or_create(account=owner, defaults={"window": 4})
    wait = ResultQueue.wait
    monkeypatch.setattr(ResultQueue, "wait", lambda self, timeout: wait(self, 60.0))
    body = server.on("final", stall=True, times=1)
    draining = Draining()
    assert body.reached.wait(PATIENCE)
    server.release(body)
    began = monotonic()
    assert draining.outcome().sent == 2
    assert monotonic() - began < 30


def test_window_grows_as_far_as_the_account_says(server: SmtpServer) -> None:
    backlog(account_on(server, max_connections=2, max_in_flight=2, pipelining="chunked"), 100)
    assert prx.drain().sent == 100 and AccountState.objects.get().window == 2


def test_lost_window_makes_the_account_send_one_at_a_time_for_a_day(
    server: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    owner = account_on(server, max_connections=1, pipelining="chunked")
    AccountState.objects.update_or_create(account=owner, defaults={"window": 4})
    server.on("mail", nth=5, drop=True)
    backlog(owner, 40)
    began = timezone.now()
    with caplog.at_level(logging.WARNING, "prx_email_django"):
        prx.drain()
    state = AccountState.objects.get()
    assert state.window == 1 and state.window_until is not None
    assert timedelta(hours=23) < state.window_until - began < timedelta(hours=25)
    assert "set its field max_in_flight to 1" in caplog.text
    unknown = OutboxMessage.objects.filter(last_error_code="unknown_outcome").count()
    assert 2 <= unknown <= 4
    # One at a time from now on: a second loss makes one outcome unknown.
    server.clear()
    server.on("mail", nth=12, drop=True)
    backlog(owner, 40)
    prx.drain()
    assert OutboxMessage.objects.filter(last_error_code="unknown_outcome").count() <= unknown + 1


def test_server_that_reads_a_refused_body_as_commands_is_remembered_for_a_week() -> None:
    with SmtpServer(chunking=True, discards=False) as server:
        owner = account_on(server, max_connections=2)
        backlog(owner, 40)
        report = prx.drain()
        assert (report.sent, report.deferred, OutboxMessage.objects.exclude(attempts=0).count()) == (40, 0, 0)
        state = AccountState.objects.get()
        assert state.window == 0 and state.no_chunking_until > timezone.now() + timedelta(days=6)
        probes = len(server.lines("BDAT"))
        backlog(owner, 10)
        prx.drain()
        assert len(server.lines("BDAT")) == probes and data_and_bdat(server)[1] == 0


def test_message_that_must_not_be_sent_twice_is_never_unanswered_beside_another(server: SmtpServer) -> None:
    owner = account_on(server, max_connections=1, pipelining="chunked")
    AccountState.objects.update_or_create(account=owner, defaults={"window": 4})
    for number in range(12):
        hold = "hold" if number % 3 == 0 else "retry"
        prx.enqueue(account=owner, to=f"r{number}@example.org", subject="s", body_text="b", on_unknown=hold, tag=hold)
    assert prx.drain().sent == 12
    assert data_and_bdat(server) == (4, 8)


def test_other_credentials_forget_what_was_learned(server: SmtpServer) -> None:
    owner = account_on(server, max_connections=1, pipelining="chunked")
    backlog(owner, 20)
    prx.drain()
    assert AccountState.objects.get().window > 0
    owner.host = "localhost"
    owner.save()
    assert AccountState.objects.get().window == 0
