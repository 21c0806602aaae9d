"""Time that slot and claim must have left before a write, on a clock that also runs while the machine sleeps."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.limits import slots
from prx_email_django.models import ConnectionSlot, DeliveryAttempt, OutboxMessage
from prx_email_django.rules import clock as clocks
from prx_email_django.worker import outgoing
from prx_email_django.worker.connection import Connection
from prx_email_django.worker.outgoing import ClaimedMessage
from tests.support.factories import account, account_on, at, backlog, fresh, take
from tests.support.fake_clock import FrozenClock
from tests.support.patience import PATIENCE
from tests.support.slots import acquire_slot
from tests.support.smtp_server import SmtpServer
from tests.support.threads import CallInThread, Draining

pytestmark = pytest.mark.django_db(transaction=True)


def drain_until_released() -> prx.DrainReport:
    """Drain until a message is released: a connection whose slot is almost over sends nothing more before a renewal."""
    enough = threading.Event()

    def progress(report: prx.DrainReport) -> None:
        if report.released:
            enough.set()

    return prx.drain(progress=progress, stop=enough.is_set)


# Time left on the slot


class SlotTime:
    """The clock of slots and of what is about to be written, which the test moves; a claim lasts three times as long.

    Everything else uses the real clock.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FrozenClock()
        monkeypatch.setattr(slots, "uptime", self.clock)
        monkeypatch.setattr(outgoing, "uptime", self.clock)

    def leave(self, seconds: float) -> None:
        """Leave so many seconds on a slot that was taken and not renewed."""
        self.clock.seconds = slots.SLOT_LEASE.total_seconds() - seconds


def assert_untouched(row: OutboxMessage) -> None:
    now = fresh(row)
    assert (now.status, now.attempts, now.retries) == ("pending", 0, 0)
    assert not DeliveryAttempt.objects.exists()
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()


@pytest.mark.parametrize("left", [19, 25])
def test_mail_is_written_only_while_twenty_seconds_remain_on_the_slot(
    left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end when the connection has already taken a message: the slot is checked at that instant, not before."""
    slot_time = SlotTime(monkeypatch)
    real = Connection.take

    def take_and_linger(self: Connection) -> ClaimedMessage | None:
        message = real(self)
        if message is not None:
            slot_time.leave(left)
        return message

    monkeypatch.setattr(Connection, "take", take_and_linger)
    with SmtpServer() as server:
        (row,) = backlog(account_on(server, max_connections=1, pipelining="off"), 1)
        report = drain_until_released()
        if left < 20:
            assert (report.sent, server.lines("MAIL")) == (0, [])
            assert_untouched(row)
        else:
            assert (report.sent, len(server.lines("MAIL"))) == (1, 1)


@pytest.mark.parametrize("pipelining", ["off", "envelope", "full"])
@pytest.mark.parametrize("left", [19, 25])
def test_a_body_is_written_only_while_twenty_seconds_remain_on_the_slot(
    left: float, pipelining: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end while the client waits for the reply to the envelope."""
    slot_time = SlotTime(monkeypatch)
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, pipelining=pipelining)
        (row,) = backlog(owner, 1)
        stalled = server.on("rcpt", stall=True)
        draining = CallInThread(drain_until_released)
        assert stalled.reached.wait(PATIENCE)
        slot_time.leave(left)
        server.release(stalled)
        report = draining.outcome()
        if left < 20:
            assert (report.sent, server.messages) == (0, [])
            assert_untouched(row)
        else:
            assert (report.sent, len(server.messages)) == (1, 1)


# Sleep


class Machine:
    """The clocks of a machine that can sleep, as ``prx_email_django.rules.clock`` reads them.

    ``time.monotonic`` stands still during the sleep, as on Linux; CLOCK_BOOTTIME and the wall clock run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, boottime: bool) -> None:
        self.slept = 0.0
        clock_functions = SimpleNamespace(
            clock_gettime=lambda clock: time.clock_gettime(clock) + self.slept,
            time=lambda: time.time() + self.slept,
            monotonic=time.monotonic,
        )
        monkeypatch.setattr(clocks, "time", clock_functions)
        if not boottime:
            monkeypatch.setattr(clocks, "_BOOTTIME", None)


@pytest.fixture(params=["CLOCK_BOOTTIME", "wall clock"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    boottime = request.param == "CLOCK_BOOTTIME"
    if boottime and not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no CLOCK_BOOTTIME")
    return Machine(monkeypatch, boottime=boottime)


def test_leases_slots_and_the_running_clock_run_while_the_machine_sleeps(machine: Machine, settings: Any) -> None:
    settings.PRX_EMAIL = {"LEASE": 180}
    owner = account()
    backlog(owner, 1)
    clock = at(None)
    slot = acquire_slot(owner, noted=set(), clock=clock)
    (claim,) = take(owner, now=clock.now)
    before = clock.running
    assert slot is not None
    assert slot.has_time_left() and claim.lease.has_time_left()
    machine.slept = 50.0
    assert not slot.has_time_left() and claim.lease.has_time_left(), (
        "ten of the slot's sixty seconds are left, and more than a third of the claim's three minutes"
    )
    machine.slept = 130.0
    assert not slot.has_time_left() and not claim.lease.has_time_left(), "less than a third remains"
    assert timedelta(seconds=130) <= clock.running - before < timedelta(seconds=150)
    store.claims.renew([claim], clock=clock)
    assert claim.lease.has_time_left()
    machine.slept += 181.0
    store.claims.renew([claim], clock=clock)
    assert not claim.lease.has_time_left(), "another worker may have claimed its message by now"


def test_a_machine_that_slept_through_its_leases_writes_no_body_on_waking(machine: Machine) -> None:
    """The worker sends the message with a new claim and a new slot, on another connection."""
    with SmtpServer() as server:
        owner = account_on(server, max_connections=1, pipelining="off")
        (row,) = backlog(owner, 1)
        stalled = server.on("rcpt", stall=True, times=1)
        draining = Draining()
        assert stalled.reached.wait(PATIENCE)
        machine.slept = 3600.0
        server.release(stalled)
        report = draining.outcome()
        assert [line for number, line in server.commands if number == 1 and line.startswith("DATA")] == []
        assert report.sent == 1
        assert (len(server.messages), fresh(row).attempts) == (1, 0)
