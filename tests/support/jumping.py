"""An event loop whose clock stands still until it is moved: deadlines pass at once, and never before they should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Timers go by its own clock; sockets by the world's.  However long a thread is held up, no deadline is nearer."""

    _now = 1000.0

    def time(self) -> float:
        return self._now

    async def jump(self, seconds: float) -> None:
        """Move the clock forward, and let what is due then happen."""
        self._now += seconds
        for _ in range(50):
            await asyncio.sleep(0)


def run_jumping(main: Callable[[JumpingLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function, which gets the loop, on such a loop."""
    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
