"""docs/explanation/scale.md: its numbers are those of its own costs, and the arithmetic is that of a simulation."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "explanation" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scale() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import scale
    finally:
        sys.path.pop(0)
    return scale


def rows(head: str) -> list[list[float]]:
    """The numbers of the table whose head begins so."""
    table = PAGE.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    return [[float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*", line)] for line in table]


def costs(scale: Any) -> Any:
    queueing, sending = rows("| of |")
    return scale.Costs(drainer=sending[0], database=queueing[1] + sending[1])


def test_the_table_is_what_the_costs_give(scale: Any) -> None:
    lines = rows("| drains |")
    assert len(lines) >= 4
    for drains, processors, second, day in lines:
        rate = scale.arithmetic(costs(scale), drainers=int(drains), processors=int(processors))
        assert second == pytest.approx(rate, rel=0.01)
        assert day == pytest.approx(rate * scale.DAY, rel=0.01)


def test_the_arithmetic_is_right_where_it_does_not_saturate_and_never_too_low(scale: Any) -> None:
    """Where drains and database are equally busy, drains wait for each other: the simulation shows how much."""
    for drains, processors, *_ in rows("| drains |"):
        wanted = {"drainers": int(drains), "processors": int(processors)}
        rate = scale.arithmetic(costs(scale), **wanted)
        assert 0.75 * rate < scale.simulated(costs(scale), **wanted) <= 1.05 * rate
