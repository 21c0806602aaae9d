"""How long the final reply is waited for: ten minutes, and what the size needs at 32 KiB/s (RFC 5321 §4.5.3.2.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from prx_email_django.delivery.login import login_for
from prx_email_django.models import Account, AccountState
from prx_email_django.outcomes import Ending
from prx_email_django.transports.base import Login
from prx_email_django.transports.connection import SmtpTransport
from tests.support.jumping import JumpingLoop, run_jumping
from tests.support.parcels import BODY, ListFeed, parcel
from tests.support.smtp_server import SmtpServer


def bare(server: SmtpServer) -> Login:
    """What a login is where nothing is said of deadlines."""
    return Login(server.host, server.port, "none", "none")


def of_an_account(server: SmtpServer) -> Login:
    """What a drain makes of an account."""
    account = Account(name="a", host=server.host, port=server.port, security="none", auth_method="none")
    return login_for(account, AccountState(), token="", now=datetime.now(UTC))


@pytest.mark.parametrize("login", [bare, of_an_account])
@pytest.mark.parametrize(
    ("body", "seconds"), [(BODY, 600), (b"0123456789abcd\r\n" * 204_800, 700)], ids=["small", "3.125 MiB"]
)
def test_final_reply_has_ten_minutes_and_the_time_of_its_size(
    server: SmtpServer, login: Callable[[SmtpServer], Login], body: bytes, seconds: int
) -> None:
    rule = server.on("final", stall=True)
    feed = ListFeed([parcel(body=body)])

    async def main(loop: JumpingLoop) -> None:
        session = await SmtpTransport().open(login(server))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, 60)
        await loop.jump(seconds - 0.1)
        assert not running.done(), "the deadline is too early"
        await loop.jump(0.2)
        assert running.done(), "the deadline is too late"

    run_jumping(main)
    assert feed.outcomes[1].ending is Ending.UNKNOWN
