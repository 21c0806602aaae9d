"""The table that grows line by line on the terminal; at most 100 columns, nothing but text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTHS = {"number": 2, "asked": 33, "ended": 9, "happened": 50}
GAP = "  "
WIDTH = sum(WIDTHS.values()) + len(GAP) * (len(WIDTHS) - 1)


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    print(text.rstrip(), flush=True)


def heading() -> None:
    """The first two lines."""
    _line(["#", "What was asked", "Ended", "What happened"])
    rule()


def rule() -> None:
    """A line across."""
    say("-" * WIDTH)


def row(number: int, *, asked: str, ended: str, happened: Sequence[str]) -> None:
    """One step; a text wider than its column goes on below itself."""
    columns = [
        [str(number).rjust(WIDTHS["number"])],
        _wrapped([asked], WIDTHS["asked"]),
        _wrapped([ended], WIDTHS["ended"]),
        _wrapped(happened, WIDTHS["happened"], indent="  "),
    ]
    for index in range(max(map(len, columns))):
        _line([column[index] if index < len(column) else "" for column in columns])
    say()


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they mean, aligned."""
    left = max(len(name) for name, _ in rows)
    for name, text in rows:
        first, *more = _wrapped([text], WIDTH - left - 4)
        say(f"  {name:<{left}}{GAP}{first}")
        for line in more:
            say(" " * (left + 4) + line)


def columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A small table: text to the left, numbers to the right."""
    texts = [[str(cell) for cell in cells] for cells in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [isinstance(cell, int) for cell in rows[0]]
    for cells in texts:
        aligned = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        say("  " + GAP.join(aligned))


def _wrapped(texts: Sequence[str], width: int, *, indent: str = "") -> list[str]:
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False, subsequent_indent=indent)
    return [line for text in texts for line in wrapper.wrap(text)] or [""]


def _line(cells: Sequence[str]) -> None:
    say(GAP.join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS.values(), strict=True)))
