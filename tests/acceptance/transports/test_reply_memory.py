"""The length of a server's replies does not decide how much memory a session needs."""

from __future__ import annotations

import asyncio
import tracemalloc

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import ConnectionSettings
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import ListFeed, outgoing

LONG = (b"550-5.1.1 " + b"x" * 8000 + b"\r\n") * 99 + b"550 5.1.1 no\r\n"
RECIPIENTS = 200


def test_long_answers_to_many_recipients_are_not_kept() -> None:
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
