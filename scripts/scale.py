"""How many messages a day N drainers send on one PostgreSQL: a simulation that checks docs/explanation/scale.md.

Each drainer works on a group of messages by itself, then its statements wait for one of the database's processors.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time of one message, in microseconds: of the drainer, and of the database (queueing and sending)."""

    drainer: float
    database: float


def arithmetic(costs: Costs, *, drainers: int, processors: int) -> float:
    """Messages a second: all drainers at work, or all processors of the database, whichever is less."""
    return min(drainers / (costs.drainer + costs.database), processors / costs.database) * 1e6


def simulated(costs: Costs, *, drainers: int, processors: int, group: int = 24, seconds: float = 20.0) -> float:
    """Messages a second in a simulation: the times of each group vary, and the database serves in order of arrival."""
    chance = random.Random(7)  # noqa: S311  (not a secret)

    def lasts(each: float) -> float:
        return group * each * chance.uniform(0.5, 1.5) / 1e6

    arrivals = [(lasts(costs.drainer), number) for number in range(drainers)]
    heapq.heapify(arrivals)
    free_at = [0.0] * processors
    sent = 0
    while arrivals[0][0] < seconds:
        arrived, number = heapq.heappop(arrivals)
        done = max(arrived, heapq.heappop(free_at)) + lasts(costs.database)
        heapq.heappush(free_at, done)
        heapq.heappush(arrivals, (done + lasts(costs.drainer), number))
        sent += group
    return sent / seconds
