"""Contestant: bare aiosmtplib, connections side by side, ready-made octets, no database: what any peer can reach."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

import aiosmtplib

from benchmark import letters
from benchmark.contest import Score, Task, tell

MailContent = tuple[str, bytes]


async def send_all(task: Task, queue: Iterator[MailContent]) -> None:
    """Over one connection, whatever the others leave."""
    client = aiosmtplib.SMTP(hostname=task.host, port=task.port, start_tls=False)
    async with client:
        for recipient, octets in queue:
            await client.sendmail(letters.SENDER, [recipient], octets)


async def race(task: Task, ready: list[MailContent]) -> float:
    """Seconds for all."""
    queue = iter(ready)
    begun = perf_counter()
    await asyncio.gather(*(send_all(task, queue) for _ in range(task.connections)))
    return perf_counter() - begun


def main() -> None:
    """Render, send, tell."""
    task = Task.given()
    ready = [(letters.recipient(n), letters.octets(n)) for n in range(task.messages)]
    tell(Score(asyncio.run(race(task, ready)), task.messages))


if __name__ == "__main__":
    main()
