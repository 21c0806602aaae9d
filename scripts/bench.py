"""``make bench``: compare this outbox, bare aiosmtplib, django-post_office and django-mailer on one sink and database.

Each measurement is its own process.  The candidates take turns, so that other load on the machine affects all of them.
Compare numbers of one run of this program only, not of different machines.  ``--write`` puts the tables and plots into
``docs/explanation/performance.md``: those that were measured together, the one of CHUNKING by itself.  ``--smoke`` only
shows that everything runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from benchmark import candidates, document, enqueue, environment, machine, report
from benchmark.candidates import BARE
from benchmark.measurement import Result, Task


@dataclass(frozen=True, slots=True)
class Candidate:
    """A module to run, and its name in the table."""

    name: str
    module: str
    tuned: bool = False
    #: Of all messages: a slow one would take most of the time.
    share: float = 1.0


CANDIDATES = [
    Candidate("prx_email_django", "run_ours"),
    Candidate(BARE, "run_aiosmtplib"),
    Candidate("post_office, as it comes", "run_post_office"),
    Candidate("post_office, 2 processes", "run_post_office", tuned=True),
    Candidate("django-mailer, as it comes", "run_mailer", share=0.1),
]
#: The one that sends in another way where the server offers CHUNKING, and what it is compared with.
WITH_CHUNKING = CANDIDATES[:2]
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite", "mariadb": "MariaDB"}
#: What ``--smoke`` measures: too little to say anything.
SMOKE = {"repeats": 1, "messages": 100, "chunking_messages": 100, "delayed_messages": 20, "queued": 50}


def measure(candidate: Candidate, task: Task, *, interpreter: str, sink: environment.Sink) -> Result:
    """Run one candidate once; fail if the sink has not counted every message."""
    before = sink.messages
    task = replace(task, tuned=candidate.tuned, messages=max(1, round(task.messages * candidate.share)))
    result = candidates.run(candidate.name, candidate.module, task, interpreter=interpreter)
    candidates.require_all(candidate.name, sink.messages - before, task)
    return result


def compare(
    title: str, task: Task, options: argparse.Namespace, *, interpreter: str, sink: environment.Sink
) -> report.Table:
    """Measure the candidates in turn, ``--repeats`` times; return the table."""
    compared = WITH_CHUNKING if isinstance(sink, environment.ChunkingSink) else CANDIDATES
    results = candidates.in_turn(
        {each.name: each for each in compared if each.name == BARE or options.only in each.name},
        lambda candidate: measure(candidate, task, interpreter=interpreter, sink=sink),
        title=title,
        repeats=options.repeats,
    )
    is_near = task.port == sink.port
    at_one_round_trip = 0.0 if is_near else task.connections * 1000 / options.round_trip
    return report.table(title, results, bare=BARE, at_one_round_trip=at_one_round_trip)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each candidate (default 5)")
    parser.add_argument("--messages", type=int, default=12_000, help="on loopback (default 12000; 0: none)")
    parser.add_argument(
        "--chunking-messages", type=int, default=12_000, help="to a server with CHUNKING (default 12000; 0: none)"
    )
    parser.add_argument("--connections", type=int, default=8, help="on loopback (default 8)")
    parser.add_argument("--delayed-messages", type=int, default=1000, help="over the proxy (default 1000; 0: none)")
    parser.add_argument("--delayed-connections", type=int, default=5, help="over the proxy (default 5)")
    parser.add_argument("--round-trip", type=float, default=50.0, help="of the proxy, milliseconds (default 50)")
    parser.add_argument(
        "--queued", type=int, default=2000, help="messages that are only queued (default 2000; 0: none)"
    )
    parser.add_argument("--database", choices=list(DATABASES), default="postgresql")
    parser.add_argument("--only", default="", help="only candidates whose name contains this, and the bare one")
    parser.add_argument("--smoke", action="store_true", help="only show that everything runs")
    parser.add_argument("--write", action="store_true", help="write docs/explanation/performance.md")
    options = parser.parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    return options


def run(options: argparse.Namespace) -> list[str]:
    """Start the servers, make every comparison and return the tables as text."""
    tables: dict[str, report.Table] = {}
    chunking: dict[str, report.Table] = {}
    database_name = DATABASES[options.database]
    with ExitStack() as stack:
        interpreter = environment.python(options.database)
        folder = stack.enter_context(environment.folder())
        sink = environment.Sink(folder)
        stack.enter_context(sink.running())
        database = stack.enter_context(environment.database(interpreter, options.database, folder))
        about = machine.describe(interpreter)
        near = Task(options.messages, options.connections, "127.0.0.1", sink.port, database)
        if near.messages:
            title = f"loopback, {near.connections} connections, {near.messages} messages, {database_name}"
            tables["bench-near"] = compare(title, near, options, interpreter=interpreter, sink=sink)
        if options.chunking_messages:
            offers = environment.ChunkingSink(folder)
            stack.enter_context(offers.running())
            task = replace(near, messages=options.chunking_messages, port=offers.port)
            title = f"A server with CHUNKING, {near.connections} connections, {task.messages} messages, {database_name}"
            chunking["bench-chunking"] = compare(title, task, options, interpreter=interpreter, sink=offers)
        if options.delayed_messages:
            port = stack.enter_context(environment.delaying_proxy(sink.port, options.round_trip / 2000))
            far = replace(near, messages=options.delayed_messages, connections=options.delayed_connections, port=port)
            title = f"{options.round_trip:g} ms round trip, {far.connections} connections, {far.messages} messages"
            tables["bench-round-trip"] = compare(title, far, options, interpreter=interpreter, sink=sink)
        if options.queued:
            task = replace(near, messages=options.queued)
            tables["bench-queue"] = enqueue.compare(task, repeats=options.repeats, interpreter=interpreter)
    parts = {"bench": tables, "bench-chunking": chunking}
    for part, written in parts.items():
        if options.write and written:
            document.write(part, about, written)
    return [*about, *(table.as_text() for written in parts.values() for table in written.values())]


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    sys.exit(candidates.print_tables(lambda: run(chosen)))
