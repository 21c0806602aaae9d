"""A session over a socket pair: the moment at which a message is started."""

from __future__ import annotations

import asyncio
import socket

import pytest

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.base import ConnectionSettings, SessionEnd
from prx_email_django.transports.smtp.commands import Extensions
from prx_email_django.transports.smtp.session import SmtpSession
from tests.support.outgoing_messages import ListFeed, outgoing


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_message_whose_mail_the_system_refuses_is_untouched(level: str) -> None:
    """On a new connection: no byte of the message has left, so the failure belongs to the connection only."""
    ours, theirs = socket.socketpair()

    def close_the_other_end() -> bool:
        theirs.close()
        return True

    feed = ListFeed([outgoing(may_write=close_the_other_end)])

    async def main() -> SessionEnd:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        settings = ConnectionSettings("mail.example.org", 25, "none", "none", pipelining=level)
        session = SmtpSession(
            transport, extensions=Extensions(pipelining=True), settings=settings, peer="the other end"
        )
        return await session.run(feed)

    end = asyncio.run(main())
    feed.check()
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.trouble, outcome.mail_written) == (Ending.UNTOUCHED, Trouble.NONE, False)
    assert (end.trouble, end.reconnect) == (Trouble.CONNECTION, False)
