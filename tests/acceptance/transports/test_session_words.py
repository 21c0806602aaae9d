"""A refusal of a recipient that speaks of the session, on a fresh connection: told once, and nothing goes on."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, login_to, outgoing
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
@pytest.mark.parametrize("text", ["550 5.7.1 too many messages in this session", "554 4.4.5 session limit"])
def test_refused_for_the_sessions_sake_is_reported_once_and_not_sent_afterwards(level: str, text: str) -> None:
    with SmtpServer() as server:
        server.refuse("trap@example.org", text)
        feed = ListFeed([outgoing(1, "trap@example.org", "bob@example.org"), outgoing(2)])

        async def main() -> None:
            session = await SmtpTransport().open(login_to(server, pipelining=level))
            await session.run(feed)

        asyncio.run(main())
        feed.check()
        assert server.wait_closed()
        delivered = [message for message in server.messages if "bob@example.org" in message.recipients]
        # If it was delivered, no known failure may be told of it.
        assert not delivered or feed.outcomes[1].ending in (Ending.ACCEPTED, Ending.UNKNOWN)
