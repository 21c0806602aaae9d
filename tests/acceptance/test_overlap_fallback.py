"""An account whose server does not bear what is written ahead works without it, and no message pays for the trial.

What was found is kept in the account's runtime state, and logged with the field to set.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import AccountState, OutboxMessage
from tests.support.factories import account_on, backlog
from tests.support.smtp_connection import Connection
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def cut_first_overlap(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Hangs up at the first body that the next envelope followed; lists the connections of all such bodies."""
    overlapped: list[int] = []
    real = Connection.answer

    def answer(self: Connection, stage: str, *arguments: Any, **options: Any) -> None:
        if stage == "final" and self.buffer:
            overlapped.append(self.number)
            if len(overlapped) == 1:
                self.blocked = True
                self.transport.abort()
                return
        real(self, stage, *arguments, **options)

    monkeypatch.setattr(Connection, "answer", answer)
    return overlapped


@pytest.mark.parametrize("level", ["auto", "full"])
def test_account_whose_first_overlapped_write_was_lost_does_not_overlap_for_seven_days(
    level: str, caplog: pytest.LogCaptureFixture, cut_first_overlap: list[int]
) -> None:
    with SmtpServer() as server, caplog.at_level(logging.WARNING, "prx_email_django"):
        owner = account_on(server, max_connections=1, pipelining=level)
        backlog(owner, 60)
        began = timezone.now()
        prx.drain()
        state = AccountState.objects.get()
        assert state.envelope_until is not None
        assert timedelta(days=6, hours=23) < state.envelope_until - began < timedelta(days=7, hours=1)
        assert 'uses "envelope" for a week' in caplog.text and "field pipelining to envelope" in caplog.text
        backlog(owner, 60)
        prx.drain()
        assert len(cut_first_overlap) == 1, "an envelope was written directly after a body again"


@pytest.fixture
def refuse_mail_behind_a_body(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers 503 to every MAIL that followed a body at once, and does not hang up; lists the connections."""
    overlapped: list[int] = []
    real = Connection.answer
    behind: set[int] = set()

    def answer(self: Connection, stage: str, *arguments: Any, **options: Any) -> None:
        if stage == "final" and self.buffer:
            behind.add(self.number)
        if stage == "mail" and self.number in behind:
            behind.remove(self.number)
            overlapped.append(self.number)
            self.out.append(b"503 5.5.1 nested MAIL command\r\n")
            return
        real(self, stage, *arguments, **options)

    monkeypatch.setattr(Connection, "answer", answer)
    return overlapped


@pytest.mark.parametrize("level", ["auto", "full"])
def test_connections_of_the_same_drain_stop_overlapping_at_once(
    level: str, refuse_mail_behind_a_body: list[int]
) -> None:
    """Each overlap would cost a connection: dozens in the second before the drain reads the account again."""
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, pipelining=level)
        backlog(owner, 60)
        report = prx.drain()
        assert len(refuse_mail_behind_a_body) == 1
        assert (report.sent, report.deferred) == (60, 0), "what this app tried cost a message an attempt"


@pytest.fixture
def one_command_per_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came in the same segment as a command is dropped, although PIPELINING is offered."""
    real = Connection.process

    def process(self: Connection) -> None:
        if self.body is None and b"\r\n" in self.buffer:
            self.buffer = self.buffer[: self.buffer.index(b"\r\n") + 2]
        real(self)

    monkeypatch.setattr(Connection, "process", process)
    monkeypatch.setattr("prx_email_django.transports.smtp.session_state.TRIAL_TIMEOUT", 0.3)


@pytest.mark.parametrize("level", ["auto", "full"])
def test_haraka_costs_an_account_of_many_connections_one_of_them(
    haraka: None, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SmtpServer() as server, caplog.at_level(logging.WARNING, "prx_email_django"):
        owner = account_on(server, max_connections=4, pipelining=level)
        backlog(owner, 200)
        report = prx.drain()
        assert (report.sent, report.deferred, report.failed) == (200, 0, 0) and len(server.messages) == 200
        assert not OutboxMessage.objects.exclude(attempts=0, retries=0).exists()
        assert AccountState.objects.get().pause_reason == "" and AccountState.objects.get().connection_failures == 0
        assert caplog.text.count("field pipelining to envelope") == 1
        assert server.connections <= 5
        connections = server.connections
        backlog(owner, 50)
        prx.drain()
        assert server.connections <= connections + 4 and caplog.text.count("field pipelining") == 1


def test_server_of_one_command_per_read_costs_no_message_an_attempt(
    one_command_per_read: None, caplog: pytest.LogCaptureFixture
) -> None:
    with SmtpServer() as server, caplog.at_level(logging.WARNING, "prx_email_django"):
        owner = account_on(server, max_connections=4)
        backlog(owner, 40)
        report = prx.drain()
        assert (report.sent, report.deferred, report.failed) == (40, 0, 0) and len(server.messages) == 40
        assert not OutboxMessage.objects.exclude(attempts=0, retries=0).exists()
        state = AccountState.objects.get()
        assert (state.pause_reason, state.connection_failures, state.envelope_until) == ("", 0, None)
        assert state.stepwise_until is not None and state.stepwise_until > timezone.now() + timedelta(days=6)
        assert caplog.text.count("field pipelining to off") == 1


def test_send_to_a_server_of_one_command_per_read_is_sent_in_the_same_attempt(one_command_per_read: None) -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        result = prx.send(account=owner, to="bob@example.org", subject="s", body_text="b")
        assert (result.status, result.retries, result.error) == ("sent", 0, "")
        assert OutboxMessage.objects.get().attempts == 0 and server.connections == 2
        result = prx.send(account=owner, to="bob@example.org", subject="s", body_text="b")
        assert (result.status, server.connections) == ("sent", 3), "it was learned for the next"


def test_week_without_pipelining_ends(one_command_per_read: None) -> None:
    """Then it is tried again, and no message pays for that either."""
    with SmtpServer() as server:
        owner = account_on(server)
        backlog(owner, 3)
        prx.drain()
        AccountState.objects.update(stepwise_until=timezone.now() - timedelta(seconds=1))
        backlog(owner, 3)
        report = prx.drain()
        assert (report.sent, report.deferred) == (3, 0)
        assert AccountState.objects.get().stepwise_until > timezone.now()


@pytest.mark.parametrize("way", ["drain", "send"])
def test_a_thousand_recipients_at_a_hundred_each_take_ten_transactions_on_one_connection(way: str) -> None:
    with SmtpServer() as server:
        server.max_recipients = 100
        owner = account_on(server)
        to = [f"r{number}@example.org" for number in range(1000)]
        call = prx.send if way == "send" else prx.enqueue
        call(account=owner, to=to, subject="s", body_text="b")
        if way == "drain":
            prx.drain()
        row = OutboxMessage.objects.get()
        assert (row.status, row.retries, row.attempts) == ("sent", 0, 0)
        assert sorted(server.recipients) == sorted(to)
        assert (len(server.messages), server.connections) == (10, 1)
