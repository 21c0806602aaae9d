"""A given ``now`` decides what is due and what is written, and never how long a lease lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import DeliveryAttempt, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.store import db as base
from prx_email_django.transports.memory import shared
from tests.support.factories import MEMORY, NOW, SECOND, account, at, fresh, mail, message, take, take_one

pytestmark = pytest.mark.django_db

NAIVE = NOW.replace(tzinfo=None)


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Iterator[None]:
    settings.PRX_EMAIL = MEMORY
    shared.reset()
    yield
    shared.reset()


def test_every_instant_that_is_written_is_the_given_one() -> None:
    owner = account()
    row = message(owner)
    later = NOW + timedelta(days=3)
    assert prx.drain(now=later).sent == 1
    now, attempt = fresh(row), DeliveryAttempt.objects.get()
    assert {now.sent_at, now.updated_at, attempt.started_at, attempt.finished_at} == {later}
    assert OutboxState.objects.get().last_drain_at == later
    result = prx.send(**mail(owner), now=NOW, failure_mode="network")
    assert result.next_attempt_at == NOW + 10 * SECOND


def test_a_given_now_does_not_move_and_a_running_clock_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    up = [100.0]
    monkeypatch.setattr("prx_email_django.rules.clock.uptime", lambda: up[0])
    given, free = Clock(given=NOW, database_now=NOW), Clock(given=None, database_now=NOW)
    up[0] += 90
    assert (given.now, given.running) == (NOW, NOW + 90 * SECOND)
    assert (free.now, free.running) == (NOW + 90 * SECOND, NOW + 90 * SECOND)


def test_without_a_given_now_the_databases_clock_counts() -> None:
    assert abs(store.db.clock_for(None).now - base.database_now()) < 60 * SECOND
    assert abs(base.database_now() - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_session_in_another_time_zone_changes_no_lease() -> None:
    """MariaDB's NOW() is the session's local time: leases would end hours early or late."""
    row = message(account())
    with session_zone("+12:00"):
        take_one(row)
        expires = fresh(row).claim_expires_at
        assert expires is not None
        assert abs(expires - datetime.now(UTC) - timedelta(seconds=180)) < timedelta(seconds=30)
        assert abs(base.database_now() - datetime.now(UTC)) < timedelta(seconds=30)


@contextmanager
def session_zone(zone: str) -> Iterator[None]:
    """MariaDB's session time zone, which Django leaves alone (PostgreSQL's is Django's own, SQLite has none)."""
    connection = connections[outbox_alias()]
    if connection.vendor != "mysql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@session.time_zone")
        (before,) = cursor.fetchone()
        cursor.execute("SET time_zone = %s", [zone])
        try:
            yield
        finally:
            cursor.execute("SET time_zone = %s", [before])


def test_a_drain_with_a_now_in_the_past_declares_nobody_dead() -> None:
    owner = account()
    message(owner)
    take(owner)
    report = prx.drain(now=NOW - timedelta(days=3))
    assert (report.recovered, report.claimed) == (0, 0)


def test_a_drain_longer_than_its_lease_sends_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two drains with the same old ``now``.  Tried: leases written from that ``now`` sent 8 of 40 messages twice."""
    owner = account()
    row = message(owner)
    take_one(row)
    clock = at(NOW)
    monkeypatch.setattr("prx_email_django.rules.clock.uptime", lambda: clock._read_at + 170)
    assert clock.running == NOW + 170 * SECOND
    assert store.recover.recover(clock=clock) == []
    assert prx.drain(now=NOW).recovered == 0


def test_a_now_in_the_future_is_for_repair_and_recovers() -> None:
    owner = account()
    row = message(owner)
    take_one(row)
    report = prx.drain(now=base.database_now() + timedelta(days=1))
    assert report.recovered == 1
    assert fresh(row).last_error_code == "lost_claim"


@pytest.mark.parametrize("field", ["now", "send_at", "expires_at"])
def test_a_naive_instant_is_refused_at_the_call(field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        message(account(), **{"now": NOW, field: NAIVE})
    assert refused.value.code == "invalid_option"
    assert not DeliveryAttempt.objects.exists()


def test_every_function_with_a_now_refuses_a_naive_one() -> None:
    owner = account()
    row = message(owner)
    calls = [
        lambda: prx.drain(now=NAIVE),
        lambda: prx.send(**mail(owner), now=NAIVE),
        lambda: prx.retry_outbox(row.pk, now=NAIVE),
        lambda: prx.requeue_outbox([row.pk], now=NAIVE),
        lambda: prx.cancel_outbox([row.pk], now=NAIVE),
        lambda: prx.confirm_outbox([row.pk], now=NAIVE),
        lambda: prx.pause_outbox(reason="r", until=NAIVE),
    ]
    for call in calls:
        with pytest.raises(InvalidMessage):
            call()


def test_an_expiry_before_the_first_attempt_is_refused_at_the_call() -> None:
    with pytest.raises(InvalidMessage):
        message(account(), send_at=NOW + 2 * SECOND, expires_at=NOW + SECOND)
