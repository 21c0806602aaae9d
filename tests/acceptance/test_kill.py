"""A killed drain loses no message; possible copies are few and have the same Message-ID."""

from __future__ import annotations

import random
import threading
from collections import Counter
from email import message_from_bytes

import pytest
from django.db import transaction
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.models import AccountState, OutboxMessage
from tests.acceptance.drainer import Drainer
from tests.acceptance.workers import LATER, assert_all_sent, finish
from tests.support.factories import account_on, backlog
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


def copies(server: SmtpServer) -> dict[str, int]:
    """Number of copies for each recipient that got more than one."""
    return {address: count - 1 for address, count in Counter(server.recipients).items() if count > 1}


def assert_known_copies(server: SmtpServer, bound: int) -> None:
    """Copies are few, only of messages whose outcome was unknown, and all copies of a message have one Message-ID."""
    twice = copies(server)
    assert sum(twice.values()) <= bound, twice
    for address in twice:
        row = OutboxMessage.objects.get(recipients__address=address)
        assert row.attempts > row.retries, f"{address}: a copy of a message whose outcome was never unknown"
    headers: dict[str, set[str]] = {}
    for received in server.messages:
        headers.setdefault(received.recipients[0], set()).add(message_from_bytes(received.data)["Message-ID"])
    assert all(len(ids) == 1 for ids in headers.values()), headers


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "mail", "rcpt", "data", "final"])
@pytest.mark.parametrize("pipelining", ["off", "full"])
def test_a_kill_at_any_phase_loses_nothing(stage: str, pipelining: str) -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=2, pipelining=pipelining)
        backlog(account, 12)
        stalled = server.on(stage, stall=True, nth=None if stage in {"greeting", "ehlo"} else 4)
        with Drainer() as drainer:
            assert stalled.reached.wait(PATIENCE)
            drainer.kill()
        server.clear()
        server.release(stalled)
        assert server.wait_closed()
        assert_all_sent(12, at=finish())
        assert set(server.recipients) == {f"p{number}@example.org" for number in range(12)}
        assert_known_copies(server, bound=10)


def test_a_kill_in_the_middle_of_a_body_leaves_no_half_message() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        # Larger than the buffers of the system: the killed process still has the rest.
        large = prx.AttachmentInput("large.pdf", "application/pdf", content=b"%PDF" + bytes(15_000_000))
        backlog(account, 2, attachment=large)
        stalled = server.on("body", stall=True, after=200_000, times=1)
        with Drainer() as drainer:
            assert stalled.reached.wait(PATIENCE)
            drainer.kill()
        server.release(stalled)
        assert server.wait_closed()
        assert not server.messages
        assert_all_sent(2, at=finish())
        assert not copies(server)


@pytest.mark.parametrize(("window", "most"), [(0, 10), (4, 16)], ids=["data", "chunking"])
def test_a_kill_between_the_servers_250_and_the_commit_makes_bounded_copies(window: int, most: int) -> None:
    """(4 + window) × connections, where the window of DATA is one."""
    with SmtpServer(chunking=window > 0) as server:
        account = account_on(server, max_connections=2)
        AccountState.objects.update_or_create(account=account, defaults={"window": window})
        backlog(account, 60)
        stalled = [server.on("final", stall=True, times=1) for _ in range(2)]  # one for each connection
        with Drainer() as drainer:
            assert all(rule.reached.wait(PATIENCE) for rule in stalled)
            with transaction.atomic():
                # The drain cannot write these rows now: what the server accepts is not recorded.
                list(OutboxMessage.objects.select_for_update())
                for rule in stalled:
                    server.release(rule)
                assert server.wait_for(8)
                assert not server.wait_for(most + 1, timeout=0.5), "too many messages were accepted and not recorded"
                drainer.kill()
        server.clear()
        assert server.wait_closed()
        assert_all_sent(60, at=finish())
        assert_known_copies(server, bound=most)
        assert bool(server.lines("BDAT")) == (window > 0)


def test_random_kills_lose_nothing_and_copy_little() -> None:
    """``limit`` leaves messages for every drain, also when a drain is killed late."""
    chance = random.Random()
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 900)
        now = timezone.now()
        kills = 0
        while kills < 6:
            before = len(server.messages)
            with Drainer(drain={"now": now.isoformat(), "limit": 140}) as drainer:
                assert server.wait_for(before + 1)
                threading.Event().wait(chance.uniform(0, 0.12))
                drainer.kill()
            kills += 1
            now += LATER
            assert server.wait_closed()
        assert_all_sent(900, at=finish(now))
        assert len(set(server.recipients)) == 900
        assert_known_copies(server, bound=15 * kills)


def test_a_message_that_must_not_be_copied_is_never_copied() -> None:
    chance = random.Random()
    with SmtpServer() as server:
        account = account_on(server, max_connections=3)
        backlog(account, 150, on_unknown="hold")
        now = timezone.now()
        for _ in range(4):
            before = len(server.messages)
            with Drainer(drain={"now": now.isoformat(), "limit": 35}) as drainer:
                assert server.wait_for(before + 1)
                threading.Event().wait(chance.uniform(0, 0.05))
                drainer.kill()
            now += LATER
            assert server.wait_closed()
        finish(now)
        assert not copies(server)
        resting = OutboxMessage.objects.filter(status="failed", next_attempt_at__isnull=True)
        assert all(code == "lost_claim" for code in resting.values_list("last_error_code", flat=True))
        assert OutboxMessage.objects.filter(status="sent").count() == 150 - resting.count()
        assert resting.count() <= 4 * 15, "a crash leaves few messages that may have been delivered"
