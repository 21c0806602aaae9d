"""Contestant: django-post_office's own command, as it comes or tuned (two processes, large batches, no sent log)."""

from __future__ import annotations

import django

from benchmark import letters
from benchmark.contest import Score, Stopwatch, Task, tell

BATCH = 500


def fill(task: Task) -> None:
    """The letters, queued."""
    from post_office import mail
    from post_office.models import Email

    Email.objects.all().delete()
    for start in range(0, task.messages, BATCH):
        mail.send_many(
            [
                {
                    "sender": letters.SENDER,
                    "recipients": letters.recipient(n),
                    "subject": letters.subject(n),
                    "message": letters.text(n),
                    "html_message": letters.html(n),
                }
                for n in range(start, min(start + BATCH, task.messages))
            ]
        )


def main() -> None:
    """Queue, drain, tell."""
    django.setup()
    from django.core.management import call_command
    from post_office.models import STATUS, Email

    task = Task.given()
    fill(task)
    watch = Stopwatch()
    with watch.running():
        call_command("send_queued_mail", processes=2 if task.tuned else 1)
    sent = Email.objects.filter(status=STATUS.sent).count()
    if sent != task.messages:
        raise SystemExit(f"not everything was sent: {sent} of {task.messages}")
    tell(Score(watch.seconds, task.messages, watch.statements))


if __name__ == "__main__":
    main()
