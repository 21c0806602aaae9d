"""An account whose server fails at overlapped writes works without them: kept in its runtime state, and logged."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import AccountState
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
        assert "envelope pipelining for a week" in caplog.text
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
    """Each overlap would cost a message an attempt: dozens in the second before the drain reads the account again."""
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, pipelining=level)
        backlog(owner, 60)
        report = prx.drain()
        assert len(refuse_mail_behind_a_body) == 1
        assert (report.sent, report.deferred) == (59, 1), "only the message that was refused"
