"""Where the final dot has left and the large envelope behind it has not, the outcome is unknown: no known failure."""

from __future__ import annotations

import asyncio

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.outgoing_messages import ListFeed, outgoing


def test_dot_that_left_before_a_large_envelope_that_did_not_makes_it_unknown() -> None:
    body_received, finished = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.readline()
        writer.write(b"250-hello\r\n250 PIPELINING\r\n")
        for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await reader.readline()
            writer.write(reply)
        await reader.readuntil(b"\r\n.\r\n")
        body_received.set()
        await finished.wait()  # it reads no more: the limit of the stream reader stops the socket
        writer.transport.abort()

    async def main(loop: FakeClockLoop) -> ListFeed:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        recipients = tuple(f"recipient-{number}@example.org" for number in range(200_000))
        feed = ListFeed([outgoing(1), outgoing(2, *recipients)])
        settings = ConnectionSettings(
            "127.0.0.1", server.sockets[0].getsockname()[1], "none", "none", pipelining="full"
        )
        async with server:
            session = await SmtpTransport().open(settings)
            running = asyncio.ensure_future(session.run(feed))
            await body_received.wait()
            await loop.jump(settings.final_timeout + 1)
            await running
            finished.set()
            await asyncio.sleep(0)
        return feed

    feed = run_on_fake_clock(main)
    feed.check()
    assert [feed.outcomes[number].ending for number in (1, 2)] == [Ending.UNKNOWN, Ending.UNTOUCHED]
