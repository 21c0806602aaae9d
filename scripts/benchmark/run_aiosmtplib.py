"""Candidate: bare aiosmtplib with several connections, rendered messages and no database, as an upper limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

import aiosmtplib

from benchmark import messages
from benchmark.measurement import Result, Task, cpu_seconds, print_result

#: Recipient and encoded message.
Rendered = tuple[str, bytes]


async def send_all(task: Task, queue: Iterator[Rendered]) -> None:
    """Send over one connection until the common queue is empty."""
    client = aiosmtplib.SMTP(hostname=task.host, port=task.port, start_tls=False)
    async with client:
        for recipient, encoded in queue:
            await client.sendmail(messages.SENDER, [recipient], encoded)


async def measure(task: Task, ready: list[Rendered]) -> Result:
    """Send everything."""
    queue = iter(ready)
    begun, used = perf_counter(), cpu_seconds()
    await asyncio.gather(*(send_all(task, queue) for _ in range(task.connections)))
    return Result(perf_counter() - begun, task.messages, cpu=cpu_seconds() - used)


def main() -> None:
    """Render the messages, send them and print the result."""
    task = Task.from_environment()
    ready = [(messages.recipient(n), messages.encoded(n)) for n in range(task.messages)]
    print_result(asyncio.run(measure(task, ready)))


if __name__ == "__main__":
    main()
