"""RSET: its reply counts, and MAIL follows no judgement that is older than it."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support import smtp_connection
from tests.support.outgoing_messages import ListFeed, login_to, outgoing, transmit
from tests.support.smtp_connection import Connection
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_message_does_not_reach_recipients_of_a_transaction_that_rset_did_not_end(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses RSET and takes a nested MAIL: it still knows the recipients of before."""

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


def test_no_mail_is_written_when_the_right_is_lost_while_rset_is_answered() -> None:
    rights = {"held": True}
    with SmtpServer() as server:
        server.refuse("no@example.org")
        rule = server.on("rset", stall=True)
        second = outgoing(2, may_write=lambda: rights["held"], may_continue=lambda: rights["held"])
        feed = ListFeed([outgoing(1, "no@example.org"), second])

        async def main() -> None:
            session = await SmtpTransport().open(login_to(server, pipelining="off"))
            running = asyncio.ensure_future(session.run(feed))
            assert await asyncio.to_thread(rule.reached.wait, 60)
            rights["held"] = False
            server.release(rule)
            await running

        asyncio.run(main())
        assert len(server.lines("MAIL")) == 1, "MAIL was written although claim and slot were lost"
        assert (feed.outcomes[2].ending, feed.outcomes[2].mail_written) == (Ending.UNTOUCHED, False)


def test_lost_at_rset_step_by_step_harms_no_message_whose_mail_was_never_written() -> None:
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", drop=True)
        feed, _ = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining="off")
        assert len(server.lines("MAIL")) == 1
        second = feed.outcomes.get(2)  # None: it was never taken
        assert second is None or (second.ending, second.mail_written) == (Ending.UNTOUCHED, False)


@pytest.mark.parametrize("level", ["off", "envelope", "full"])
def test_421_to_rset_is_heard(level: str) -> None:
    """A server that says 421 and leaves the closing to us."""
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", raw=b"421 4.3.2 going down\r\n")
        server.on("mail", nth=3, stall=True)
        messages = [outgoing(1), outgoing(2, "no@example.org"), outgoing(3)]
        feed, end = transmit(server, messages, pipelining=level, timeout=10.0)
        assert "421" in end.error, (end, feed.outcomes[3])


def test_message_taken_while_the_server_leaves_after_rset_is_as_it_was() -> None:
    """RSET's 250 and a farewell in one breath: what comes next was never begun, on a fresh connection too."""
    with SmtpServer() as server:
        server.refuse("no@example.org")
        server.on("rset", raw=b"250 2.0.0 ok\r\n421 4.3.2 going down\r\n")
        feed, end = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining="off")
        assert len(server.lines("MAIL")) == 1
        assert (feed.outcomes[2].ending, feed.outcomes[2].mail_written) == (Ending.UNTOUCHED, False)
        assert "421" in end.error
