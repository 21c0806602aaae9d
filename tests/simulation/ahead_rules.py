"""What must be true where a server refuses what was written ahead of its replies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.simulation import audit
from tests.simulation.findings import Findings
from tests.simulation.server import REFUSED_AHEAD

#: Seconds from a refusal until it stands in the database.
STORED_WITHIN = 1.0


def what_was_written_ahead_costs_nothing(found: Findings) -> Iterator[str]:
    """A message whose envelope was refused since it was written ahead pays nothing for it."""
    for pk, attempts in found.attempts.items():
        yield from (f"message {pk} paid for {said.error}" for said in attempts if said.error == REFUSED_AHEAD)


def refusals_ahead_are_remembered(found: Findings) -> Iterator[str]:
    """A worker whose envelope was refused writes none ahead until the server may be asked again; nor do others."""
    if not found.is_prompt or found.schedule.kinds & {"conflicts", "kills", "signals", "operators"}:
        return
    memories = audit.envelopes_alone()
    for pk, server in found.servers.items():
        for first, second in combinations(server.refused_ahead, 2):
            if first.client == second.client and first.connection == second.connection:
                yield f"{first.client} wrote ahead again on connection {first.connection} at {second.at - 1000:.3f}"
        for refused in server.refused_ahead:
            for account, at, until in memories:
                if account == pk and at + STORED_WITHIN < refused.opened_at and refused.at < until:
                    times = f"at {refused.at - 1000:.3f}, which was refused until {until - 1000:.3f}"
                    yield f"{refused.client} wrote ahead {times}"


RULES = (what_was_written_ahead_costs_nothing, refusals_ahead_are_remembered)
