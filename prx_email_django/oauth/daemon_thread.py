"""Runs a blocking function in a daemon thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a daemon thread: unlike a thread of asyncio's executor, a hanging one delays no exit."""
    work: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(function)
        except Exception as error:  # noqa: BLE001  (raised again in the task that awaits)
            work.set_exception(error)
        else:
            work.set_result(result)

    # Marked as running: when the wait is cancelled the function runs on, and its result is dropped.
    work.set_running_or_notify_cancel()
    threading.Thread(target=run, name="prx-email-token", daemon=True).start()
    return await asyncio.wrap_future(work)
