"""Fetches an access token, from a token server or from the host's own function, within a time limit."""

from __future__ import annotations

import asyncio

from prx_email_django.oauth.callables import call
from prx_email_django.oauth.server import post
from prx_email_django.oauth.threads import in_thread
from prx_email_django.oauth.values import Grant, Token, TokenRefused, TokenRequest


async def fetch_token(request: TokenRequest, *, timeout: float) -> Token:
    """Fetch a token within ``timeout`` seconds, without blocking the event loop.

    Raises ``TokenRefused``.  What still runs when the time is over runs on in a daemon thread, its result dropped.
    """
    try:
        async with asyncio.timeout(timeout):
            if request.grant is Grant.CALLABLE:
                return await call(request)
            return await in_thread(lambda: post(request, timeout=timeout))
    except TimeoutError:
        raise TokenRefused(f"no token within {timeout:g} seconds", permanent=False, code="timeout") from None
