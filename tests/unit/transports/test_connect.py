"""Sockets, host names and TLS contexts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prx_email_django.transports.smtp.connect import (
    cleartext_allowed,
    connect,
    is_loopback,
    local_name,
    peer_name,
)
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        yield client


@pytest.mark.parametrize(
    ("allowed", "host", "expected"),
    [
        ((), "127.0.0.1", False),
        (("127.0.0.0/8",), "anything", True),
        (("127.0.0.1",), "anything", True),
        (("Relay.Example",), "relay.example", True),
        (("relay.example",), "mail.relay.example", False),
        (("10.0.0.0/8", "not a network", "::1"), "127.0.0.1", False),
    ],
)
def test_clear_text_is_allowed_by_name_or_by_the_address_reached(
    connected: socket.socket, allowed: tuple[str, ...], host: str, *, expected: bool
) -> None:
    assert cleartext_allowed(connected, host, allowed) is expected


def test_loopback_is_recognised_by_its_address(connected: socket.socket) -> None:
    assert is_loopback(connected)
    assert peer_name(connected) == f"127.0.0.1:{connected.getpeername()[1]}"


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("web1.example.org", "web1.example.org"),
        ("web1", "[127.0.0.1]"),
        ("b\xf6.example", "[127.0.0.1]"),
        ("a..b", "[127.0.0.1]"),
    ],
)
def test_ehlo_name_needs_no_dns_and_is_always_valid(
    connected: socket.socket, monkeypatch: pytest.MonkeyPatch, hostname: str, expected: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert local_name(connected) == expected


def test_ipv6_addresses_are_written_as_literals() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()[:2]) as client:
            assert peer_name(client) == f"[::1]:{client.getpeername()[1]}"
            assert local_name(client) in {"[IPv6:::1]", socket.gethostname()}
            assert is_loopback(client)


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that answers no SYN, as behind a dead route: its queue of connections is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()


@pytest.mark.parametrize("dead", ["refused", "silent"])
def test_dead_first_address_does_not_prevent_the_use_of_another(
    monkeypatch: pytest.MonkeyPatch, silent: tuple[str, int], dead: str
) -> None:
    """A host with a dead IPv6 and a working IPv4 address must be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [("127.0.0.1", 1) if dead == "refused" else silent, server.getsockname()]

        async def main(loop: FakeClockLoop) -> str:
            async def getaddrinfo(*_args: object, **_options: object) -> list[object]:
                return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

            monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
            connecting = asyncio.ensure_future(connect("mail.example.org", 25, timeout=60.0))
            await loop.jump(0)
            await loop.jump(10)
            with await connecting as sock:
                return peer_name(sock)

        assert run_on_fake_clock(main) == f"127.0.0.1:{addresses[1][1]}"
