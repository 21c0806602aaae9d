"""Clocks that are moved by the test: deadlines pass at once, and never before they should.

``FakeClockLoop`` is an event loop whose clock stands still; ``Ahead`` and ``FrozenClock`` take the place of a function
of ``time``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class FakeClockLoop(asyncio.SelectorEventLoop):
    """Timers go by its own clock; sockets by the world's.  However long a thread is held up, no deadline is nearer."""

    _now = 1000.0

    def time(self) -> float:
        return self._now

    async def jump(self, seconds: float) -> None:
        """Move the clock forward, and let what is due then happen."""
        self._now += seconds
        for _ in range(50):
            await asyncio.sleep(0)


class Ahead:
    """In the place of ``time.monotonic``: goes on as that does, and jumps where it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


class FrozenClock(Ahead):
    """The same, but for what is told it stands still."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()

    def __call__(self) -> float:
        return self._since + self.seconds


def run_jumping(main: Callable[[FakeClockLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function, which gets the loop, on such a loop."""
    loop = FakeClockLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
