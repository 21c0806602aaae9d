"""A session over a real socket pair: the very moment at which a message begins."""

from __future__ import annotations

import asyncio
import socket

import pytest

from prx_email_django.outcomes import Ending, Trouble
from prx_email_django.transports.base import Login, SessionEnd
from prx_email_django.transports.envelope import Abilities
from prx_email_django.transports.session import SmtpSession
from tests.support.parcels import ListFeed, parcel


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_message_whose_mail_the_system_refuses_was_never_begun(level: str) -> None:
    """On a fresh connection: no word of it has left, so that its server's trouble is not the message's."""
    ours, theirs = socket.socketpair()

    def gone() -> bool:
        theirs.close()
        return True

    feed = ListFeed([parcel(may_write=gone)])

    async def main() -> SessionEnd:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        login = Login("mail.example.org", 25, "none", "none", pipelining=level)
        session = SmtpSession(transport, abilities=Abilities(pipelining=True), login=login, peer="the other end")
        return await session.run(feed)

    end = asyncio.run(main())
    feed.check()
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.trouble, outcome.mail_written) == (Ending.UNTOUCHED, Trouble.NONE, False)
    assert (end.trouble, end.reconnect) == (Trouble.CONNECTION, False)
