"""The lone dot after a DATA written in vain is never an empty message."""

from __future__ import annotations

import pytest

from tests.support.parcels import parcel, transmit
from tests.support.smtp_server import SmtpServer


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_lone_dot_is_not_said_where_a_recipient_was_taken(level: str) -> None:
    with SmtpServer() as server:
        # 451 is said, yet the sender is noted: the next commands are taken.
        server.on("mail", nth=1, reply="451 4.3.0 later", accept=True)
        transmit(server, [parcel(1)], pipelining=level)
        assert server.wait_closed() and server.messages == []


@pytest.mark.parametrize("level", ["envelope", "full"])
def test_positive_reply_to_a_data_written_in_vain_ends_the_connection(level: str) -> None:
    """250 to DATA makes no sense; what follows would be read as a body."""
    with SmtpServer(data_without_recipients=True) as server:
        server.refuse("no@example.org")
        server.on("data", nth=1, raw=b"250 2.0.0 ok\r\n")
        _, end = transmit(server, [parcel(1, "no@example.org"), parcel(2)], pipelining=level, timeout=0.3)
        assert len(server.lines("MAIL")) == 1 and end.error
