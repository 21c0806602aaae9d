"""Deadlines of the opening, and of the final reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from prx_email_django.models import Account, AccountState
from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.worker.token_keeper import connection_settings
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.outgoing_messages import BODY, ListFeed, outgoing, settings_for
from tests.support.smtp_server import SmtpServer


def default_settings(server: SmtpServer) -> ConnectionSettings:
    """Connection settings whose deadlines are the defaults."""
    return ConnectionSettings(server.host, server.port, "none", "none")


def account_settings(server: SmtpServer) -> ConnectionSettings:
    """Connection settings that a worker makes from an account."""
    account = Account(name="a", host=server.host, port=server.port, security="none", auth_method="none")
    return connection_settings(account, AccountState(), token="", now=datetime.now(UTC))


@pytest.mark.parametrize("settings", [default_settings, account_settings])
@pytest.mark.parametrize(
    ("body", "seconds"), [(BODY, 600), (b"0123456789abcd\r\n" * 204_800, 700)], ids=["small", "3.125 MiB"]
)
def test_final_reply_has_ten_minutes_and_the_time_of_its_size(
    server: SmtpServer, settings: Callable[[SmtpServer], ConnectionSettings], body: bytes, seconds: int
) -> None:
    """At 32 KiB/s; ten minutes is the minimum of RFC 5321 §4.5.3.2.6."""
    rule = server.on("final", stall=True)
    feed = ListFeed([outgoing(body=body)])

    async def main(loop: FakeClockLoop) -> None:
        session = await SmtpTransport().open(settings(server))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, 60)
        await loop.jump(seconds - 0.1)
        assert not running.done(), "the deadline is too early"
        await loop.jump(0.2)
        assert running.done(), "the deadline is too late"

    run_on_fake_clock(main)
    assert feed.outcomes[1].ending is Ending.UNKNOWN


def test_three_timeouts_bound_the_opening_although_a_reply_comes_with_the_last_of_them() -> None:
    """Python 3.11's ``asyncio.wait_for`` (in aiosmtplib) can return a result and forget a cancellation.

    That cancellation is the one by which ``asyncio.timeout`` ends its block (python/cpython#86296, fixed in 3.12).
    """
    with SmtpServer(tls="starttls", users={"ann": "secret"}) as server:
        for stage in ("greeting", "ehlo", "starttls", "auth"):
            server.on(stage, delay=0.15)

        async def main() -> None:
            # The loop is busy while the deadline (0.6 s) passes and the second EHLO's reply arrives.
            asyncio.get_running_loop().call_later(0.56, time.sleep, 0.1)
            session = await SmtpTransport().open(settings_for(server, timeout=0.2))
            session.abort()

        with pytest.raises(ConnectError):
            asyncio.run(main())
