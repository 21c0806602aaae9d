"""Whatever bytes a server sends, the attempt ends in bounded time and memory, classified, with a harmless text."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.base import ConnectError, ConnectionSettings, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, OpenFeed, outgoing, outgoing_messages, settings_for, transmit
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

MALFORMED = [
    b"\x00\xff\xfe\r\n",
    b"hello there\r\n",
    b"999 what\r\n",
    b"099 what\r\n",
    b"25\r\n",
    b"250ok\r\n",
    b"\r\n",
    b"250-first\r\n550 second\r\n",
    b"250 " + b"x" * 10_000 + b"\r\n",
    b"2" * 10_000_000,
    b"250-more\r\n" * 1000,
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_malformed_reply_before_the_body_is_a_known_failure(
    server: SmtpServer, level: str, stage: str, malformed: bytes
) -> None:
    server.on(stage, raw=malformed)
    feed, end = transmit(server, outgoing_messages(2), pipelining=level)
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.phase) == (Ending.TEMPORARY, stage)
    assert (outcome.error_code, outcome.trouble, end.trouble) == ("provider", Trouble.CONNECTION, Trouble.CONNECTION)
    assert len(outcome.error) <= 160 and outcome.error.isprintable()
    assert server.wait_closed() and server.messages == []


@pytest.mark.parametrize("malformed", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_final_reply_is_an_unknown_outcome(server: SmtpServer, level: str, malformed: bytes) -> None:
    server.on("final", raw=malformed)
    feed, end = transmit(server, outgoing_messages(2), pipelining=level)
    assert (feed.outcomes[1].ending, end.trouble) == (Ending.UNKNOWN, Trouble.CONNECTION)
    assert server.wait_closed()


@pytest.mark.parametrize(
    ("stage", "code", "ending"),
    [
        ("mail", 354, Ending.TEMPORARY),
        ("rcpt", 354, Ending.TEMPORARY),
        ("data", 250, Ending.TEMPORARY),
        ("final", 354, Ending.UNKNOWN),
    ],
)
def test_reply_of_the_wrong_kind_ends_the_connection(
    server: SmtpServer, level: str, stage: str, code: int, ending: Ending
) -> None:
    server.on(stage, raw=b"%d what\r\n" % code)
    feed, end = transmit(server, outgoing_messages(2), pipelining=level)
    if level == "off" or stage == "final":
        assert (feed.outcomes[1].ending, end.trouble) == (ending, Trouble.CONNECTION)
    else:  # the server may have answered two commands by one reply
        assert (feed.outcomes[1].ending, end.trouble) == (Ending.UNTOUCHED, Trouble.NONE)
        assert end.broken is Ahead.ENVELOPE
    assert server.wait_closed()


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_reply_before_its_command_delivers_nothing(server: SmtpServer, stage: str) -> None:
    """Read as the final reply, it would report a message as sent whose body never left."""
    answer = b"354 go ahead\r\n" if stage == "data" else b"250 ok\r\n"
    server.on(stage, raw=answer + b"250 2.0.0 queued\r\n" * 3)
    feed, end = transmit(server, outgoing_messages(2), pipelining="off")
    assert (feed.outcomes[1].ending, feed.outcomes[1].trouble) == (Ending.TEMPORARY, Trouble.CONNECTION)
    assert "without a command" in feed.outcomes[1].error and server.messages == []


def test_message_accepted_together_with_malformed_bytes_stays_accepted(server: SmtpServer, level: str) -> None:
    """Else the message would be sent twice."""
    server.on("final", raw=b"250 2.0.0 queued\r\n250 and more\r\nmalformed\r\n", accept=True)
    feed, end = transmit(server, [outgoing()], pipelining=level)
    assert feed.outcomes[1].ending is Ending.ACCEPTED and len(server.messages) == 1
    assert (end.trouble, end.reconnect, end.error_code) == (Trouble.NONE, True, "provider")


def test_reply_before_the_end_of_a_large_body_is_not_read_as_its_final_250(server: SmtpServer) -> None:
    server.on("body", after=100_000, raw=b"250 2.0.0 queued\r\n", times=1)
    feed, _ = transmit(server, [outgoing(body=b"x" * 78 + b"\r\n" * 10_000_000)])
    assert feed.outcomes[1].ending is Ending.TEMPORARY and server.messages == []


def test_unexpected_reply_while_idle_ends_the_session_and_harms_nothing(server: SmtpServer) -> None:
    feed = OpenFeed(outgoing_messages(1))

    async def main() -> SessionEnd:
        session = await SmtpTransport().open(settings_for(server))
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        server.say(b"250 unasked\r\n")
        return await asyncio.wait_for(running, PATIENCE)

    end = asyncio.run(main())
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    assert (end.reconnect, end.error_code) == (True, "provider")


def test_reply_that_arrives_byte_by_byte_is_read(server: SmtpServer) -> None:
    """Each byte in a segment of its own."""
    reply = b"250-first\r\n250 2.1.0 ok\r\n"

    async def main() -> bool:
        session = await SmtpTransport().open(settings_for(server, pipelining="off"))
        rule = server.on("mail", stall=True)
        feed = OpenFeed([outgoing()])
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        for position in range(len(reply)):
            server.say(reply[position : position + 1])
            await asyncio.sleep(0)
        rule.raw = b""
        server.release(rule)
        await asyncio.wait({running, asyncio.ensure_future(feed.idle.wait())}, return_when=asyncio.FIRST_COMPLETED)
        feed.close()
        await running
        # This server has not executed MAIL and answered RCPT by 503: so the reply to MAIL was read as one reply.
        return feed.outcomes[1].phase == "rcpt"

    assert asyncio.run(main())


LONG = (b"550-5.1.1 " + b"x" * 8000 + b"\r\n") * 99 + b"550 5.1.1 no\r\n"
RECIPIENTS = 40


def test_long_answers_to_many_recipients_are_not_kept() -> None:
    """The length of a server's replies must not decide how much memory a session needs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.readline()
        writer.write(b"250-hello\r\n250 PIPELINING\r\n")
        while line := await reader.readline():
            writer.write(
                LONG if line.startswith(b"RCPT") else b"503 no\r\n" if line.startswith(b"DATA") else b"250 ok\r\n"
            )
            await writer.drain()
        writer.close()

    async def main() -> ListFeed:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        feed = ListFeed([outgoing(1, *(f"r{number}@example.org" for number in range(RECIPIENTS)))])
        settings = ConnectionSettings(
            "127.0.0.1", server.sockets[0].getsockname()[1], "none", "none", pipelining="envelope"
        )
        async with server:
            session = await SmtpTransport().open(settings)
            await session.run(feed)
        return feed

    tracemalloc.start()
    try:
        feed = asyncio.run(main())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert feed.outcomes[1].ending is Ending.PERMANENT
    assert peak < 10_000_000, f"{peak / 1e6:.0f} MB for the replies to {RECIPIENTS} recipients"


# Until the authentication aiosmtplib reads.  It reads "250ok" as 250, and of several codes the last one: both are
# harmless there.
MALFORMED_AT_OPENING = [
    *(malformed for malformed in MALFORMED if malformed[:3] != b"250" or len(malformed) > 1000),
    b"220-hello\r\n" * 100_000,
]


@pytest.mark.parametrize("malformed", MALFORMED_AT_OPENING, ids=range(len(MALFORMED_AT_OPENING)))
@pytest.mark.parametrize("stage", ["greeting", "ehlo"])
def test_malformed_reply_while_opening_is_bounded_in_memory(server: SmtpServer, stage: str, malformed: bytes) -> None:
    server.on(stage, raw=malformed)
    tracemalloc.start()
    try:
        with pytest.raises(ConnectError) as failed:
            transmit(server, [outgoing()], timeout=0.5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failed.value.trouble is Trouble.CONNECTION
    assert len(str(failed.value)) <= 160 and str(failed.value).isprintable()
    # The server of this test runs in the same process and holds what the socket does not take.
    assert peak < 25_000_000
    assert server.wait_closed()
