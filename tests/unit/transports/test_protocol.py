"""The protocol on a socket pair: what ends the connection, how long a reply is waited for, and flow control."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from prx_email_django.transports.smtp.protocol import ConnectionLost, SmtpProtocol
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock


@asynccontextmanager
async def connected(*, timeout: float = 60.0) -> AsyncIterator[tuple[SmtpProtocol, socket.socket]]:
    """A protocol and the socket at its other end."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    protocol = SmtpProtocol(transport, timeout=timeout)
    transport.set_protocol(protocol)
    try:
        yield protocol, theirs
    finally:
        theirs.close()
        protocol.abort()
        await protocol.closed


def test_write_that_the_system_refuses_at_once_raises() -> None:
    """Reported later, the end of a body that never left would count as sent."""

    async def main() -> None:
        async with connected() as (protocol, theirs):
            theirs.close()
            with pytest.raises(ConnectionLost) as lost:
                protocol.write(b"NOOP\r\n", 1)
            assert lost.value.loss.closed_by_server and protocol.ended.done()

    asyncio.run(main())


def test_replies_read_before_the_end_are_not_lost() -> None:
    async def main() -> None:
        async with connected() as (protocol, theirs):
            protocol.write(b"a\r\nb\r\nc\r\n", 3)
            theirs.sendall(b"250 a\r\n250 b\r\n")
            theirs.close()
            assert [(await protocol.reply()).text for _ in range(2)] == ["a", "b"]
            with pytest.raises(ConnectionLost):
                await protocol.reply()
            with pytest.raises(ConnectionLost):
                protocol.write(b"d\r\n", 1)

    asyncio.run(main())


def test_nothing_is_read_after_a_malformed_reply() -> None:
    async def main() -> None:
        async with connected() as (protocol, theirs):
            protocol.write(b"a\r\nb\r\n", 2)
            theirs.sendall(b"250 a\r\nwhat?\r\n250 b\r\n")
            assert (await protocol.reply()).text == "a"
            with pytest.raises(ConnectionLost, match="not an SMTP reply"):
                await protocol.reply()
            theirs.sendall(b"250 b\r\n")
            with pytest.raises(ConnectionLost, match="not an SMTP reply"):
                await protocol.reply()

    asyncio.run(main())


def test_idle_time_is_no_timeout() -> None:
    async def main(loop: FakeClockLoop) -> None:
        async with connected(timeout=60) as (protocol, theirs):
            protocol.write(b"a\r\n", 1)
            waiting = asyncio.ensure_future(protocol.reply())
            await loop.jump(10)
            theirs.sendall(b"250 a\r\n")
            await waiting
            await loop.jump(100)
            assert protocol.lost is None

    run_on_fake_clock(main)


def test_each_reply_has_its_own_deadline_later_or_earlier() -> None:
    async def main(loop: FakeClockLoop) -> None:
        async with connected(timeout=60) as (protocol, theirs):
            protocol.write(b"a\r\nb\r\nc\r\n", 3)
            theirs.sendall(b"250 a\r\n")
            await protocol.reply()
            later = asyncio.ensure_future(protocol.reply(loop.time() + 300))
            await loop.jump(299)
            theirs.sendall(b"250 b\r\n")
            await later
            earlier = asyncio.ensure_future(protocol.reply(loop.time() + 5))
            await loop.jump(4.9)
            assert not earlier.done()
            await loop.jump(0.2)
            with pytest.raises(ConnectionLost, match="in time"):
                earlier.result()

    run_on_fake_clock(main)


def test_slow_but_steady_replies_outlast_one_timeout() -> None:
    async def main(loop: FakeClockLoop) -> None:
        async with connected(timeout=60) as (protocol, theirs):
            protocol.write(b"x\r\n" * 5, 5)
            for _ in range(5):
                waiting = asyncio.ensure_future(protocol.reply())
                await loop.jump(40)
                assert not waiting.done()
                theirs.sendall(b"250 x\r\n")
                await waiting

    run_on_fake_clock(main)


def test_writer_that_is_faster_than_the_peer_waits() -> None:
    async def main(loop: FakeClockLoop) -> None:
        async with connected() as (protocol, theirs):
            theirs.setblocking(False)
            for _ in range(50):
                protocol.write(b"x" * 65536, 0)
                waiting = asyncio.ensure_future(protocol.wait_until_writable(loop.time() + 5))
                await loop.jump(0)
                if not waiting.done():
                    break
            assert not waiting.done()
            assert 0 < protocol.unsent_bytes() < 4 * 65536
            while not waiting.done():
                await loop.sock_recv(theirs, 65536)
            assert waiting.exception() is None

    run_on_fake_clock(main)


def test_what_we_have_dropped_has_not_left() -> None:
    """Only the task of the session asks for it, in a later turn; a message that must not be sent twice would rest."""

    async def main() -> None:
        async with connected() as (protocol, _):
            protocol.write(b"x" * 1000, 0)
            left = protocol.written
            protocol.write(b"x" * 10_000_000, 0)
            before = protocol.unsent_bytes()
            protocol.abort()
            await protocol.closed
            assert protocol.unsent_bytes() == before > 0
            assert protocol.may_have_left(left) and not protocol.may_have_left(protocol.written)
            protocol.abort()
            assert not protocol.may_have_left(protocol.written)

    asyncio.run(main())


def test_other_tasks_run_between_two_chunks_that_the_network_takes_at_once() -> None:
    async def main() -> list[str]:
        turns: list[str] = []
        async with connected() as (protocol, _):
            asyncio.get_running_loop().call_soon(turns.append, "another connection")
            protocol.write(b"x", 0)
            await protocol.wait_until_writable(asyncio.get_running_loop().time() + 5)
            return list(turns)

    assert asyncio.run(main()) == ["another connection"]


def test_unexpected_421_closes_and_any_other_unexpected_reply_is_an_error() -> None:
    async def main(data: bytes) -> tuple[str, bool]:
        async with connected() as (protocol, theirs):
            theirs.sendall(data)
            await asyncio.wait_for(asyncio.shield(protocol.ended), 60)
            assert protocol.lost is not None
            return protocol.lost.loss.text, protocol.lost.loss.closed_by_server

    assert asyncio.run(main(b"421 4.4.2 idle\r\n")) == ("421 4.4.2 idle", True)
    assert asyncio.run(main(b"250 ok\r\n")) == ("a reply without a command: 250 ok", False)
