"""Writes the tables and plots of a run into ``docs/explanation/performance.md``, between two comments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from benchmark.environment import ROOT
from benchmark.report import Table

DOCUMENT = ROOT / "docs" / "explanation" / "performance.md"
IMAGES = ROOT / "docs" / "images"


def write(part: str, machine: Sequence[str], tables: Mapping[str, Table]) -> None:
    """Write a part of the document anew: what was measured where and when, and each table with its plot.

    ``tables``: by the name of the plot's file, without its ending.

    Raises:
        ValueError: the document has no such part.
    """
    lines = [f"Measured on {datetime.now(tz=UTC):%-d %B %Y}: {'; '.join(machine)}."]
    for name, table in tables.items():
        (IMAGES / f"{name}.svg").write_text(table.as_svg(), encoding="utf-8")
        lines += [f"### {table.title[0].upper()}{table.title[1:]}", table.as_markdown()]
        lines.append(f"![{table.unit}: {_said(table)}](../images/{name}.svg)")
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = f"<!-- {part}: written by make -->", f"<!-- {part}: end -->"
    new, count = re.subn(
        f"{re.escape(begin)}.*{re.escape(end)}",
        lambda _: "\n\n".join([begin, *lines, end]),
        text,
        flags=re.DOTALL,
    )
    if not count:
        raise ValueError(f"{DOCUMENT} has no part “{part}”")
    DOCUMENT.write_text(new, encoding="utf-8")


def _said(table: Table) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in table.bars.items())
