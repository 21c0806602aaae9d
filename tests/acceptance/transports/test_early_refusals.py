"""A refusal in the middle of a body, and other bytes that arrive together with it (TLS: in one record)."""

from __future__ import annotations

import pytest

from prx_email_django.rules.outcomes import Ending
from tests.support.outgoing_messages import outgoing, transmit
from tests.support.smtp_server import SmtpServer

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_500_000


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("more", [b"421 4.3.0 bye\r\n", b"250 2.0.0 ok\r\n", b"noise\r\n"])
def test_refusal_in_the_middle_of_the_body_counts_whatever_arrives_with_it(tls: str | None, more: bytes) -> None:
    with SmtpServer(tls=tls) as server:
        server.on("body", after=100_000, raw=b"552 5.3.4 too much\r\n" + more, times=1)
        feed, _ = transmit(server, [outgoing(body=LARGE)])
        assert (feed.outcomes[1].ending, feed.outcomes[1].smtp_code) == (Ending.PERMANENT, 552), feed.outcomes[1].error
