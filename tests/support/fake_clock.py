"""Clocks that only the test moves: a deadline passes at once when the test wants it, and never on a slow machine.

``FakeClockLoop`` is an event loop whose clock stands still; ``MovableClock`` and ``FrozenClock`` replace a function of
``time``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop with real sockets, whose timers use a clock that only ``jump`` moves."""

    _now = 1000.0

    def time(self) -> float:
        return self._now

    async def jump(self, seconds: float) -> None:
        """Move the clock forward and run the callbacks that are due then."""
        self._now += seconds
        for _ in range(50):
            await asyncio.sleep(0)


class MovableClock:
    """Replaces ``time.monotonic``: runs like the real clock, plus ``seconds``, which the test changes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


class FrozenClock(MovableClock):
    """Replaces ``time.monotonic``: stands still until the test changes ``seconds``."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()

    def __call__(self) -> float:
        return self._since + self.seconds


def run_on_fake_clock(main: Callable[[FakeClockLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a ``FakeClockLoop``; return its result."""
    loop = FakeClockLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
