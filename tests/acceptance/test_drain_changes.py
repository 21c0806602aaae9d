"""What a person decides while the machine runs: confirming, lowering a limit, an expiry that has passed."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.api import sending
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.transports.memory import shared
from prx_email_django.worker import current
from prx_email_django.worker.loop import WorkerLoop
from tests.acceptance.workers import eventually
from tests.support.factories import MEMORY, NOW, account, backlog, fresh, in_threads, mail, message
from tests.support.fake_clock import Ahead
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


@pytest.fixture
def memory(settings: Any) -> Any:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def account_on(server: SmtpServer, **fields: Any) -> Account:
    return account(host=server.host, port=server.port, **fields)


def test_an_expired_message_is_not_told_as_an_unknown_outcome(memory: None, caplog: Any) -> None:
    row = message(account(), now=NOW)
    with caplog.at_level(logging.INFO, "prx_email_django"):
        prx.drain(now=NOW + 10 * DAY)
    assert fresh(row).last_error_code == "expired"
    (said,) = [one for one in caplog.records if getattr(one, "outbox_id", None) == row.pk]
    assert (said.levelname, said.outcome) == ("WARNING", "at rest"), (said.levelname, said.outcome)


def test_what_a_person_confirms_is_not_sent_again(memory: None) -> None:
    """hold: delivered once in doubt; a person retries (451), then hears that it had arrived, and confirms."""
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


def test_a_retry_that_never_left_leaves_a_row_that_can_be_confirmed(memory: None, monkeypatch: Any) -> None:
    """hold; the retry ends by SystemExit before MAIL and is released; a person confirms: no second copy."""
    owner = account()
    shared.fail_next("body", timeout=True, accept=True)
    result = prx.send(**mail(owner, on_unknown="hold"))

    def strike(self: Any) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerLoop, "_renew", strike)
        with pytest.raises(SystemExit):
            prx.retry_outbox(result.outbox_id)
    assert fresh_id(result.outbox_id).is_at_rest
    prx.confirm_outbox([result.outbox_id])
    prx.drain()
    assert len(shared.delivered) == 1, len(shared.delivered)


def test_a_retry_without_a_slot_of_a_row_sent_meanwhile(memory: None) -> None:
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


def test_a_send_after_its_expiry(memory: None) -> None:
    result = prx.send(**mail(account(), expires_at=store.db.clock_for(None).now - DAY))
    assert not shared.delivered, result


def test_a_running_drain_heeds_a_lowered_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server:
        owner = account_on(server, max_connections=3, max_messages_per_connection=2, pipelining="off")
        backlog(owner, 60)
        beginning = [server.on("final", stall=True, connection=number, times=1) for number in (1, 2, 3)]
        middle = server.on("final", stall=True, nth=20)
        clock = Ahead()
        monkeypatch.setattr(current, "monotonic", clock)
        drain = threading.Thread(target=lambda: (prx.drain(), connections["default"].close()), daemon=True)
        drain.start()
        assert all(one.reached.wait(60) for one in beginning)
        assert server.max_open_connections == 3
        Account.objects.filter(pk=owner.pk).update(max_connections=1)
        clock.seconds = 1.1  # the account is looked up again within a second, at the next connection
        for one in beginning:
            server.release(one)
        assert middle.reached.wait(60)
        assert eventually(lambda: server.open_connections == 1)
        server.max_open_connections = server.open_connections
        before = server.connections
        server.release(middle)
        drain.join(60)
        assert (len(server.messages), server.max_open_connections) == (60, 1)
        assert server.connections >= before + 15


def switch(owner: Account, *, on: bool) -> None:
    Account.objects.filter(pk=owner.pk).update(is_active=on)


#: What a person does, and what undoes it.
HALTS: dict[str, tuple[Callable[[Account], object], Callable[[Account], object]]] = {
    "switches the account off": (lambda owner: switch(owner, on=False), lambda owner: switch(owner, on=True)),
    "pauses the account": (lambda owner: prx.pause_outbox(owner, reason="r"), prx.resume_outbox),
    "pauses everything": (lambda owner: prx.pause_outbox(reason="r"), lambda owner: prx.resume_outbox()),
}


@pytest.mark.parametrize("who", HALTS)
def test_a_running_drain_claims_nothing_more_about_a_second_after_a_person(who: str) -> None:
    """The server takes at most twenty a second, so that about two seconds' messages may still go."""
    halt, undo = HALTS[who]
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
        drain.join(60)
        assert not drain.is_alive()
        sent = len(server.messages)
        assert before <= sent < before + 60
        assert reports[0].sent == sent
        waiting = OutboxMessage.objects.filter(status="pending", attempts=0, next_attempt_at__isnull=False)
        assert waiting.count() == count - sent, "given back as they were"
        assert prx.drain().claimed == 0
        server.clear()
        undo(owner)
        assert prx.drain().sent == count - sent
        assert Counter(server.recipients) == Counter({f"p{n}@example.org": 1 for n in range(count)})
