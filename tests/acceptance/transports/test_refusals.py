"""Refusals that end the session as well as the message."""

from __future__ import annotations

import pytest

from prx_email_django.rules.outcomes import Ending
from tests.support.outgoing_messages import outgoing, transmit
from tests.support.smtp_server import SmtpServer

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_500_000


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("more", [b"421 4.3.0 bye\r\n", b"250 2.0.0 ok\r\n", b"malformed\r\n"])
def test_refusal_in_the_middle_of_the_body_counts_whatever_arrives_with_it(tls: str | None, more: bytes) -> None:
    """With TLS all of it may arrive in one record."""
    with SmtpServer(tls=tls) as server:
        server.on("body", after=100_000, raw=b"552 5.3.4 too much\r\n" + more, times=1)
        feed, _ = transmit(server, [outgoing(body=LARGE)])
        assert (feed.outcomes[1].ending, feed.outcomes[1].smtp_code) == (Ending.PERMANENT, 552), feed.outcomes[1].error


@pytest.mark.parametrize("text", ["550 5.7.1 too many messages in this session", "554 4.4.5 session limit"])
def test_message_stopped_by_a_session_limit_is_reported_once_and_not_sent_afterwards(level: str, text: str) -> None:
    """A reply to RCPT about the session, on a new connection."""
    with SmtpServer() as server:
        server.refuse("trap@example.org", text)
        messages = [outgoing(1, "trap@example.org", "bob@example.org"), outgoing(2)]
        feed, _ = transmit(server, messages, pipelining=level)
        assert server.wait_closed()
        delivered = [message for message in server.messages if "bob@example.org" in message.recipients]
        # A message that was delivered must not be reported as a known failure.
        assert not delivered or feed.outcomes[1].ending in (Ending.ACCEPTED, Ending.UNKNOWN)
