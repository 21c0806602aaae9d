"""RSET: its reply counts, and ``may_write`` is asked after it."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import ListFeed, outgoing, settings_for, transmit
from tests.support.patience import PATIENCE
from tests.support.smtp_connection import Connection
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_message_does_not_reach_recipients_of_a_transaction_that_rset_did_not_end(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses RSET and accepts a nested MAIL, so it still has the recipients of the message before."""

    def lenient_mail(self: Connection, rest: str) -> None:
        sender = rest[5:].partition(" ")[0].strip("<>")
        self.answer("mail", b"250 2.1.0 ok\r\n", address=sender, effect=lambda: setattr(self, "sender", sender))

    monkeypatch.setitem(smtp_connection.COMMANDS, "MAIL", lenient_mail)
    with SmtpServer() as server:
        server.on("data", nth=1, reply="451 4.3.0 later")
        server.on("rset", reply="502 5.5.1 not implemented")
        transmit(server, [outgoing(1, "first@example.org"), outgoing(2, "second@example.org")], pipelining=level)
        assert server.wait_closed()
        assert [message.recipients for message in server.messages if "first@example.org" in message.recipients] == []


def test_message_withdrawn_while_rset_is_answered_is_not_written() -> None:
    claim = {"held": True}
    with SmtpServer() as server:
        server.refuse("no@example.org")
        rule = server.on("rset", stall=True)
        second = outgoing(2, may_write=lambda: claim["held"], may_continue=lambda: claim["held"])
        feed = ListFeed([outgoing(1, "no@example.org"), second])

        async def main() -> None:
            session = await SmtpTransport().open(settings_for(server, pipelining="off"))
            running = asyncio.ensure_future(session.run(feed))
            assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
            claim["held"] = False
            server.release(rule)
            await running

        asyncio.run(main())
        assert len(server.lines("MAIL")) == 1, "MAIL was written although claim and slot were lost"
        assert (feed.outcomes[2].ending, feed.outcomes[2].mail_written) == (Ending.UNTOUCHED, False)


def test_connection_lost_at_rset_fails_no_message_whose_mail_was_not_written() -> None:
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", drop=True)
        feed, _ = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining="off")
        assert len(server.lines("MAIL")) == 1
        second = feed.outcomes.get(2)  # None: the message was never taken
        assert second is None or (second.ending, second.mail_written) == (Ending.UNTOUCHED, False)


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_421_to_rset_ends_the_session(level: str) -> None:
    """The server sends 421 and does not close the connection."""
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", raw=b"421 4.3.2 going down\r\n")
        server.on("mail", nth=3, stall=True)
        messages = [outgoing(1), outgoing(2, "no@example.org"), outgoing(3)]
        feed, end = transmit(server, messages, pipelining=level, timeout=10.0)
        assert "421" in end.error, (end, feed.outcomes[3])


def test_no_message_is_taken_where_the_server_closes_after_rset() -> None:
    """RSET's 250 and a 421 arrive together: the next message is left to a new connection."""
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", raw=b"250 2.0.0 ok\r\n421 4.3.2 going down\r\n")
        feed, end = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining="off")
        assert len(server.lines("MAIL")) == 1
        assert feed.left == [2]
        assert "421" in end.error
