"""Fetches an access token from a token server or from a function of the host project, within a time limit."""

from __future__ import annotations

import asyncio

from prx_email_django.oauth.callables import call
from prx_email_django.oauth.daemon_thread import in_thread
from prx_email_django.oauth.token import Token, TokenRefused
from prx_email_django.oauth.token_request import Grant, TokenRequest
from prx_email_django.oauth.token_server import post


async def fetch_token(request: TokenRequest, *, timeout: float) -> Token:
    """Fetch a token within ``timeout`` seconds, without blocking the event loop.

    A blocking call that is not finished then runs on in its daemon thread, and its result is dropped.

    Raises:
        TokenRefused: there is no token.
    """
    try:
        async with asyncio.timeout(timeout):
            if request.grant is Grant.CALLABLE:
                return await call(request)
            return await in_thread(lambda: post(request, timeout=timeout))
    except TimeoutError:
        raise TokenRefused(f"no token within {timeout:g} seconds", permanent=False, code="timeout") from None
