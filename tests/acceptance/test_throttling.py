"""A server that says "too fast" or "too many connections" slows the account down; no message pays a retry for it."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytest
from django.db import connection

import prx_email_django as prx
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import OutboxMessage, RateWindow
from tests.support.factories import account_on, backlog, mail
from tests.support.smtp_script import Rule
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

TOO_FAST = "454 Throttling failure: Maximum sending rate exceeded."


class TooFast(Rule):
    """Applies to what exceeds ``most`` in one second."""

    most = 14

    def __init__(self, stage: str, reply: str) -> None:
        super().__init__(stage, reply=reply)
        self.passed: deque[float] = deque()

    def matches(self, *, count: int, connection: int, address: str) -> bool:
        now = time.monotonic()
        while self.passed and self.passed[0] <= now - 1:
            self.passed.popleft()
        if len(self.passed) >= self.most:
            return True
        self.passed.append(now)
        return False


def add(server: SmtpServer, rule: Rule) -> None:
    server._rules = {**server._rules, rule.stage: [rule, *server._rules.get(rule.stage, [])]}


def assert_nothing_paid(*, sent: int) -> None:
    assert OutboxMessage.objects.filter(status="sent").count() == sent
    assert not OutboxMessage.objects.exclude(attempts=0, retries=0, last_error="").exists()


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("final", TOO_FAST),
        ("mail", "454 4.7.0 Throttling"),
        ("data", "451 4.3.2 Please slow down, rate limit reached"),
        ("rcpt", "450 4.7.1 Error: too much mail from 127.0.0.1"),
    ],
)
def test_a_server_of_14_a_second_gets_nearly_14_a_second(stage: str, reply: str) -> None:
    count = 70
    with SmtpServer() as server:
        owner = account_on(server)
        add(server, TooFast(stage, reply))
        backlog(owner, count)
        begun = time.monotonic()
        assert prx.drain(time_budget=60).sent == count
        took = time.monotonic() - begun
        assert_nothing_paid(sent=count)
        assert took < 2 * count / 14, f"{count / took:.1f}/s"
        assert (owner.pause_code, account_state(owner).slow_seconds) == ("", 0)


def test_a_send_that_is_too_fast_is_left_to_a_drain() -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        server.on("final", reply=TOO_FAST, times=1)
        result = prx.send(**mail(owner))
        assert (result.status, result.error_code, result.retries) == ("pending", "limited", 0)
        assert result.error == "the server asks to send more slowly; a drain will try the message"
        assert prx.drain().claimed == 0, "not within that second"
        account_state(owner).__class__.objects.update(slow_until=None)
        assert prx.drain().sent == 1


def test_a_server_that_stays_too_busy_ends_the_drain_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prx_email_django.worker.trouble.next_wait", lambda last: 30 if last else 1)
    monkeypatch.setattr("prx_email_django.worker.trouble.LONGEST_WAIT", 1)
    with SmtpServer() as server:
        owner = account_on(server)
        server.on("mail", reply="451 4.3.2 rate limit exceeded")
        backlog(owner, 20)
        prx.drain()
        assert owner.pause_code == ""
        assert_nothing_paid(sent=0)
        assert server.connections <= 3
        assert prx.drain().claimed == 0


@pytest.mark.parametrize("stage", ["final", "mail"])
@pytest.mark.parametrize("connections", [1, 3])
def test_too_many_connections_cost_a_connection_and_no_retry(stage: str, connections: int) -> None:
    reply = "432 4.3.2 Concurrent connections limit exceeded"
    with SmtpServer() as server:
        owner = account_on(server, max_connections=connections)
        backlog(owner, 60)
        server.on(stage, reply=reply, times=1)
        assert prx.drain(time_budget=60).sent == 60
        assert_nothing_paid(sent=60)
        assert owner.pause_code == ""
        assert server.connections <= 1 + connections


@pytest.mark.parametrize("code", [530, 550, 554])
@pytest.mark.parametrize("stage", ["mail", "rcpt"])
@pytest.mark.parametrize("words", ["authentication required", "5.7.1 SMTP AUTH is required", "you must log in first"])
def test_a_server_that_demands_a_login_costs_no_login_a_message(code: int, stage: str, words: str) -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        backlog(owner, 50)
        server.on(stage, reply=f"{code} {words}")
        prx.drain()
        assert server.connections <= 3
        assert owner.pause_code == "auth"
        assert_nothing_paid(sent=0)


def test_qmails_demand_for_a_login_is_no_bad_sequence() -> None:
    with SmtpServer() as server:
        owner = account_on(server)
        backlog(owner, 50)
        server.on("mail", reply="503 AUTH first (#5.5.1)")
        prx.drain()
        assert server.connections <= 3 and owner.pause_code == "auth"


# The first 503 may speak of the envelope in one piece, and is no failure yet.
@pytest.mark.parametrize(("reply", "most"), [("503 5.5.1 bad sequence", 4), ("451 4.4.5 too many messages", 3)])
def test_a_session_that_is_over_before_it_completes_anything_is_a_connection_failure(
    reply: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prx_email_django.worker.trouble.RECONNECT_AFTER", 0.01)
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1)
        backlog(owner, 50)
        server.on("mail", reply=reply)
        prx.drain()
        assert server.connections == most
        assert owner.pause_code == "connection"


def test_a_limit_per_second_is_kept() -> None:
    with SmtpServer() as server:
        owner: Any = account_on(server, rate_limits="14/second")
        backlog(owner, 42)
        begun = time.monotonic()
        assert prx.drain(time_budget=60).sent == 42
        # About 3 s; a drain that stopped at the limit would take its whole budget.
        assert 2 <= time.monotonic() - begun < 40
        assert_nothing_paid(sent=42)


@pytest.mark.parametrize(
    ("commit", "limit"), [(0.06, "20/second"), (0.06, "20 recipients/second"), (0.2, "20/second, 500/minute")]
)
def test_a_limit_per_second_is_used_where_each_commit_takes_longer_than_its_permits(commit: float, limit: str) -> None:
    """Permits of 50 ms had ended before the commit that took them: nothing went, and the drain took for ever."""

    def slow_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith(("UPDATE", "INSERT", "DELETE", "WITH")):
            time.sleep(commit)
        return result

    with SmtpServer() as server:
        owner = account_on(server, rate_limits=limit)
        backlog(owner, 30)
        passing = TooFast("mail", TOO_FAST)
        passing.most = 20
        add(server, passing)
        begun = time.monotonic()
        with connection.execute_wrapper(slow_writes):
            report = prx.drain(time_budget=40)
        assert (report.sent, report.claimed - report.released) == (30, 30)
        assert passing.hits == 0, "never more than 20 in a second"
        assert time.monotonic() - begun < 20
        assert_nothing_paid(sent=30)


def test_a_limit_per_second_is_used_where_a_claim_takes_longer_than_its_permits() -> None:
    """Permits are good for 50 ms; the messages that are too late stay claimed, and take new ones."""

    def slow_claims(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "claim_token" in sql and OutboxMessage._meta.db_table in sql:
            time.sleep(0.06)
        return execute(sql, params, many, context)

    with SmtpServer() as server:
        backlog(account_on(server, rate_limits="100/second"), 12)
        with connection.execute_wrapper(slow_claims):
            report = prx.drain(time_budget=10)
        assert (report.sent, report.claimed, report.released) == (12, 12, 0)
        assert sum(RateWindow.objects.get().counts) == 12, "permits that ended were given back"
        assert_nothing_paid(sent=12)
