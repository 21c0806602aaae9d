"""What tests on real sockets share."""

from __future__ import annotations

import pytest

from prx_email_django.worker import single
from tests.support.fake_clock import Ahead


@pytest.fixture
def sends_clock(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """The clock of SEND_DEADLINE, which may be moved."""
    clock = Ahead()
    monkeypatch.setattr(single, "monotonic", clock)
    return clock
