"""Contestant: ``prx_email_django.drain()``, with the account's defaults but for the number of connections."""

from __future__ import annotations

import django

from benchmark import letters
from benchmark.contest import Score, Stopwatch, Task, tell

BATCH = 500


def fill(task: Task) -> None:
    """An account and the letters, queued."""
    import prx_email_django as prx
    from prx_email_django.models import Account, OutboxMessage

    OutboxMessage.objects.all().delete()
    Account.objects.all().delete()
    account = Account.objects.create(
        name="bench",
        email=letters.SENDER,
        host=task.host,
        port=task.port,
        security="none",
        auth_method="none",
        max_connections=task.connections,
    )
    for start in range(0, task.messages, BATCH):
        prx.enqueue_many(
            (
                {
                    "to": letters.recipient(n),
                    "subject": letters.subject(n),
                    "body_text": letters.text(n),
                    "body_html": letters.html(n),
                }
                for n in range(start, min(start + BATCH, task.messages))
            ),
            account=account,
        )


def main() -> None:
    """Queue, drain, tell."""
    django.setup()
    import prx_email_django as prx

    task = Task.given()
    fill(task)
    watch = Stopwatch()
    with watch.running():
        report = prx.drain()
    if report.sent != task.messages:
        raise SystemExit(f"not everything was sent: {report}")
    tell(Score(watch.seconds, task.messages, watch.statements))


if __name__ == "__main__":
    main()
