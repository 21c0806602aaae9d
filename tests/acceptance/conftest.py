"""Fixtures for tests on real sockets."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from prx_email_django.worker import single
from tests.support.fake_clock import MovableClock
from tests.support.smtp_connection import Connection

#: What Haraka 3.1 answers to a command that arrived with the end of a body.
HARAKA = b"503 Bad sequence of commands - pipelined after end of DATA\r\n"


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


@pytest.fixture
def haraka(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is Haraka 3.1: each command that arrived with the end of a body gets a 503; none is executed."""
    real = Connection.answer

    def answer(self: Connection, stage: str, usual: bytes, **options: Any) -> None:
        real(self, stage, usual, **options)
        if stage == "final":
            self.out += [HARAKA] * self.buffer.count(b"\r\n")
            self.buffer = b""

    monkeypatch.setattr(Connection, "answer", answer)
