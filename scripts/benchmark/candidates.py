"""Runs candidates: each measurement in a process of its own, the candidates in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from benchmark import environment
from benchmark.measurement import Result, Task

Candidate = TypeVar("Candidate")
#: The name of the upper limit in every table.
BARE = "aiosmtplib, bare"
#: Seconds for one measurement.  Ten seconds earlier a candidate that hangs prints its traceback.
TIMEOUT = 300


def run(name: str, module: str, task: Task, *, interpreter: str, more: Mapping[str, str] | None = None) -> Result:
    """Run a module of this package once, with ``more`` environment variables; return what it printed last."""
    process = subprocess.run(
        [interpreter, "-m", f"benchmark.{module}"],
        env=environment.variables() | replace(task, timeout=TIMEOUT - 10).variables() | (more or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{process.stdout}{process.stderr}")
    return Result(**json.loads(process.stdout.splitlines()[-1]))


def require_all(name: str, arrived: int, task: Task) -> None:
    """End the program if not every message has arrived."""
    if arrived != task.messages:
        raise SystemExit(f"{name}: {arrived} of {task.messages} messages arrived")


def in_turn(
    candidates: Mapping[str, Candidate], measure: Callable[[Candidate], Result], *, title: str, repeats: int
) -> dict[str, list[Result]]:
    """Measure all candidates, ``repeats`` times; return the results by name."""
    results: dict[str, list[Result]] = {name: [] for name in candidates}
    for number in range(repeats):
        for name, candidate in candidates.items():
            result = measure(candidate)
            results[name].append(result)
            print(f"  {title}, run {number + 1}: {name} {result.rate:.1f}/s", file=sys.stderr, flush=True)
    return results


def print_tables(tables: Callable[[], Iterable[str]]) -> int:
    """Print the tables; return 1 if the machine lacks something."""
    try:
        lines = list(tables())
    except environment.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    print("\n" + "\n\n".join(lines))
    return 0
