"""Fixtures for tests on real sockets."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from prx_email_django.worker import single
from tests.support.fake_clock import MovableClock


@pytest.fixture(autouse=True, scope="session")
def hangups_are_heeded() -> Iterator[None]:
    """A run under nohup ignores SIGHUP, and the processes that it starts would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else None
    yield
    if before is not None:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def sends_clock(monkeypatch: pytest.MonkeyPatch) -> MovableClock:
    """The clock by which ``send`` measures SEND_DEADLINE; a test may move it."""
    clock = MovableClock()
    monkeypatch.setattr(single, "monotonic", clock)
    return clock
