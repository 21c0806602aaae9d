"""A session that is opened, asked perhaps whether it takes mail, and closed: nothing is sent over it."""

from __future__ import annotations

import asyncio

from prx_email_django.rules.outcomes import Phase, Step
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.transports.smtp.dry_run import EnvelopeAnswer


async def open_and_quit(
    settings: ConnectionSettings, seconds: float, sender: str
) -> ConnectError | EnvelopeAnswer | None:
    """Open a session and close it; an error is returned, so that no traceback holds what a server said.

    With ``sender`` the server is asked whether it takes mail from there; its answer is returned if it is no acceptance.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        async with asyncio.timeout_at(until):
            session = await SmtpTransport().open(settings)
    except ConnectError as error:
        return error
    except TimeoutError as error:
        cause = error.__cause__.__cause__ if error.__cause__ is not None else None
        if isinstance(cause, ConnectError):
            return cause
        raise
    deadline = min(until, loop.time() + settings.timeout)
    answer = await session.try_envelope(sender, deadline=deadline) if sender else None
    await session.run(_NoMessages())
    return answer


class _NoMessages:
    """A feed that ends at once: the session says QUIT."""

    is_over = True

    def take(self) -> None:
        return None

    def take_or_listen(self, changed: object) -> None:
        return None

    def keeps_session(self) -> bool:
        """Return False: a checked connection is closed at its end."""
        return False

    def report(self, outgoing: object, outcome: object) -> None:
        raise AssertionError  # pragma: no cover  (nothing was taken)


def failed_step(error: ConnectError, reached: list[str]) -> Step:
    """The step that failed: the first one that was not done; EHLO is asked before STARTTLS and after it."""
    if error.phase is Phase.AUTH:
        return Step.LOGIN
    if error.phase is Phase.TLS:
        return Step.TLS
    order = (Step.RESOLVE, Step.CONNECT, Step.GREETING, Step.EXTENSIONS)
    return next((step for step in order if step not in reached), Step.LOGIN)
