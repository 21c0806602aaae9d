"""Waiting for the next parcel without losing one, whatever ends the wait."""

from __future__ import annotations

import asyncio
from typing import Any

from prx_email_django.transports.base import Feed, Parcel
from prx_email_django.transports.flight import Flight


async def next_parcel(feed: Feed, ended: asyncio.Future[None], *, peer: str) -> Parcel | None:
    """The next parcel; None when the feed has no more, or ``ended`` was resolved meanwhile.

    A parcel that comes at the very moment of an end or of a cancellation is reported untouched.
    """
    waiting = asyncio.ensure_future(feed.wait())

    def give_back(waiting: asyncio.Future[Parcel | None]) -> None:
        parcel = None if waiting.cancelled() else waiting.result()
        if parcel is not None:
            feed.report(parcel, Flight(parcel).untouched(peer, "the connection ended"))

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
