"""Candidate: ``prx_email_django.drain()`` with the account's defaults, except the number of connections.

``BENCH_IN_FLIGHT`` also sets how many messages may be unanswered at once on a connection.
"""

from __future__ import annotations

import os

import django

from benchmark import messages
from benchmark.measurement import Result, Stopwatch, Task, print_result

BATCH = 500


def fill(task: Task) -> None:
    """Create an account and queue the messages."""
    import prx_email_django as prx
    from prx_email_django.models import Account, OutboxMessage

    OutboxMessage.objects.all().delete()
    Account.objects.all().delete()
    account = Account.objects.create(
        name="bench",
        email=messages.SENDER,
        host=task.host,
        port=task.port,
        security="none",
        auth_method="none",
        max_connections=task.connections,
        **({"max_in_flight": int(in_flight)} if (in_flight := os.environ.get("BENCH_IN_FLIGHT")) else {}),
    )
    for start in range(0, task.messages, BATCH):
        prx.enqueue_many(
            (messages.arguments(n) for n in range(start, min(start + BATCH, task.messages))), account=account
        )


def main() -> None:
    """Queue the messages, send them and print the result."""
    django.setup()
    import prx_email_django as prx

    task = Task.from_environment()
    fill(task)
    watch = Stopwatch()
    with watch.running():
        report = prx.drain()
    if report.sent != task.messages:
        raise SystemExit(f"not everything was sent: {report}")
    print_result(Result(watch.seconds, task.messages, watch.statements, watch.cpu, watch.database))


if __name__ == "__main__":
    main()
