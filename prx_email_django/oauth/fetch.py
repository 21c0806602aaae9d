"""Fetches an access token from a token server or from a function of the host project, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic

from prx_email_django.oauth.callables import call
from prx_email_django.oauth.token import Token, TokenRefused
from prx_email_django.oauth.token_request import Grant, TokenRequest
from prx_email_django.oauth.token_server import post
from prx_email_django.rules.words import words as _


class TokenFetch:
    """One request for a token.

    It is never cancelled: a provider that rotates refresh tokens revokes the old refresh token when it answers, so an
    answer that nobody waits for any more must still be stored.  The thread is a daemon, so that a function of the host
    project that hangs delays no exit.
    """

    def __init__(self, request: TokenRequest, *, timeout: float, done: Callable[[], None] = lambda: None) -> None:
        """Start the request; ``timeout`` is in seconds, and ``done`` is called from the thread when it has ended."""
        self._timeout = timeout
        self._ends_at = monotonic() + timeout
        self._answer: Future[Token] = Future()
        self._answer.add_done_callback(lambda _: done())
        threading.Thread(target=self._run, args=(request,), name="prx-email-token", daemon=True).start()

    def _run(self, request: TokenRequest) -> None:
        try:
            if request.grant is Grant.CALLABLE:
                token = call(request, timeout=self._timeout)
            else:
                token = post(request, timeout=self._timeout)
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that takes the result)
            self._answer.set_exception(error)
        else:
            self._answer.set_result(token)

    @property
    def is_answered(self) -> bool:
        """Whether the request has ended."""
        return self._answer.done()

    @property
    def is_over(self) -> bool:
        """Whether the request has ended or its time has passed."""
        return self._answer.done() or monotonic() >= self._ends_at

    def result(self, *, wait: float = 0.0) -> Token:
        """Return the token; ``wait`` is in seconds.

        Raises:
            TokenRefused: there is no token, or the request has not ended.
        """
        try:
            return self._answer.result(wait)
        except TimeoutError:
            message = _("no token within %(seconds)s seconds", seconds=f"{self._timeout:g}")
            raise TokenRefused(message, permanent=False, code="timeout") from None
