"""Drain the outbox with ``django.tasks`` (Django 6.0 and later).

::

    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    PRX_EMAIL = {"WAKE": "prx_email_django.contrib.django_tasks.wake"}

``wake`` starts a drain when a message becomes due.  Retries need a scheduled drain, and ``django.tasks`` has no
schedule: run ``flush_outbox`` each minute (cron, a systemd timer), or enqueue ``drain_outbox`` from the scheduler of
your tasks.  A task may run twice or in parallel, because every message is claimed under its own lease.

The task uses the backend and the queue named ``default``; Django raises at import if they do not exist.
``drain_outbox.using(queue_name="mail", backend="mail").enqueue()`` chooses others.
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.tasks import task
from django.tasks.backends.immediate import ImmediateBackend

from prx_email_django import tasks


@task
def drain_outbox() -> int | None:
    """Send due messages for at most ``DRAIN_TIME_BUDGET``, without waiting for messages to become due.

    Returns the number of messages sent, or None if the drain failed (the log says why).
    """
    return tasks.drain_due()


def wake() -> None:
    """For ``PRX_EMAIL["WAKE"]``: enqueue ``drain_outbox``.

    Raises:
        ImproperlyConfigured: the backend would run the drain in the request that queued the message.  The outbox logs
            this error, as it logs every error that the backend raises.
    """
    if isinstance(drain_outbox.get_backend(), ImmediateBackend):
        raise ImproperlyConfigured(
            "TASKS must name a backend that has a worker: ImmediateBackend runs a drain inside requests."
        )
    drain_outbox.enqueue()
