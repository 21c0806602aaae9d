"""The time limit of the opening as a whole.

On Python 3.11 ``asyncio.wait_for`` (inside aiosmtplib) returns a result that is already there and forgets the
cancellation by which ``asyncio.timeout`` ends its block (python/cpython#86296, fixed in 3.12).
"""

from __future__ import annotations

import asyncio
import time

import pytest

from prx_email_django.transports.base import ConnectError
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import settings_for
from tests.support.smtp_server import SmtpServer


def test_three_timeouts_bound_the_opening_although_a_reply_comes_with_the_last_of_them() -> None:
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
