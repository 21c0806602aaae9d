"""What must hold before anything is sent."""

from __future__ import annotations

import asyncio
import os
import sys

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections

from prx_email_django.errors import SendInsideTransaction
from prx_email_django.models.managers import outbox_alias


def check_may_send(name: str) -> None:
    """Refuse to speak SMTP where it cannot be done, before anything is written.

    Raises:
        SynchronousOnlyOperation: an event loop runs in this thread, so Django would refuse every statement.
        ImproperlyConfigured: gevent or eventlet has replaced Python's threads or sockets.
        SendInsideTransaction: there is an open ``atomic()``, or autocommit is off.
    """
    _check_no_event_loop(name)
    _check_real_threads(name)
    _check_outside_transaction(name)


def _check_no_event_loop(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):  # Django's own way out, for notebooks
        raise SynchronousOnlyOperation(
            f"{name}() cannot run in a thread whose event loop is running: use “await a{name}(…)” there"
        )


def _check_real_threads(name: str) -> None:
    """Refuse a process whose threads are greenlets.

    The network's event loop would run on the caller's own thread, where Django refuses every statement: messages would
    stay claimed.  Tried with real threads of gevent's pool: waking the caller across threads got lost, and the
    interpreter crashed at its end.
    """
    if by := _patched_by():
        raise ImproperlyConfigured(
            f"{name}() needs real threads, and {by} has replaced them in this process. Queue here with enqueue(), "
            "which works, and send in a process without it: flush_outbox --loop, django-q2, or Celery with the pool "
            "prefork or threads"
        )


def _patched_by() -> str:
    """Return which library has replaced Python's threads, queues, selectors or sockets; ``""``: none.

    gevent replaces queues by their own name too; a thread that waits at one of them waits for greenlets only.
    """
    for library, module, patched in (
        ("gevent", "gevent.monkey", "is_module_patched"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched"),
    ):
        is_patched = getattr(sys.modules.get(module), patched, None)
        if is_patched is not None and any(map(is_patched, ("thread", "threading", "queue", "select", "socket"))):
            return library
    return ""


def _check_outside_transaction(name: str) -> None:
    """Refuse to speak SMTP inside a transaction on the outbox's database.

    The wrapper of a ``TestCase`` does not count, as with ``atomic(durable=True)``.

    Raises:
        SendInsideTransaction: there is an open ``atomic()``, or autocommit is off.
    """
    connection = connections[outbox_alias()]
    inside = any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    if inside or not (connection.in_atomic_block or connection.get_autocommit()):
        instead = {"send": "use enqueue() there", "reply": "reply after the transaction"}.get(
            name, "use requeue_outbox() there" if name == "retry_outbox" else "drain after the transaction"
        )
        raise SendInsideTransaction(
            f"{name}() speaks SMTP and cannot run inside an open transaction: {instead}", code="inside_transaction"
        )
