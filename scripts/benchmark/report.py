"""The table: medians, spread, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from benchmark.contest import Score

HEAD = f"{'':<26}{'messages/s':>11}{'spread':>17}{'of bare':>9}{'SQL/message':>13}"


def table(title: str, scores: Mapping[str, Sequence[Score]], *, bare: str, round_trip: float, connections: int) -> str:
    """One scene; with a round trip (seconds) also how many of them a message took on its connection."""
    lines = [title, HEAD + (f"{'round trips/message':>21}" if round_trip else "")]
    reference = median(one.rate for one in scores[bare])
    for name, runs in scores.items():
        rates = sorted(one.rate for one in runs)
        middle = median(rates)
        line = f"{name:<26}{middle:>11.1f}{f'{rates[0]:.1f} to {rates[-1]:.1f}':>17}{middle / reference:>9.2f}"
        statements = median(one.statements / one.messages for one in runs)
        line += f"{statements:>13.3f}" if name != bare else f"{'':>13}"
        if round_trip:
            line += f"{connections / (middle * round_trip):>21.2f}"
        lines.append(line)
    return "\n".join(lines)
