"""Candidate: django-post_office's own command, with defaults or tuned (two processes, large batches, no sent log)."""

from __future__ import annotations

import django

from benchmark import messages
from benchmark.measurement import Result, Stopwatch, Task, print_result

BATCH = 500


def fill(task: Task) -> None:
    """Queue the messages."""
    from post_office import mail
    from post_office.models import Email

    Email.objects.all().delete()
    for start in range(0, task.messages, BATCH):
        mail.send_many([messages.arguments_of_post_office(n) for n in range(start, min(start + BATCH, task.messages))])


def main() -> None:
    """Queue the messages, send them and print the result."""
    django.setup()
    from django.core.management import call_command
    from post_office.models import STATUS, Email

    task = Task.from_environment()
    fill(task)
    watch = Stopwatch()
    with watch.running():
        call_command("send_queued_mail", processes=2 if task.tuned else 1)
    sent = Email.objects.filter(status=STATUS.sent).count()
    if sent != task.messages:
        raise SystemExit(f"not everything was sent: {sent} of {task.messages}")
    # Without the CPU of the database: its threads have sessions of their own.
    print_result(Result(watch.seconds, task.messages, watch.statements, watch.cpu))


if __name__ == "__main__":
    main()
