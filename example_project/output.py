"""Text for a person on the terminal; in a pipe it has no colours and is ``MAX_WIDTH`` columns wide."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping

from rich.console import Console

MAX_WIDTH = 100
_WIDTH = min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH) if sys.stdout.isatty() else MAX_WIDTH

console = Console(width=_WIDTH, highlight=False, markup=False, emoji=False)


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and their values, aligned."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        console.print(f"  {name:<{width}}  {value}")
