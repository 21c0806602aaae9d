"""The awaitable twins: the same functions on Django's thread for synchronous code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from prx_email_django.api.inbound import reply
from prx_email_django.api.queueing import enqueue
from prx_email_django.api.sending import drain, retry_outbox, send
from prx_email_django.models import OutboxMessage
from prx_email_django.querysets import outbox_alias
from prx_email_django.results import DrainReport, SendResult

R = TypeVar("R")


def _closing(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call it, and close the database connection if this call opened it: no request will end on this thread."""
    connection = connections[outbox_alias()]
    was_open = connection.connection is not None
    try:
        return function(*args, **kwargs)
    finally:
        if not was_open and not connection.in_atomic_block:
            connection.close()


async def asend(**kwargs: Any) -> SendResult:
    """``send``, awaitable."""
    return await sync_to_async(_closing)(send, **kwargs)


async def aenqueue(**kwargs: Any) -> OutboxMessage:
    """``enqueue``, awaitable."""
    return await sync_to_async(_closing)(enqueue, **kwargs)


async def areply(**kwargs: Any) -> SendResult:
    """``reply``, awaitable."""
    return await sync_to_async(_closing)(reply, **kwargs)


async def aretry_outbox(outbox_id: int, **kwargs: Any) -> SendResult:
    """``retry_outbox``, awaitable."""
    return await sync_to_async(_closing)(retry_outbox, outbox_id, **kwargs)


async def adrain(**kwargs: Any) -> DrainReport:
    """``drain``, awaitable."""
    return await sync_to_async(_closing)(drain, **kwargs)
