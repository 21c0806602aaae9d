"""``django.tasks`` (Django 6.0 and later) as what drains the outbox.

::

    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    PRX_EMAIL = {"WAKE": "prx_email_django.contrib.django_tasks.wake"}

``wake`` starts a drain whenever a message becomes due.  Retries need one that comes by itself: ``django.tasks`` has no
schedule, so run ``flush_outbox`` each minute (cron, a systemd timer), or enqueue ``drain_outbox`` from whatever
schedules your tasks.  A task may run twice or beside another one: every message is claimed under a lease of its own.

The task is declared for the backend and the queue named ``default``, and Django refuses it at import where there is
none; ``drain_outbox.using(queue_name="mail", backend="mail").enqueue()`` chooses others.
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.tasks import task
from django.tasks.backends.immediate import ImmediateBackend

from prx_email_django import tasks


@task
def drain_outbox() -> int | None:
    """Send what is due, for at most ``DRAIN_TIME_BUDGET``; it never waits for a message to become due.

    Returns the number of messages sent, None where nothing could be done (the log tells why).
    """
    return tasks.drain_due()


def wake() -> None:
    """For ``PRX_EMAIL["WAKE"]``: enqueue ``drain_outbox``.

    Raises:
        ImproperlyConfigured: the backend would run the drain here, in the request that queued the message.  The outbox
            logs it, as it does whatever else the backend raises.
    """
    if isinstance(drain_outbox.get_backend(), ImmediateBackend):
        raise ImproperlyConfigured(
            "TASKS: a drain needs a backend with a worker; ImmediateBackend runs it in requests."
        )
    drain_outbox.enqueue()
