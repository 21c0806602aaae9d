"""The end of ``Network``: no task outlives its event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from prx_email_django.worker import network as network_module
from prx_email_django.worker.network import Network
from tests.support.patience import PATIENCE


def test_a_task_that_begins_while_the_network_closes_is_cancelled() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def close_and_begin() -> None:
        network.loop.stop()  # as ``close`` does; a task begins in the same turn of the loop
        network.loop.call_soon(lambda: begun.append(network.loop.create_task(wait())))

    begun: list[asyncio.Task[None]] = []
    with Network() as network:
        network.call(close_and_begin)
        network._thread.join(PATIENCE)
    assert ended == ["cancelled"]
    assert begun[0].cancelled()


@pytest.mark.parametrize("slow", [False, True])
def test_a_task_that_a_cancelled_task_begins_is_cancelled_too(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Also when the machine stands still for longer than WIND_UP meanwhile."""
    if slow:
        monkeypatch.setattr(network_module, "WIND_UP", 0.2)
    ended: list[str] = []

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("the last")
            raise

    async def first(begun: asyncio.Event) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.append("the first")
            if slow:
                time.sleep(0.3)
            kept.append(asyncio.get_running_loop().create_task(last()))

    async def start() -> None:
        begun = asyncio.Event()
        kept.append(asyncio.get_running_loop().create_task(first(begun)))
        await begun.wait()

    kept: list[asyncio.Task[None]] = []
    with Network() as network:
        network.start(start()).result(PATIENCE)
    assert all(task.done() for task in kept)
    assert ended[0] == "the first"
