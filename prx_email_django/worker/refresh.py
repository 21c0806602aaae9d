"""One request for a token, made by ``token_keeper``, and the thread that stores an answer for which nobody waits."""

from __future__ import annotations

import atexit
import threading
import uuid
from contextlib import suppress
from functools import partial
from time import monotonic

from django.db import connections
from django.views.decorators.debug import sensitive_variables

from prx_email_django.limits.token_refresh import end_refresh_lease, is_replaced, store_token
from prx_email_django.oauth.fetch import TokenFetch
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.rules.clock import Clock
from prx_email_django.store.absence import unwritten

#: Seconds for which a thread waits for an answer.
LATE_ANSWER = 60.0
#: Seconds for which the exit of the process waits for late answers.
EXIT_WAIT = 20.0

_late: set[threading.Thread] = set()


class Refresh:
    """A request under a refresh lease; the lease is kept until its answer has been stored."""

    def __init__(  # noqa: PLR0913  (the facts of one request)
        self,
        account_id: int,
        *,
        lease: uuid.UUID,
        took_over: bool,
        version: int,
        clock: Clock,
        fetch: TokenFetch,
    ) -> None:
        self.account_id = account_id
        self.lease = lease
        self.version = version
        self.clock = clock
        self.asked_at = clock.running
        #: The lease of another worker had run out, whose request may still be answered.
        self.took_over = took_over
        self.fetch = fetch

    @property
    def is_answered(self) -> bool:
        """Whether the request has ended."""
        return self.fetch.is_answered

    @property
    def is_over(self) -> bool:
        """Whether the request has ended or its time has passed."""
        return self.fetch.is_over

    @sensitive_variables("token")
    def keep(self, *, wait: float = 0.0) -> str:
        """Store the token that has come, and return it; empty: newer tokens were stored meanwhile.

        Raises:
            TokenRefused: there is no token.
        """
        try:
            token = self.fetch.result(wait=wait)
        except TokenRefused as error:
            if not self.is_answered:
                raise
            was_ours = end_refresh_lease(self.account_id, self.lease)
            if is_replaced(self.account_id, version=self.version):
                return ""
            if self.took_over or not was_ours:
                # The other worker's answer may have ended our refresh token, and not be stored yet: look again.
                raise TokenRefused(str(error), permanent=False, code=error.code) from error
            raise
        stored = store_token(
            self.account_id, token, version=self.version, asked_at=self.asked_at, now=self.clock.running
        )
        end_refresh_lease(self.account_id, self.lease)
        return token.access_token if stored else ""


def keep_later(refresh: Refresh) -> None:
    """Store the answer of a request that nobody waits for, when it comes, in a thread of its own.

    The thread is a daemon: a token server that stays away delays an exit by no more than ``EXIT_WAIT`` seconds.
    """
    thread = threading.Thread(target=_keep_late, args=(refresh,), name="prx-email-late-token", daemon=True)
    _late.add(thread)
    thread.start()


def _keep_late(refresh: Refresh) -> None:
    try:
        unwritten.write([partial(_keep, refresh)])
    finally:
        connections.close_all()  # those of this thread, which ends now
        _late.discard(threading.current_thread())


def _keep(refresh: Refresh) -> None:
    with suppress(TokenRefused):  # whoever needs a token next finds out
        refresh.keep(wait=LATE_ANSWER)


def _wait_for_late() -> None:
    ends_at = monotonic() + EXIT_WAIT
    for thread in list(_late):
        thread.join(max(0.0, ends_at - monotonic()))


atexit.register(_wait_for_late)
