"""Deadline of the final reply: ten minutes, and the time that the size needs at 32 KiB/s (RFC 5321 §4.5.3.2.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from prx_email_django.models import Account, AccountState
from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.worker.tokens import login_for
from tests.support.fake_clock import FakeClockLoop, run_jumping
from tests.support.outgoing_messages import BODY, ListFeed, outgoing
from tests.support.smtp_server import SmtpServer


def default_settings(server: SmtpServer) -> ConnectionSettings:
    """Connection settings whose deadlines are the defaults."""
    return ConnectionSettings(server.host, server.port, "none", "none")


def account_settings(server: SmtpServer) -> ConnectionSettings:
    """Connection settings that a worker makes from an account."""
    account = Account(name="a", host=server.host, port=server.port, security="none", auth_method="none")
    return login_for(account, AccountState(), token="", now=datetime.now(UTC))


@pytest.mark.parametrize("settings", [default_settings, account_settings])
@pytest.mark.parametrize(
    ("body", "seconds"), [(BODY, 600), (b"0123456789abcd\r\n" * 204_800, 700)], ids=["small", "3.125 MiB"]
)
def test_final_reply_has_ten_minutes_and_the_time_of_its_size(
    server: SmtpServer, settings: Callable[[SmtpServer], ConnectionSettings], body: bytes, seconds: int
) -> None:
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

    run_jumping(main)
    assert feed.outcomes[1].ending is Ending.UNKNOWN
