"""Candidate: ``prx_email_django.drain()`` with the account's defaults, except the number of connections.

``BENCH_IN_FLIGHT`` also sets how many messages may be unanswered at once on a connection.  ``BENCH_EARLIER`` is the
number of messages of a drain before the measured one, which begins with what that has learned of the server.
"""

from __future__ import annotations

import os
from dataclasses import replace

import django

from benchmark import messages
from benchmark.measurement import Result, Stopwatch, Task, print_result

BATCH = 500


def fill(task: Task) -> None:
    """Create an account and queue the messages."""
    from prx_email_django.models import Account, OutboxMessage

    OutboxMessage.objects.all().delete()
    Account.objects.all().delete()
    Account.objects.create(
        name="bench",
        email=messages.SENDER,
        host=task.host,
        port=task.port,
        security="none",
        auth_method="none",
        max_connections=task.connections,
        **({"max_in_flight": int(in_flight)} if (in_flight := os.environ.get("BENCH_IN_FLIGHT")) else {}),
    )
    queue(task.messages)


def queue(count: int) -> None:
    """Queue so many messages for the account."""
    import prx_email_django as prx

    for start in range(0, count, BATCH):
        prx.enqueue_many((messages.arguments(n) for n in range(start, min(start + BATCH, count))), account="bench")


def main() -> None:
    """Queue the messages, send them and print the result."""
    django.setup()
    import prx_email_django as prx

    task = Task.from_environment()
    if earlier := int(os.environ.get("BENCH_EARLIER") or 0):
        fill(replace(task, messages=earlier))
        prx.drain()
        queue(task.messages)
    else:
        fill(task)
    watch = Stopwatch()
    with watch.running():
        report = prx.drain()
    if report.sent != task.messages:
        raise SystemExit(f"not everything was sent: {report}")
    print_result(Result(watch.seconds, task.messages, watch.statements, watch.cpu, watch.database))


if __name__ == "__main__":
    main()
