"""Candidate: this outbox as in ``run_ours``, with ``BENCH_IN_FLIGHT`` messages unanswered at once on a connection."""

from __future__ import annotations

import os

import django

from benchmark.measurement import Result, Stopwatch, Task, print_result
from benchmark.run_ours import fill


def main() -> None:
    """Queue the messages, send them and print the result."""
    django.setup()
    import prx_email_django as prx
    from prx_email_django.models import Account

    task = Task.from_environment()
    fill(task)
    if in_flight := os.environ.get("BENCH_IN_FLIGHT"):
        Account.objects.update(max_in_flight=int(in_flight))
    watch = Stopwatch()
    with watch.running():
        report = prx.drain()
    if report.sent != task.messages:
        raise SystemExit(f"not everything was sent: {report}")
    print_result(Result(watch.seconds, task.messages, watch.statements))


if __name__ == "__main__":
    main()
