"""The table of a comparison: medians, spread, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmark.measurement import Result

HEAD = f"{'':<26}{'messages/s':>11}{'spread':>17}{'of bare':>9}{'SQL/message':>13}"


def table(
    title: str, results: Mapping[str, Sequence[Result]], *, bare: str, round_trip: float, connections: int
) -> str:
    """Return the table; with ``round_trip`` (seconds) also the round trips of a message on its connection."""
    lines = [title, HEAD + (f"{'round trips/message':>21}" if round_trip else "")]
    reference = median(run.rate for run in results[bare])
    for name, runs in results.items():
        rates = sorted(run.rate for run in runs)
        middle = median(rates)
        line = f"{name:<26}{middle:>11.1f}{f'{rates[0]:.1f} to {rates[-1]:.1f}':>17}{middle / reference:>9.2f}"
        statements = median(run.statements / run.messages for run in runs)
        line += f"{statements:>13.3f}" if name != bare else f"{'':>13}"
        if round_trip:
            line += f"{connections / (middle * round_trip):>21.2f}"
        lines.append(line)
    return "\n".join(lines)
