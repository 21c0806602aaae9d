"""``make bench-far``: this outbox and bare aiosmtplib against a real Postfix at the end of a long line.

Postfix discards what it accepts (``default_transport = discard``); a proxy delays each direction.  Each measurement is
its own process, and the candidates take turns.  Every message must arrive.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from benchmark import environment, machine, report
from benchmark.measurement import Result, Task
from benchmark.postfix import Postfix

#: Seconds for one measurement.
TIMEOUT = 300
BARE = "aiosmtplib, bare"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A module to run with so many messages, and its name in the table.  ``aim``: times the rate of the bare one."""

    name: str
    module: str
    #: Of all messages: the bare one would take most of the time.
    share: float = 1.0
    in_flight: str = ""
    aim: float = 0.0


CANDIDATES = (
    Candidate(BARE, "run_aiosmtplib", share=0.2),
    Candidate("defaults", "run_far", aim=8.0),
    Candidate("max_in_flight=16", "run_far", in_flight="16", aim=20.0),
)


def measure(candidate: Candidate, task: Task, *, interpreter: str, server: Postfix) -> Result:
    """Run one candidate once; fail if the server has not got every message."""
    task = replace(task, messages=max(1, round(task.messages * candidate.share)), timeout=TIMEOUT - 10)
    before = server.messages(0)
    process = subprocess.run(
        [interpreter, "-m", f"benchmark.{candidate.module}"],
        env=environment.variables() | task.variables() | {"BENCH_IN_FLIGHT": candidate.in_flight},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{candidate.name} failed:\n{process.stdout}{process.stderr}")
    arrived = server.messages(before + task.messages) - before
    if arrived != task.messages:
        raise SystemExit(f"{candidate.name}: {arrived} of {task.messages} messages arrived")
    return Result(**json.loads(process.stdout.splitlines()[-1]))


def compare(options: argparse.Namespace, task: Task, *, interpreter: str, server: Postfix) -> str:
    """Measure all candidates in turn, ``--repeats`` times; return the table, and what became of each aim."""
    results: dict[str, list[Result]] = {candidate.name: [] for candidate in CANDIDATES}
    for number in range(options.repeats):
        for candidate in CANDIDATES:
            result = measure(candidate, task, interpreter=interpreter, server=server)
            results[candidate.name].append(result)
            print(f"  run {number + 1}: {candidate.name} {result.rate:.1f}/s", file=sys.stderr, flush=True)
    title = f"Postfix at {options.round_trip:g} ms, {task.connections} connections, {task.messages} messages"
    table = report.table(title, results, bare=BARE, round_trip=options.round_trip / 1000, connections=task.connections)
    return "\n".join([table, *_aims(results)])


def _aims(results: dict[str, list[Result]]) -> list[str]:
    bare = median(run.rate for run in results[BARE])
    return [
        f"{candidate.name}: {median(run.rate for run in results[candidate.name]) / bare:.1f} times bare aiosmtplib "
        f"(aim: {candidate.aim:g})"
        for candidate in CANDIDATES
        if candidate.aim
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each candidate (default 5)")
    parser.add_argument("--messages", type=int, default=2000, help="a fifth of them for aiosmtplib (default 2000)")
    parser.add_argument("--connections", type=int, default=5, help="default 5")
    parser.add_argument("--round-trip", type=float, default=50.0, help="milliseconds (default 50)")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if the machine lacks something."""
    options = parse(arguments)
    try:
        with ExitStack() as stack:
            interpreter = environment.python()
            folder = stack.enter_context(environment.folder())
            server = Postfix(folder)
            stack.enter_context(server.running())
            database = stack.enter_context(environment.database(interpreter, options.database, folder))
            port = stack.enter_context(environment.delaying_proxy(server.port, options.round_trip / 2000))
            task = Task(options.messages, options.connections, "127.0.0.1", port, database)
            lines = [*machine.describe(interpreter), compare(options, task, interpreter=interpreter, server=server)]
    except environment.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    print("\n" + "\n\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
