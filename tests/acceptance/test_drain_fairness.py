"""The trouble of an account stays with it: it pauses, longer each time, recovers, and never delays other accounts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.worker import current
from prx_email_django.worker.learning import Learning
from tests.acceptance.workers import untouched
from tests.support.factories import account, account_on, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining

pytestmark = pytest.mark.django_db(transaction=True)


def state_of(account: Account) -> AccountState:
    return AccountState.objects.get(account=account)


@contextmanager
def two_servers() -> Iterator[tuple[SmtpServer, SmtpServer]]:
    with SmtpServer() as first, SmtpServer() as second:
        yield first, second


@pytest.mark.parametrize("stage", ["greeting", "mail", "final"])
def test_a_stalled_account_does_not_slow_a_healthy_one(stage: str) -> None:
    with two_servers() as (slow, quick):
        stalled = slow.on(stage, stall=True)
        backlog(account_on(slow, "a slow account"), 20)
        backlog(account_on(quick, "healthy"), 200)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        assert quick.wait_for(200)
        assert draining.is_alive()
        slow.clear()
        slow.release(stalled)
        assert draining.outcome().sent == 220


def test_a_dead_account_pauses_after_three_connections_a_second_apart_and_its_messages_stay_unchanged() -> None:
    with SmtpServer() as quick:
        dead = account("dead")
        rows = backlog(dead, 5)
        backlog(account_on(quick, "healthy"), 50)
        begun = monotonic()
        draining = Draining()
        assert quick.wait_for(50)
        report = draining.outcome()
        assert 2.0 <= monotonic() - begun < 25
        assert (report.sent, report.failed, report.deferred) == (50, 0, 0)
        assert untouched(rows)
        state = state_of(dead)
        assert (state.pause_count, state.paused_by) == (1, "worker")
        assert "connection failed" in state.pause_reason
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
        assert not DeliveryAttempt.objects.filter(message__account=dead).exists()


def test_pauses_grow_and_are_probed_with_one_message() -> None:
    with SmtpServer() as server:
        server.on("auth", reply="535 5.7.8 no")
        server.users = {"ann": "right"}
        account = account_on(server, auth_method="password", user="ann", password="wrong")
        rows = backlog(account, 30)
        now = timezone.now() + timedelta(minutes=1)
        for pause in (30, 60, 120, 240):
            assert prx.drain(now=now).claimed == 0
            assert account.paused_until == now + timedelta(seconds=pause)
            attempts = len(server.auth_attempts)
            prx.drain(now=now + timedelta(seconds=pause - 1))
            assert len(server.auth_attempts) == attempts, "a paused account opens no connection"
            now += timedelta(seconds=pause)
        assert untouched(rows)
        server.clear()
        AccountState.objects.update(pause_code="auth")
        Account.objects.update(password=Account(password="right").password)
        stalled = server.on("final", stall=True, times=1)
        draining = Draining(now=now)
        assert stalled.reached.wait(PATIENCE)
        assert OutboxMessage.objects.filter(status="sending").count() == 1, "the probe is one message"
        assert server.connections == attempts + 1
        server.release(stalled)
        assert draining.outcome().sent == 30
        state = state_of(account)
        assert (state.pause_reason, state.pause_count, state.connection_failures) == ("", 0, 0)


def test_refused_credentials_pause_at_once_and_touch_no_message() -> None:
    with SmtpServer(users={"ann": "right"}) as server:
        account = account_on(server, auth_method="password", user="ann", password="wrong")
        rows = backlog(account, 3)
        prx.drain()
        assert len(server.auth_attempts) == 1
        assert state_of(account).pause_code == "auth"
        assert untouched(rows)


def test_a_reply_that_names_the_quota_pauses_the_account_and_backs_the_message_off() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, pipelining="off")
        rows = backlog(account, 5)
        server.on("mail", nth=3, reply="550 5.4.5 Daily user sending limit exceeded")
        report = prx.drain()
        assert (report.sent, report.deferred) == (2, 1)
        assert state_of(account).pause_code == "quota"
        third = OutboxMessage.objects.get(pk=rows[2].pk)
        assert (third.status, third.retries) == ("failed", 1)
        assert third.next_attempt_at is not None
        assert untouched(rows[3:])


def test_a_message_at_which_the_server_hangs_up_does_not_stop_its_account() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        dead = [f"dead{number}@example.org" for number in range(25)]
        backlog(account, 1, to=dead, priority=5)
        backlog(account, 20)
        server.on("rcpt", drop=True, address="dead9@example.org")
        for address in dead[:9]:
            server.refuse(address)
        report = prx.drain()
        assert (report.sent, report.deferred) == (20, 1)
        bad = OutboxMessage.objects.get(priority=5)
        assert (bad.status, bad.retries, bad.last_error_code) == ("failed", 1, "network")
        assert account.pause_reason == ""
        assert len(bad.refused_recipients) == 9, "the recipients that were refused before keep their result"
        now = timezone.now()
        for _ in range(6):
            now += timedelta(hours=1)
            backlog(account, 2)
            OutboxMessage.objects.filter(status="pending").update(next_attempt_at=now)
            assert prx.drain(now=now).sent == 2
        assert account.pause_reason == ""


def test_one_lost_connection_is_one_failure() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        backlog(account, 1)
        server.on("mail", drop=True, times=1)
        assert prx.drain().deferred == 1
        assert state_of(account).connection_failures == 1


def test_successes_before_a_lost_connection_reset_the_failures_counted_before() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1, pipelining="off")
        AccountState.objects.update_or_create(account=account, defaults={"connection_failures": 2})
        backlog(account, 3)
        server.on("rcpt", nth=3, drop=True)
        report = prx.drain()
        assert (report.sent, report.deferred) == (2, 1)
        assert (state_of(account).connection_failures, account.pause_reason) == (1, "")


def test_a_server_that_restarts_under_three_connections_pauses_nothing() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 30)
        stalled = [server.on("final", stall=True, connection=number, times=1) for number in (1, 2, 3)]
        draining = Draining()
        assert all(reply.reached.wait(PATIENCE) for reply in stalled)
        server.hang_up()
        report = draining.outcome()
        assert account.pause_reason == ""
        assert report.sent + OutboxMessage.objects.filter(last_error_code="unknown_outcome").count() == 30
        assert OutboxMessage.objects.exclude(status="sent").count() == 3


def test_a_server_that_accepts_fewer_connections_than_the_account_allows_pauses_nothing() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=4)
        for number in (2, 3, 4):
            server.on("greeting", reply="421 4.7.0 too many connections", connection=number)
        backlog(account, 100)
        assert prx.drain().sent == 100
        assert account.pause_reason == ""


def test_a_connection_is_not_opened_only_to_find_the_queue_empty() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_messages_per_connection=1, max_connections=1)
        backlog(account, 3)
        assert prx.drain().sent == 3
        assert server.connections == 3


def test_an_account_that_cannot_be_drained_does_not_stop_the_others() -> None:
    with two_servers() as (first, second):
        unreadable = account_on(first, "unreadable")
        backlog(unreadable, 5)
        Account.objects.filter(pk=unreadable.pk).update(rate_limits="no limit at all")
        backlog(account_on(second, "healthy"), 50)
        assert prx.drain().sent == 50
        assert not OutboxMessage.objects.filter(status="sending").exists()
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_an_account_whose_worker_crashes_releases_its_messages_and_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_servers() as (first, second):
        broken = account_on(first, "broken", max_connections=1)
        rows = backlog(broken, 20)
        backlog(account_on(second, "healthy"), 50)
        learn = Learning.learn

        def crash(self: Learning, results: Any) -> None:
            if self.prefetch.current.account.pk == broken.pk:
                raise RuntimeError("an unexpected error")
            learn(self, results)

        monkeypatch.setattr(Learning, "learn", crash)
        prx.drain()
        assert len(second.messages) == 50
        assert first.wait_closed()
        arrived = {rows[number].pk for number in range(len(first.messages))}
        unknown = OutboxMessage.objects.filter(account=broken, attempts__gt=F("retries"))  # cut before its reply came
        sent = set(OutboxMessage.objects.filter(account=broken, status="sent").values_list("pk", flat=True))
        assert sent <= arrived <= sent | set(unknown.values_list("pk", flat=True))
        assert not OutboxMessage.objects.filter(status="sending").exists()
        assert OutboxMessage.objects.filter(account=broken, attempts__gt=0).count() <= 2, (
            "only a message that was being sent has an unknown outcome"
        )
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


def test_a_drain_with_wait_does_not_wait_for_a_paused_account() -> None:
    with two_servers() as (first, second):
        paused, healthy = account_on(first, "a paused account"), account_on(second, "healthy")
        backlog(paused, 1)
        prx.pause_outbox(paused, reason="holiday")
        backlog(healthy, 1, send_at=timezone.now() + timedelta(seconds=1.5))
        assert prx.drain(wait=True, time_budget=60).sent == 1
        assert not first.connections


def test_mail_for_an_idle_account_is_sent_while_another_account_waits_for_a_final_reply() -> None:
    with SmtpServer() as slow, SmtpServer() as quick:
        stalled = slow.on("final", stall=True)
        account_on(slow, "slow")
        account_on(quick, "quick")
        prx.enqueue(account="slow", to="a@example.org", subject="s", body_text="b")
        draining = Draining()
        try:
            assert stalled.reached.wait(PATIENCE)
            prx.enqueue(account="quick", to="b@example.org", subject="s", body_text="b")
            assert quick.wait_for(1)
        finally:
            slow.release(stalled)
        assert draining.outcome().sent == 2


@pytest.mark.parametrize(
    ("limits", "to"), [("1/hour", ["a@example.org"]), ("3 recipients/hour", ["a@example.org", "b@example.org"])]
)
def test_an_account_at_its_limit_opens_no_connection(limits: str, to: list[str]) -> None:
    with SmtpServer() as server:
        account_on(server, "limited", rate_limits=limits)
        for _ in range(2):
            prx.enqueue(account="limited", to=to, subject="s", body_text="b")
        assert prx.drain().sent == 1
        assert prx.drain().claimed == 0
        assert (len(server.messages), server.connections) == (1, 1)


class Raising:
    """An ``execute_wrapper`` of a host that raises once, after or before a statement with these words."""

    def __init__(self, *words: str, before: bool = False) -> None:
        self.words = words
        self.before = before
        self.has_raised = False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        is_meant = not self.has_raised and all(word in f"{sql} {list(map(str, params or ()))}" for word in self.words)
        if is_meant and self.before:
            self._raise()
        result = execute(sql, params, many, context)
        if is_meant:
            self._raise()
        return result

    def _raise(self) -> None:
        self.has_raised = True
        raise RuntimeError("a statement that the host watches")


@pytest.mark.parametrize("moment", ["claim", "recipients", "admission", "release"])
def test_an_account_whose_work_breaks_off_at_a_statement_releases_what_it_has_claimed(moment: str) -> None:
    """Nothing of it was written, so no message is lost, and none comes to rest as if it may have been delivered."""
    raising = {
        "claim": Raising("UPDATE", "claim_token", "dismissed_at"),
        "recipients": Raising("SELECT", "prx_email_django_recipient"),
        "admission": Raising("UPDATE", "expired"),
        "release": Raising("= CASE WHEN", before=True),
    }[moment]
    with two_servers() as (first, second):
        broken = account_on(first, "broken", max_connections=1, pipelining="off")
        rows = backlog(broken, 3, on_unknown="retry" if moment == "release" else "hold")
        if moment == "recipients":  # PostgreSQL reads those of new messages together with the claim
            OutboxMessage.objects.update(updated_at=timezone.now() + timedelta(seconds=1))
        if moment == "admission":
            OutboxMessage.objects.filter(pk=rows[0].pk).update(expires_at=timezone.now())
        stalled = first.on("mail", stall=True) if moment == "release" else None

        def stop() -> bool:
            """A drain that should end releases the two messages behind the first one."""
            return stalled is not None and stalled.reached.is_set()

        backlog(account_on(second, "healthy"), 3)
        with connection.execute_wrapper(raising):
            prx.drain(stop=stop)
        assert raising.has_raised
        # Either account may be the first that executes the statement; the other one goes on.
        assert 3 in (len(first.messages), len(second.messages)) or moment == "release"
        assert not OutboxMessage.objects.filter(status="sending").exists()
        assert not OutboxMessage.objects.filter(attempts__gt=0).exists()
        assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("stage", ["greeting", "refusal", "mail", "final"])
def test_an_account_that_a_person_deletes_ends_no_drain(
    stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop is a row of drains, and would stop with it, and with it the mail of all accounts."""
    monkeypatch.setattr(current, "LOOK_AFTER", 0.0)
    refusal = "554 5.7.1 not you" if stage == "refusal" else None
    with two_servers() as (first, second):
        deleted = account_on(first, "deleted", max_connections=1)
        backlog(deleted, 8)
        stalled = first.on("greeting" if refusal else stage, reply=refusal, stall=True, nth=1)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        OutboxMessage.objects.all().delete()
        deleted.delete()
        first.release(stalled)
        assert draining.outcome().sent == 0
        backlog(account_on(second, "other"), 1)
        assert prx.drain().sent == len(second.messages) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
