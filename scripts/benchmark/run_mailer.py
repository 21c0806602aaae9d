"""Candidate: django-mailer's own command, as it comes: one process, one connection."""

from __future__ import annotations

import django

from benchmark import messages
from benchmark.measurement import Result, Stopwatch, Task, print_result


def main() -> None:
    """Queue the messages, send them and print the result."""
    django.setup()
    from django.core.management import call_command
    from mailer import send_html_mail
    from mailer.models import Message, MessageLog

    task = Task.from_environment()
    Message.objects.all().delete()
    MessageLog.objects.all().delete()
    for n in range(task.messages):
        send_html_mail(
            messages.subject(n), messages.text(n), messages.html(n), messages.SENDER, [messages.recipient(n)]
        )
    watch = Stopwatch()
    with watch.running():
        call_command("send_mail")
    if left := Message.objects.count():
        raise SystemExit(f"not everything was sent: {left} of {task.messages} wait")
    print_result(Result(watch.seconds, task.messages, watch.statements, watch.cpu, watch.database))


if __name__ == "__main__":
    main()
