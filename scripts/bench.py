"""``make bench``: this outbox, bare aiosmtplib and django-post_office side by side, on the same sink and database.

Each run is a process of its own; runs are interleaved, so that what else the machine does meets all of them.  Numbers
compare within one run of this program, not between machines.
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

sys.path.insert(0, str(Path(__file__).parent))
from benchmark import machine, report, stage
from benchmark.contest import Score, Task

#: Seconds for one run of one contestant, which prints where it hangs shortly before.
TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Contestant:
    """A module that is run, and its name in the table."""

    name: str
    module: str
    tuned: bool = False


BARE = "aiosmtplib, bare"
CONTESTANTS = [
    Contestant("prx_email_django", "run_ours"),
    Contestant(BARE, "run_aiosmtplib"),
    Contestant("post_office, as it comes", "run_post_office"),
    Contestant("post_office, 2 processes", "run_post_office", tuned=True),
]


def run(contestant: Contestant, task: Task, *, interpreter: str, sink: stage.Sink) -> Score:
    """One run; what the sink has counted must be what was to be sent."""
    before = sink.messages
    done = subprocess.run(
        [interpreter, "-m", f"benchmark.{contestant.module}"],
        env=stage.environment() | replace(task, tuned=contestant.tuned, patience=TIMEOUT - 10).environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{contestant.name} failed:\n{done.stdout}{done.stderr}")
    arrived = sink.messages - before
    if arrived != task.messages:
        raise SystemExit(f"{contestant.name}: {arrived} of {task.messages} messages arrived")
    return Score(**json.loads(done.stdout.splitlines()[-1]))


def scene(title: str, task: Task, options: argparse.Namespace, *, interpreter: str, sink: stage.Sink) -> str:
    """All contestants, as often as asked for, in turn."""
    wanted = [one for one in CONTESTANTS if one.name == BARE or not options.only or options.only in one.name]
    scores: dict[str, list[Score]] = {one.name: [] for one in wanted}
    for number in range(options.repeats):
        for one in wanted:
            score = run(one, task, interpreter=interpreter, sink=sink)
            scores[one.name].append(score)
            print(f"  {title}, run {number + 1}: {one.name} {score.rate:.1f}/s", file=sys.stderr, flush=True)
    round_trip = 0.0 if task.port == sink.port else options.round_trip / 1000
    return report.table(title, scores, bare=BARE, round_trip=round_trip, connections=task.connections)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant (default 3)")
    parser.add_argument("--messages", type=int, default=4000, help="on loopback (default 4000; 0: not at all)")
    parser.add_argument("--connections", type=int, default=8, help="on loopback (default 8)")
    parser.add_argument(
        "--delayed-messages", type=int, default=1000, help="over the proxy (default 1000; 0: not at all)"
    )
    parser.add_argument("--delayed-connections", type=int, default=5, help="over the proxy (default 5)")
    parser.add_argument("--round-trip", type=float, default=50.0, help="of the proxy, milliseconds (default 50)")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--only", default="", help="contestants whose name has this in it (and the bare one)")
    return parser.parse_args(arguments)


def perform(options: argparse.Namespace) -> list[str]:
    """Set the stage, run every scene, and give the tables."""
    with ExitStack() as stack:
        interpreter = stage.python()
        folder = stack.enter_context(stage.folder())
        sink = stage.Sink(folder)
        stack.enter_context(sink.running())
        database = stack.enter_context(stage.database(interpreter, options.database, folder))
        tables = machine.describe(interpreter)
        near = Task(options.messages, options.connections, "127.0.0.1", sink.port, database)
        if near.messages:
            title = f"loopback, {near.connections} connections, {near.messages} messages, {options.database}"
            tables.append(scene(title, near, options, interpreter=interpreter, sink=sink))
        if options.delayed_messages:
            port = stack.enter_context(stage.delaying_proxy(sink.port, options.round_trip / 2000))
            far = replace(near, messages=options.delayed_messages, connections=options.delayed_connections, port=port)
            title = f"{options.round_trip:g} ms round trip, {far.connections} connections, {far.messages} messages"
            tables.append(scene(title, far, options, interpreter=interpreter, sink=sink))
        return tables


def main(arguments: Sequence[str]) -> int:
    """1 where something is missing."""
    options = parse(arguments)
    try:
        tables = perform(options)
    except stage.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    print("\n" + "\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
