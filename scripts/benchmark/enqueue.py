"""Compare queueing with django-post_office: CPU and statements of a message, one by one, in bulk, by Django's send.

Both queue the same number of messages, after the same ones that are not measured, on a connection that is new.  In bulk
it is ten times as many: about once in seven thousand messages, with either package, Python searches all objects of the
process for garbage.  That takes as long as to queue some hundred messages, and whether it falls into two thousand
messages is chance.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import median

from benchmark import candidates
from benchmark.measurement import Result, Task
from benchmark.report import Table

#: Ways to queue, and how many times the messages of the task.
WAYS = {"one by one": 1, "in bulk": 10, "EmailMessage.send()": 1}
NAMES = {"1": "prx_email_django", "0": "post_office"}


def compare(task: Task, *, repeats: int, interpreter: str) -> Table:
    """Measure both packages in turn, ``repeats`` times each way; return the table."""
    rows: list[list[str]] = []
    bars: dict[str, float] = {}
    for way, times in WAYS.items():
        some = replace(task, messages=task.messages * times)
        runs: dict[str, list[Result]] = {ours: [] for ours in NAMES}
        for _ in range(repeats):
            for ours, results in runs.items():
                more = {"BENCH_WAY": way, "BENCH_OURS": ours}
                name = f"{NAMES[ours]}, {way},"
                results.append(candidates.run(name, "run_enqueue", some, interpreter=interpreter, more=more))
        rows += _rows(way, runs)
        for ours, results in runs.items():
            bars[f"{way}, {NAMES[ours]}"] = median(_cost(run) for run in results)
        print("\n".join("  ".join(row) for row in rows[-2:]), file=sys.stderr, flush=True)
    columns = ["", "CPU µs/message", "spread", "wall µs/message", "SQL/message", "of post_office"]
    title = f"queueing, {task.messages} messages, in bulk {task.messages * WAYS['in bulk']}"
    return Table(title, columns, rows, bars, unit="CPU µs a message")


def _rows(way: str, runs: dict[str, list[Result]]) -> list[list[str]]:
    reference = median(map(_cost, runs["0"]))
    rows = []
    for ours, results in runs.items():
        each = sorted(map(_cost, results))
        wall = median(run.seconds / run.messages for run in results) * 1e6
        statements = median(run.statements / run.messages for run in results)
        times = reference / median(each)
        name, spread = f"{way}, {NAMES[ours]}", f"{each[0]:.0f} to {each[-1]:.0f}"
        rows.append([name, f"{median(each):.0f}", spread, f"{wall:.0f}", f"{statements:.3f}", f"{times:.2f}"])
    return rows


def _cost(run: Result) -> float:
    """CPU of a message, in microseconds: of the process and of its database session."""
    return (run.cpu + run.database) / run.messages * 1e6
