"""The awaitable functions ``asend``, ``aenqueue``, …: each runs its synchronous function on Django's thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from prx_email_django.api.inbound import reply
from prx_email_django.api.queueing import enqueue
from prx_email_django.api.sending import drain, retry_outbox, send
from prx_email_django.models.managers import outbox_alias

P = ParamSpec("P")
R = TypeVar("R")


def _closing(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function``, and close the database connection if the call opened it: no request ends on this thread."""
    connection = connections[outbox_alias()]
    was_open = connection.connection is not None
    try:
        return function(*args, **kwargs)
    finally:
        if not was_open and not connection.in_atomic_block:
            connection.close()


def _awaitable(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make an awaitable version of ``function`` with the same signature, for people, editors and type checkers."""

    @functools.wraps(function)
    async def awaitable(*args: P.args, **kwargs: P.kwargs) -> R:
        return await sync_to_async(_closing)(function, *args, **kwargs)

    awaitable.__module__ = __name__
    awaitable.__name__ = awaitable.__qualname__ = f"a{function.__name__}"
    awaitable.__doc__ = f"``{function.__name__}``, awaitable.\n\n{function.__doc__}"
    return awaitable


asend = _awaitable(send)
aenqueue = _awaitable(enqueue)
areply = _awaitable(reply)
aretry_outbox = _awaitable(retry_outbox)
adrain = _awaitable(drain)
