"""A drain heeds what a person changes: confirmations, lowered limits, pauses, switched-off accounts, expiry times."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings
from django.utils import timezone

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.api import sending
from prx_email_django.errors import InvalidMessage, RetryRejected
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.store import operations
from prx_email_django.store.claims import ClaimBatch
from prx_email_django.transports.memory import shared
from prx_email_django.worker import claim_source, current
from prx_email_django.worker.loop import WorkerLoop
from tests.acceptance.workers import eventually, untouched
from tests.support.factories import MEMORY, NOW, account, account_on, backlog, fresh, in_threads, mail, message
from tests.support.fake_clock import MovableClock
from tests.support.patience import PATIENCE
from tests.support.smtp_script import Rule
from tests.support.smtp_server import SmtpServer
from tests.support.threads import Draining, Sending

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


@pytest.fixture
def memory(settings: Any) -> Any:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def test_an_expired_message_is_not_logged_as_an_unknown_outcome(memory: None, caplog: Any) -> None:
    row = message(account(), now=NOW)
    with caplog.at_level(logging.INFO, "prx_email_django"):
        prx.drain(now=NOW + 10 * DAY)
    assert fresh(row).last_error_code == "expired"
    (record,) = [record for record in caplog.records if getattr(record, "outbox_id", None) == row.pk]
    assert (record.levelname, record.outcome) == ("WARNING", "at rest"), (record.levelname, record.outcome)


def test_a_confirmed_message_is_not_sent_again(memory: None) -> None:
    """hold: the first outcome is unknown, a person's retry fails (451), and then the person confirms the arrival."""
    owner = account()
    shared.fail_next("body", timeout=True, accept=True)
    result = prx.send(**mail(owner, on_unknown="hold"))
    assert (len(shared.delivered), fresh_id(result.outbox_id).is_at_rest) == (1, True)
    shared.fail_next("mail", "451 4.3.0 later")
    prx.retry_outbox(result.outbox_id)
    assert fresh_id(result.outbox_id).may_have_been_delivered
    report = prx.confirm_outbox([result.outbox_id])
    prx.drain()
    assert len(shared.delivered) == 1, (report, len(shared.delivered))


def fresh_id(pk: int) -> OutboxMessage:
    return OutboxMessage.objects.get(pk=pk)


def test_a_retry_that_ended_before_mail_leaves_a_row_that_can_be_confirmed(memory: None, monkeypatch: Any) -> None:
    """hold: SystemExit ends the retry before MAIL, the message is released, a person confirms: no second copy."""
    owner = account()
    shared.fail_next("body", timeout=True, accept=True)
    result = prx.send(**mail(owner, on_unknown="hold"))

    def end(self: Any) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerLoop, "_renew", end)
        with pytest.raises(SystemExit):
            prx.retry_outbox(result.outbox_id)
    assert fresh_id(result.outbox_id).is_at_rest
    prx.confirm_outbox([result.outbox_id])
    prx.drain()
    assert len(shared.delivered) == 1, len(shared.delivered)


def test_a_retry_without_a_slot_returns_sent_for_a_row_that_was_sent_meanwhile(memory: None) -> None:
    owner = account(max_connections=1)
    row = prx.enqueue(**mail(owner))
    real = sending.slot_or_obstacle

    def taken(*args: Any, **kwargs: Any) -> Obstacle:
        assert in_threads(lambda: prx.drain())[0].sent == 1
        return Obstacle(ObstacleKind.CONNECTIONS)

    sending.slot_or_obstacle = taken  # type: ignore[assignment]
    try:
        result = prx.retry_outbox(row.pk)
    finally:
        sending.slot_or_obstacle = real
    assert (result.status, result.error_code) == ("sent", ""), result


def test_a_send_after_its_expiry_delivers_nothing(memory: None) -> None:
    with pytest.raises(InvalidMessage, match="expires_at must be in the future"):
        prx.send(**mail(account(), expires_at=store.db.clock_for(None).now - DAY))
    assert not shared.delivered


def test_a_running_drain_heeds_a_lowered_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=3, max_messages_per_connection=2, pipelining="off")
        backlog(owner, 60)
        beginning = [server.on("final", stall=True, connection=number, times=1) for number in (1, 2, 3)]
        middle = server.on("final", stall=True, nth=20)
        clock = MovableClock()
        monkeypatch.setattr(current, "monotonic", clock)
        drain = threading.Thread(target=lambda: (prx.drain(), connections["default"].close()), daemon=True)
        drain.start()
        assert all(reply.reached.wait(PATIENCE) for reply in beginning)
        assert server.max_open_connections == 3
        Account.objects.filter(pk=owner.pk).update(max_connections=1)
        clock.seconds = 1.1  # a drain reads the account again after a second, at the next connection
        for reply in beginning:
            server.release(reply)
        assert middle.reached.wait(PATIENCE)
        assert eventually(lambda: server.open_connections == 1)
        server.max_open_connections = server.open_connections
        before = server.connections
        server.release(middle)
        drain.join(PATIENCE)
        assert (len(server.messages), server.max_open_connections) == (60, 1)
        assert server.connections >= before + 15


def set_active(owner: Account, *, active: bool) -> None:
    Account.objects.filter(pk=owner.pk).update(is_active=active)


#: Ways in which a person stops an account, and how each is undone.
HALTS: dict[str, tuple[Callable[[Account], object], Callable[[Account], object]]] = {
    "switches the account off": (
        lambda owner: set_active(owner, active=False),
        lambda owner: set_active(owner, active=True),
    ),
    "pauses the account": (lambda owner: prx.pause_outbox(owner, reason="r"), prx.resume_outbox),
    "pauses everything": (lambda owner: prx.pause_outbox(reason="r"), lambda owner: prx.resume_outbox()),
}


@pytest.mark.parametrize("stop", HALTS)
def test_a_running_drain_stops_claiming_a_second_after_a_person_stops_the_account(stop: str) -> None:
    """The server accepts at most twenty messages a second: the messages of about two seconds may still be sent."""
    halt, undo = HALTS[stop]
    count = 160
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, max_messages_per_connection=count, pipelining="off")
        backlog(owner, count)
        server.on("final", delay=0.05)
        reports: list[prx.DrainReport] = []
        drain = threading.Thread(target=lambda: (reports.append(prx.drain()), connections["default"].close()))
        drain.start()
        assert server.wait_for(20)
        halt(owner)
        before = len(server.messages)
        drain.join(PATIENCE)
        assert not drain.is_alive()
        sent = len(server.messages)
        assert before <= sent < before + 60
        assert reports[0].sent == sent
        waiting = OutboxMessage.objects.filter(status="pending", attempts=0, next_attempt_at__isnull=False)
        assert waiting.count() == count - sent, "released unchanged"
        assert prx.drain().claimed == 0
        server.clear()
        undo(owner)
        assert prx.drain().sent == count - sent
        assert Counter(server.recipients) == Counter({f"p{n}@example.org": 1 for n in range(count)})


def test_a_pause_by_a_person_stops_a_drain_that_is_under_way() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        rows = backlog(account, 60)
        stalled = server.on("final", stall=True, nth=2)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        prx.pause_outbox(account, reason="stop")
        threading.Event().wait(1.1)  # a drain reads the pauses once a second
        server.release(stalled)
        report = draining.outcome()
        assert report.sent < 60
        assert OutboxMessage.objects.filter(status="pending").count() == 60 - report.sent
        assert untouched(rows[-1:])
        assert account.pause_reason == "stop", "a success does not end a pause that a person set"


def test_a_password_that_a_person_corrects_during_a_drain_is_used_at_once() -> None:
    with SmtpServer(users={"ann": "old"}) as server:
        account = account_on(server, auth_method="password", user="ann", password="old", max_connections=1)
        backlog(account, 10)
        stalled = server.on("final", stall=True, nth=3)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        server.users = {"ann": "new"}
        corrected = Account.objects.get()
        corrected.password = "new"
        corrected.save()
        server.say(b"421 4.3.2 restarting\r\n", close=True)
        draining.outcome()
        assert account.pause_reason == ""
        assert OutboxMessage.objects.filter(status="sent").count() == 9


def claimed_again(server: SmtpServer) -> tuple[Rule, Draining]:
    """A drain of 100 messages whose first body the server does not answer, until it has claimed that message again."""
    stalled, pausing = server.on("final", nth=1, stall=True), server.on("final", nth=2, stall=True)
    backlog(account_on(server, max_connections=2), 100)
    draining = Draining()
    assert stalled.reached.wait(PATIENCE) and pausing.reached.wait(PATIENCE)
    held = OutboxMessage.objects.filter(status="sending")
    tokens = list(held.values_list("claim_token", flat=True))
    held.update(status="pending", next_attempt_at=timezone.now())  # behind all others
    server.release(pausing)
    old = OutboxMessage.objects.filter(claim_token__in=tokens).exclude(status="sent")
    assert eventually(lambda: not old.exists()), "it is not claimed again"
    return stalled, draining


@override_settings(PRX_EMAIL={"LEASE": 3})
def test_the_second_claim_of_an_unanswered_message_lasts_as_long_as_the_first() -> None:
    """It was not renewed: the message was recovered as lost, and sent once more, while the server was thinking."""
    with SmtpServer() as server:
        stalled, draining = claimed_again(server)
        claimed = OutboxMessage.objects.exclude(status="sent")
        assert eventually(lambda: claimed.count() == 1)
        ends = set[object]()
        for _ in range(4):
            assert eventually(lambda: not ends.issuperset(claimed.values_list("claim_expires_at", flat=True)))
            assert not DeliveryAttempt.objects.filter(outcome="lost").exists()
            ends.update(claimed.values_list("claim_expires_at", flat=True))
        server.release(stalled)
        draining.outcome()
        assert OutboxMessage.objects.filter(status="sent", attempts=0).count() == len(server.messages) == 100


def test_a_message_that_is_claimed_again_while_its_body_is_unanswered_is_not_sent_twice() -> None:
    """A person has set its status to pending by hand; the server may have accepted it, and its reply decides."""
    with SmtpServer() as server:
        stalled, draining = claimed_again(server)
        server.release(stalled)
        draining.outcome()
        prx.drain()
        assert not OutboxMessage.objects.exclude(status="sent").exists()
        assert Counter(server.recipients) == Counter(f"p{number}@example.org" for number in range(100))


def test_a_message_that_is_moved_to_another_account_while_it_is_claimed_takes_no_result_with_it(
    memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite and MariaDB read the claimed rows by a statement of its own; a probe is claimed by its id alone."""
    owner, other = account(), account("other")
    rows = backlog(owner, 4)
    claim = claim_source.claim

    def claimed_and_moved(account_id: int, **arguments: Any) -> ClaimBatch:
        batch = claim(account_id, **arguments)
        for found in batch.claims[1:2]:
            OutboxMessage.objects.filter(pk=found.id).update(account=other)
            found.message.account_id = other.pk
        return batch

    monkeypatch.setattr(claim_source, "claim", claimed_and_moved)
    assert prx.drain().sent == 4
    assert {fresh(row).status for row in rows} == {"sent"} and DeliveryAttempt.objects.count() == 4


def test_a_message_that_is_moved_before_its_retry_claims_it_is_not_sent_over_the_account_of_before(
    memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry has the connection of the account that it read; the message names another by its claim."""
    row, other = prx.enqueue(**mail(account())), account("other")
    real = sending.claim_one

    def moved(*args: Any, **options: Any) -> Any:
        OutboxMessage.objects.filter(pk=row.pk).update(account=other)
        return real(*args, **options)

    monkeypatch.setattr(sending, "claim_one", moved)
    with pytest.raises(RetryRejected, match="another account"):
        prx.retry_outbox(row.pk)
    monkeypatch.undo()
    assert fresh(row).status == "pending"
    assert prx.drain().sent == 1


def test_a_message_that_is_moved_while_a_retry_reads_its_claim_keeps_its_result(
    memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, other = prx.enqueue(**mail(account())), account("other")
    real = operations.load_claims

    def moved(*args: Any, **options: Any) -> Any:
        OutboxMessage.objects.filter(pk=row.pk).update(account=other)
        return real(*args, **options)

    monkeypatch.setattr(operations, "load_claims", moved)
    assert prx.retry_outbox(row.pk).status == "sent"
    assert fresh(row).status == "sent"


def test_the_rest_of_a_message_that_is_moved_goes_over_its_new_account() -> None:
    """Two recipients fit into each transaction; the message is moved as the server takes the first two."""
    with SmtpServer() as server, SmtpServer() as elsewhere:
        server.max_recipients = 2
        owner, other = account_on(server), account_on(elsewhere, name="other")
        beginning = server.on("final", stall=True, times=1)
        sending_one = Sending(**mail(owner, to=["a@x.org", "b@x.org", "c@x.org"]))
        assert beginning.reached.wait(PATIENCE)
        OutboxMessage.objects.update(account=other)
        server.release(beginning)
        assert sending_one.outcome().status == "failed"
        prx.drain()
    row = OutboxMessage.objects.get()
    assert row.status == "sent"
    assert server.recipients == ["a@x.org", "b@x.org"]
    assert elsewhere.recipients == ["c@x.org"]


@pytest.mark.parametrize("everything", [False, True])
def test_the_rest_of_a_message_that_is_sent_waits_for_the_end_of_a_pause(*, everything: bool) -> None:
    """Two recipients fit into each transaction; a person pauses as the server takes the first two."""
    with SmtpServer() as server:
        server.max_recipients = 2
        owner = account_on(server)
        beginning = server.on("final", stall=True, times=1)
        sending_one = Sending(**mail(owner, to=["a@x.org", "b@x.org", "c@x.org"]))
        assert beginning.reached.wait(PATIENCE)
        prx.pause_outbox(None if everything else owner, reason="a person asked")
        server.release(beginning)
        assert sending_one.outcome().status == "failed"
        assert server.recipients == ["a@x.org", "b@x.org"]
        prx.resume_outbox(None if everything else owner)
        assert prx.drain().sent == 1
        assert server.recipients[2:] == ["c@x.org"]
