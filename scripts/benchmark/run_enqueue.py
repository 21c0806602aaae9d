"""Candidates that queue and send nothing: one by one, in bulk, and by Django's ``EmailMessage.send()``.

``BENCH_WAY`` names the way and ``BENCH_OURS`` (1 or 0) the package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import django

from benchmark import messages
from benchmark.measurement import Result, Stopwatch, Task, print_result

#: Messages of one call in bulk.
BULK = 1000


def ours(way: str, count: int) -> None:
    """Queue by this package."""
    import prx_email_django as prx

    if way == "one by one":
        for n in range(count):
            prx.enqueue(account="bench", **messages.arguments(n))
    elif way == "in bulk":
        for numbers in _bulks(count):
            prx.enqueue_many(map(messages.arguments, numbers), account="bench")
    else:
        _by_django("prx_email_django.backends.OutboxEmailBackend", count, account="bench")


def post_office(way: str, count: int) -> None:
    """Queue by django-post_office."""
    from post_office import mail

    if way == "one by one":
        for n in range(count):
            mail.send(**messages.arguments_of_post_office(n))
    elif way == "in bulk":
        for numbers in _bulks(count):
            mail.send_many([messages.arguments_of_post_office(n) for n in numbers])
    else:
        _by_django("post_office.EmailBackend", count)


def _bulks(count: int) -> Iterator[range]:
    return (range(start, min(start + BULK, count)) for start in range(0, count, BULK))


def _by_django(backend: str, count: int, **options: Any) -> None:
    from django.core.mail import EmailMultiAlternatives
    from django.utils.module_loading import import_string

    connection = import_string(backend)(**options)
    for n in range(count):
        email = EmailMultiAlternatives(
            messages.subject(n), messages.text(n), messages.SENDER, [messages.recipient(n)], connection=connection
        )
        email.attach_alternative(messages.html(n), "text/html")
        email.send()


def make_account(task: Task) -> None:
    """Make this package's account."""
    from prx_email_django.models import Account

    Account.objects.update_or_create(
        name="bench", defaults={"email": messages.SENDER, "host": task.host, "port": task.port, "auth_method": "none"}
    )


def main() -> None:
    """Queue the messages and print the result."""
    django.setup()
    task, way = Task.from_environment(), os.environ["BENCH_WAY"]
    make_account(task)
    queue: Callable[[str, int], None] = ours if os.environ["BENCH_OURS"] == "1" else post_office
    queue(way, BULK if way == "in bulk" else 50)  # imports, caches
    watch = Stopwatch()
    with watch.running():
        queue(way, task.messages)
    print_result(Result(watch.seconds, task.messages, watch.statements, watch.cpu, watch.database))


if __name__ == "__main__":
    main()
