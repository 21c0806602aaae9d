"""Waiting for the next parcel without losing one, whatever ends the wait."""

from __future__ import annotations

import asyncio
from typing import Any

from prx_email_django.transports.base import Feed, OutgoingMessage
from prx_email_django.transports.smtp.mail_transaction import MailTransaction


async def next_message(feed: Feed, ended: asyncio.Future[None], *, peer: str) -> OutgoingMessage | None:
    """The next parcel; None when the feed has no more, or ``ended`` was resolved meanwhile.

    A parcel that comes at the very moment of an end or of a cancellation is reported untouched.
    """
    waiting = asyncio.ensure_future(feed.wait())

    def give_back(waiting: asyncio.Future[OutgoingMessage | None]) -> None:
        outgoing = None if waiting.cancelled() else waiting.result()
        if outgoing is not None:
            feed.report(outgoing, MailTransaction(outgoing).untouched(peer, "the connection ended"))

    try:
        either: set[asyncio.Future[Any]] = {waiting, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        waiting.add_done_callback(give_back)
        waiting.cancel()
        raise
    if not ended.done():
        return waiting.result()
    waiting.add_done_callback(give_back)
    waiting.cancel()
    await asyncio.wait({waiting})
    return None
