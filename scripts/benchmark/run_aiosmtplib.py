"""Candidate: bare aiosmtplib with several connections, rendered messages and no database, as an upper limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

import aiosmtplib

from benchmark import messages
from benchmark.measurement import Result, Task, print_result

#: Recipient and encoded message.
Rendered = tuple[str, bytes]


async def send_all(task: Task, queue: Iterator[Rendered]) -> None:
    """Send over one connection until the common queue is empty."""
    client = aiosmtplib.SMTP(hostname=task.host, port=task.port, start_tls=False)
    async with client:
        for recipient, encoded in queue:
            await client.sendmail(messages.SENDER, [recipient], encoded)


async def measure(task: Task, ready: list[Rendered]) -> float:
    """Send everything; return the seconds that it took."""
    queue = iter(ready)
    begun = perf_counter()
    await asyncio.gather(*(send_all(task, queue) for _ in range(task.connections)))
    return perf_counter() - begun


def main() -> None:
    """Render the messages, send them and print the result."""
    task = Task.from_environment()
    ready = [(messages.recipient(n), messages.encoded(n)) for n in range(task.messages)]
    print_result(Result(asyncio.run(measure(task, ready)), task.messages))


if __name__ == "__main__":
    main()
