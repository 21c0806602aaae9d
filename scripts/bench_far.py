"""``make bench-far``: this outbox and bare aiosmtplib against a real Postfix at the end of a long line.

Postfix discards what it accepts (``default_transport = discard``); a proxy delays each direction.  Each measurement is
its own process, and the candidates take turns.  Every message must arrive.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))  # benchmark
sys.path.insert(0, str(Path(__file__).parent.parent))  # tests.servers
from benchmark import candidates, document, environment, machine, report
from benchmark.candidates import BARE
from benchmark.measurement import Result, Task
from benchmark.postfix import Postfix


@dataclass(frozen=True, slots=True)
class Candidate:
    """A module to run with so many messages, and its name in the table.  ``aim``: times the rate of the bare one."""

    name: str
    module: str
    #: Of all messages: the bare one would take most of the time.
    share: float = 1.0
    in_flight: str = ""
    #: Messages of a drain before the measured one, which learns the window.
    earlier: int = 0
    aim: float = 0.0


CANDIDATES = (
    Candidate(BARE, "run_aiosmtplib", share=0.2),
    Candidate("defaults", "run_ours", aim=8.0),
    Candidate("max_in_flight=16", "run_ours", in_flight="16", aim=20.0),
    Candidate("max_in_flight=16, a later drain", "run_ours", in_flight="16", earlier=200),
)


def measure(candidate: Candidate, task: Task, *, interpreter: str, server: Postfix) -> Result:
    """Run one candidate once; fail if the server has not got every message."""
    task = replace(task, messages=max(1, round(task.messages * candidate.share)))
    before = server.messages(0)
    more = {"BENCH_IN_FLIGHT": candidate.in_flight, "BENCH_EARLIER": str(candidate.earlier)}
    result = candidates.run(candidate.name, candidate.module, task, interpreter=interpreter, more=more)
    sent = candidate.earlier + task.messages
    candidates.require_all(candidate.name, server.messages(before + sent) - before - candidate.earlier, task)
    return result


def compare(options: argparse.Namespace, task: Task, *, interpreter: str, server: Postfix) -> report.Table:
    """Measure all candidates in turn, ``--repeats`` times; return the table, and what became of each aim."""
    title = f"Postfix at {options.round_trip:g} ms, {task.connections} connections, {task.messages} messages"
    results = candidates.in_turn(
        {each.name: each for each in CANDIDATES},
        lambda candidate: measure(candidate, task, interpreter=interpreter, server=server),
        title=title,
        repeats=options.repeats,
    )
    return report.table(
        title,
        results,
        bare=BARE,
        at_one_round_trip=task.connections * 1000 / options.round_trip,
        notes=_aims(results),
    )


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
    parser.add_argument("--write", action="store_true", help="write docs/explanation/performance.md")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[str]:
    """Start the servers, measure and return the table as text."""
    with ExitStack() as stack:
        interpreter = environment.python()
        folder = stack.enter_context(environment.folder())
        server = Postfix(folder)
        stack.enter_context(server.running())
        database = stack.enter_context(environment.database(interpreter, options.database, folder))
        port = stack.enter_context(environment.delaying_proxy(server.port, options.round_trip / 2000))
        task = Task(options.messages, options.connections, "127.0.0.1", port, database)
        about = machine.describe(interpreter)
        table = compare(options, task, interpreter=interpreter, server=server)
    if options.write:
        document.write("bench-far", about, {"bench-far": table})
    return [*about, table.as_text()]


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    sys.exit(candidates.print_tables(lambda: run(chosen)))
