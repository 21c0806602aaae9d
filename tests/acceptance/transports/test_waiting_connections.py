"""Connections of a worker that wait for a message: each look at the slot is at another instant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prx_email_django.transports.memory import MemoryTransport
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.worker.connection import Connection
from prx_email_django.worker.queues import ReadyQueue, ResultQueue
from tests.support.outgoing_messages import settings_for
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer


class RenewedMeanwhile:
    """A slot that the calling thread renews as soon as a connection has seen that it has run out."""

    left = 60.0

    def remaining(self) -> float:
        left, self.left = self.left, 60.0
        return left

    def has_time_left(self) -> bool:
        return self.left >= 20


@pytest.mark.parametrize("transport", [SmtpTransport(), MemoryTransport()], ids=["smtp", "memory"])
def test_a_slot_that_is_renewed_too_late_ends_its_connection(server: SmtpServer, transport: Any) -> None:
    async def main() -> None:
        slot: Any = RenewedMeanwhile()
        ready = ReadyQueue(1)
        connection = Connection(slot, ready=ready, results=ResultQueue(), listener=lambda _: None)
        running = asyncio.ensure_future(connection.run(transport, settings_for(server)))
        while not ready.waiting:
            await asyncio.sleep(0)
        slot.left = 0.0
        connection.wake()  # as the timer of the slot does
        async with asyncio.timeout(PATIENCE):
            await running
        assert ready.waiting == 0

    asyncio.run(main())
