"""The memory and console transports: what the tests of a host project rely on."""

from __future__ import annotations

import asyncio
import io

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.console import ConsoleTransport
from prx_email_django.transports.memory import MemoryTransport
from tests.support.outgoing_messages import ListFeed, outgoing, outgoing_messages, run_session

SETTINGS = ConnectionSettings("localhost", 25, "none", "none")


def run(transport: MemoryTransport | ConsoleTransport, feed: ListFeed) -> ListFeed:
    asyncio.run(run_session(transport, SETTINGS, feed))
    return feed


def test_delivered_message_can_be_read() -> None:
    transport = MemoryTransport()
    run(transport, ListFeed([outgoing(1, "bob@example.org")]))
    (delivered,) = transport.delivered
    assert (delivered.message["Subject"], delivered.message.get_content()) == ("hello", "Hello, Bob.\r\n")
    assert (delivered.sender, delivered.recipients, delivered.connection) == (
        "ann@example.org",
        ("bob@example.org",),
        1,
    )
    assert transport.opened == [SETTINGS]


def test_failures_come_in_the_order_in_which_they_were_asked_for() -> None:
    transport = MemoryTransport()
    transport.fail_next("mail", "451 4.3.0 later", times=2)
    transport.fail_next("body", "554 5.6.0 no")
    feed = run(transport, ListFeed(outgoing_messages(4)))
    assert [outcome.smtp_code for outcome in feed.outcomes.values()] == [451, 451, 554, 250]


def test_timeout_of_the_final_reply_is_unknown() -> None:
    transport = MemoryTransport()
    transport.fail_next("body", timeout=True, accept=True)
    feed = run(transport, ListFeed(outgoing_messages(1)))
    assert feed.outcomes[1].ending is Ending.UNKNOWN and len(transport.delivered) == 1


def test_timeout_of_the_opening() -> None:
    transport = MemoryTransport()
    transport.fail_next("auth", timeout=True)
    with pytest.raises(ConnectError) as failed:
        run(transport, ListFeed([]))
    assert (failed.value.error_code, failed.value.smtp_code) == ("timeout", 0)


def test_reset_removes_everything() -> None:
    transport = MemoryTransport(size_limit=1)
    transport.refuse("bob@example.org")
    transport.fail_next("connect")
    transport.reset()
    run(transport, ListFeed([outgoing()]))
    assert len(transport.delivered) == 1
    transport.reset()
    assert (transport.delivered, transport.opened) == ([], [])


@pytest.mark.parametrize("reply", ["hello", "250-a", "250 a\r\n250 b"])
def test_text_that_is_not_a_reply_is_refused_at_once(reply: str) -> None:
    with pytest.raises(ValueError, match="reply"):
        MemoryTransport().fail_next("mail", reply)


def test_unknown_phase_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="bodyy"):
        MemoryTransport().fail_next("bodyy")


def test_console_prints_envelope_and_message() -> None:
    stream = io.StringIO()
    run(ConsoleTransport(stream), ListFeed([outgoing(1, "bob@example.org", "eve@example.org")]))
    assert stream.getvalue().startswith(
        "MAIL FROM:<ann@example.org> RCPT TO:<bob@example.org>, <eve@example.org>\nSubject"
    )


def test_console_prints_to_the_current_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    run(ConsoleTransport(), ListFeed([outgoing()]))
    assert "Hello, Bob." in capsys.readouterr().out
