"""The network's event loop, in a thread of its own: coroutines do network only, the caller's thread keeps the ORM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

#: Names that may be looked up at once.
LOOKUPS = 64
#: Seconds for everything to end, once it is cancelled.
WIND_UP = 5.0
#: Seconds between two cancellations of what has not ended yet.
CANCEL_AGAIN = 0.05


class Network:
    """A running event loop; leaving the context cancels what still runs and joins the thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # Looking up names blocks threads: dozens that hang must not keep another account from being looked up.
        self.loop.set_default_executor(ThreadPoolExecutor(LOOKUPS, thread_name_prefix="prx-email-lookup"))
        self._thread = threading.Thread(target=self._run, name="prx-email-network", daemon=True)

    def __enter__(self) -> Self:
        self.start_thread()
        return self

    def start_thread(self) -> None:
        """Start the network's thread.

        Raises:
            RuntimeError: the system gives no further thread; the event loop is closed then.
        """
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no further thread
            self.loop.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether it has begun and was not closed."""
        return self._thread.is_alive() and not self.loop.is_closed()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the loop, soon; nothing happens after ``close``."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *args)

    def close(self) -> None:
        """Cancel everything, let it end, and stop."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_wind_up())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()


async def _wind_up() -> None:
    """Cancel what runs, and what begins meanwhile, until nothing is left or five seconds have been waited for it.

    Waited for, not passed: a machine that stands still meanwhile must leave nothing uncancelled.  A task that outlives
    its loop would be ended by the garbage collector, with no loop for its connection to close on.
    """
    await asyncio.sleep(0)  # what was about to begin
    for _ in range(round(WIND_UP / CANCEL_AGAIN)):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        # Again and again: Python 3.11's wait_for forgets a cancellation that comes with a result.
        await asyncio.wait(tasks, timeout=CANCEL_AGAIN)
    await asyncio.sleep(0)  # connections that were aborted close in the loop's next turn
