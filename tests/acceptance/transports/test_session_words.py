"""A reply to RCPT about the session, on a new connection: the message is reported once, and nothing more is written."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, outgoing, settings_for
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
@pytest.mark.parametrize("text", ["550 5.7.1 too many messages in this session", "554 4.4.5 session limit"])
def test_message_stopped_by_a_session_limit_is_reported_once_and_not_sent_afterwards(level: str, text: str) -> None:
    with SmtpServer() as server:
        server.refuse("trap@example.org", text)
        feed = ListFeed([outgoing(1, "trap@example.org", "bob@example.org"), outgoing(2)])

        async def main() -> None:
            session = await SmtpTransport().open(settings_for(server, pipelining=level))
            await session.run(feed)

        asyncio.run(main())
        feed.check()
        assert server.wait_closed()
        delivered = [message for message in server.messages if "bob@example.org" in message.recipients]
        # A message that was delivered must not be reported as a known failure.
        assert not delivered or feed.outcomes[1].ending in (Ending.ACCEPTED, Ending.UNKNOWN)
