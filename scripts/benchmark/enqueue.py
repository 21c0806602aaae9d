"""Compare queueing with django-post_office: CPU and statements of a message, one by one, in bulk, by Django's send."""

from __future__ import annotations

import sys
from statistics import median

from benchmark import candidates
from benchmark.measurement import Result, Task

WAYS = ("one by one", "in bulk", "EmailMessage.send()")
NAMES = {"1": "prx_email_django", "0": "post_office"}


def compare(task: Task, *, repeats: int, interpreter: str) -> str:
    """Measure both packages in turn, ``repeats`` times each way; return the table."""
    lines = [
        f"queueing, {task.messages} messages",
        f"{'':<22}{'':<18}{'CPU µs':>8}{'spread':>15}{'wall µs':>9}{'SQL':>7}{'times':>7}",
    ]
    for way in WAYS:
        runs: dict[str, list[Result]] = {ours: [] for ours in NAMES}
        for _ in range(repeats):
            for ours, results in runs.items():
                more = {"BENCH_WAY": way, "BENCH_OURS": ours}
                name = f"{NAMES[ours]}, {way},"
                results.append(candidates.run(name, "run_enqueue", task, interpreter=interpreter, more=more))
        lines += _lines(way, runs)
        print("\n".join(lines[-2:]), file=sys.stderr, flush=True)
    return "\n".join(lines)


def _lines(way: str, runs: dict[str, list[Result]]) -> list[str]:
    reference = median(run.cpu for run in runs["0"])
    lines = []
    for ours, results in runs.items():
        each = sorted(run.cpu / run.messages * 1e6 for run in results)
        wall = median(run.seconds / run.messages for run in results) * 1e6
        statements = median(run.statements / run.messages for run in results)
        times = reference / median(run.cpu for run in results)
        lines.append(
            f"{way:<22}{NAMES[ours]:<18}{median(each):>8.0f}{f'{each[0]:.0f} to {each[-1]:.0f}':>15}"
            f"{wall:>9.0f}{statements:>7.3f}{times:>7.2f}"
        )
    return lines
