"""The lone dot after a DATA whose envelope was refused never delivers an empty message."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.outgoing_messages import ListFeed, outgoing, settings_for, transmit
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_lone_dot_is_not_written_where_a_recipient_was_accepted(level: str) -> None:
    with SmtpServer() as server:
        # The server answers 451 but keeps the sender, so it accepts the next commands.
        server.on("mail", nth=1, reply="451 4.3.0 later", accept=True)
        transmit(server, [outgoing(1)], pipelining=level)
        assert server.wait_closed() and server.messages == []


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_positive_reply_to_an_unused_data_ends_the_connection(level: str) -> None:
    """250 to DATA makes no sense; the next commands would be read as a body."""
    with SmtpServer(data_without_recipients=True) as server:
        server.refuse("no@example.org")
        server.on("data", nth=1, raw=b"250 2.0.0 ok\r\n")
        _, end = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining=level)
        assert len(server.lines("MAIL")) == 1 and end.error


@pytest.mark.parametrize("level", ["envelope", "full"])
@pytest.mark.parametrize("stage", ["rcpt", "dot"])
def test_server_out_of_step_after_a_refused_envelope_does_not_fail_the_next_message(level: str, stage: str) -> None:
    """354 to a RCPT or to the lone dot: the reply that still comes would be taken for the reply to the next MAIL."""
    with SmtpServer(data_without_recipients=True) as server:
        if stage == "rcpt":
            server.on("mail", nth=1, reply="550 5.7.1 not you", accept=True)
        else:
            server.refuse("no@example.org")
        server.on(stage, nth=1, raw=b"354 what\r\n")
        feed, end = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining=level, timeout=0.3)
        assert feed.outcomes[1].ending is Ending.PERMANENT
        assert (end.reconnect, end.trouble, feed.left) == (True, Trouble.NONE, [2]) and "354" in end.error


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_lone_dot_ends_the_transaction_without_a_reset(level: str) -> None:
    with SmtpServer(data_without_recipients=True) as server:
        server.refuse("no@example.org")
        feed, _ = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining=level)
        assert feed.outcomes[2].ending is Ending.ACCEPTED
        assert server.lines("RSET") == []


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_reply_to_the_lone_dot_may_take_as_long_as_the_reply_to_a_body(level: str) -> None:
    """For the server the dot is the end of a message, and its content filters may run."""
    with SmtpServer(data_without_recipients=True) as server:
        server.refuse("no@example.org")
        rule = server.on("dot", stall=True)
        feed = ListFeed([outgoing(1, "no@example.org"), outgoing(2)])

        async def main(loop: FakeClockLoop) -> None:
            session = await SmtpTransport().open(
                settings_for(server, pipelining=level, timeout=60.0, final_timeout=600.0)
            )
            running = asyncio.ensure_future(session.run(feed))
            assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
            await loop.jump(590)
            assert not running.done()
            server.release(rule)
            await running

        run_on_fake_clock(main)
        assert feed.outcomes[2].ending is Ending.ACCEPTED


@pytest.mark.parametrize("level", ["envelope", "full"])
@pytest.mark.parametrize("stage", ["rcpt", "data", "dot"])
def test_421_to_the_rest_of_a_refused_envelope_ends_the_session(level: str, stage: str) -> None:
    """The server sends 421 and does not close the connection: no further message is started on it."""
    with SmtpServer(data_without_recipients=True) as server:
        if stage == "rcpt":
            server.on("mail", nth=1, reply="550 5.7.1 not you", accept=True)
        else:
            server.refuse("no@example.org")
        server.on(stage, nth=1, raw=b"421 4.3.2 going down\r\n")
        feed, end = transmit(server, [outgoing(1, "no@example.org"), outgoing(2)], pipelining=level)
        assert feed.outcomes[1].ending is Ending.PERMANENT
        assert (end.reconnect, end.trouble, feed.left) == (True, Trouble.NONE, [2])
        assert "421" in end.error and len(server.lines("MAIL")) == 1
