"""Blocking work beside the event loop, in threads that may be left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a daemon thread: unlike the loop's own executor, one that hangs delays no exit."""
    work: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(function)
        except Exception as error:  # noqa: BLE001 - carried over to whoever awaits
            work.set_exception(error)
        else:
            work.set_result(result)

    # Running from the start: a cancelled wait lets it run on, and its result is dropped.
    work.set_running_or_notify_cancel()
    threading.Thread(target=run, name="prx-email-token", daemon=True).start()
    return await asyncio.wrap_future(work)
