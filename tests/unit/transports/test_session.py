"""A session over a real socket pair: the very moment at which a message begins."""

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
def test_message_whose_mail_the_system_refuses_was_never_begun(level: str) -> None:
    """On a fresh connection: no word of it has left, so that its server's trouble is not the message's."""
    ours, theirs = socket.socketpair()

    def gone() -> bool:
        theirs.close()
        return True

    feed = ListFeed([outgoing(may_write=gone)])

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
