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
from tests.support.outgoing_messages import BODY, ListFeed, OpenFeed, outgoing, outgoing_messages, settings_for, until
from tests.support.patience import PATIENCE
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
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        await loop.jump(seconds - 0.1)
        assert not running.done(), "the deadline is too early"
        await loop.jump(0.2)
        assert running.done(), "the deadline is too late"

    run_on_fake_clock(main)
    assert feed.outcomes[1].ending is Ending.UNKNOWN


# A window's body is written with MAIL: a reply to MAIL or RCPT would set the deadline anew, whenever it is read.
@pytest.mark.parametrize(("pipelining", "silent_from"), [("chunked", "mail"), ("full", "final")])
def test_a_body_has_its_deadline_although_the_connection_is_woken_meanwhile(pipelining: str, silent_from: str) -> None:
    """A worker wakes its connections whenever it renews leases or records results: a silent server had no deadline."""
    with SmtpServer(chunking=pipelining == "chunked") as server:
        rule = server.on(silent_from, nth=3, stall=True)

        async def main(loop: FakeClockLoop) -> OpenFeed:
            feed = OpenFeed(outgoing_messages(3))
            options = {"pipelining": pipelining, "max_in_flight": 4, "window": 4, "final_timeout": 600.0}
            session = await SmtpTransport().open(settings_for(server, **options))
            running = asyncio.ensure_future(session.run(feed))
            assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
            await until(lambda: len(feed.order) == 2)
            for _ in range(29):
                await loop.jump(20)
                feed.wake()
            assert not running.done(), "the deadline is too early"
            await loop.jump(20.1)
            assert running.done(), "the deadline is too late"
            return feed

        feed = run_on_fake_clock(main)
    assert [feed.outcomes[number].ending for number in (1, 2, 3)] == [*[Ending.ACCEPTED] * 2, Ending.UNKNOWN]


def test_each_further_message_of_a_window_has_the_time_of_its_size() -> None:
    """Beside the ten minutes of the one before it: a connection that is fed slowly is not awaited for hours."""
    body = b"0123456789abcd\r\n" * 32_768  # 0.5 MiB: 16 seconds
    with SmtpServer(chunking=True) as server:
        rule = server.on("mail", stall=True)

        async def main(loop: FakeClockLoop) -> None:
            feed = OpenFeed([outgoing(1)])
            options = {"pipelining": "chunked", "max_in_flight": 4, "window": 4, "final_timeout": 600.0}
            session = await SmtpTransport().open(settings_for(server, **options))
            running = asyncio.ensure_future(session.run(feed))
            assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
            await loop.jump(500)
            feed.put(outgoing(2, body=body))
            await loop.jump(115)
            assert not running.done(), "the deadline is too early"
            await loop.jump(2)
            assert running.done(), "the deadline is too late"

        run_on_fake_clock(main)


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
