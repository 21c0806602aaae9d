"""Fixtures for tests on real sockets."""

from __future__ import annotations

import pytest

from prx_email_django.worker import single
from tests.support.fake_clock import MovableClock


@pytest.fixture
def sends_clock(monkeypatch: pytest.MonkeyPatch) -> MovableClock:
    """The clock by which ``send`` measures SEND_DEADLINE; a test may move it."""
    clock = MovableClock()
    monkeypatch.setattr(single, "monotonic", clock)
    return clock
