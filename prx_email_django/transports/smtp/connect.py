"""Sockets and host names of SMTP connections, and the check of clear text."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any

from prx_email_django.rules import hosts

#: Seconds for each address but the last: a dead IPv6 route must not use up the time of a working IPv4 address.
_ONE_ADDRESS = 10.0
#: What the system says about an address of a kind that this machine does not have.
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})+")


#: Bytes that tell a protocol.
_ENOUGH = 80


class RememberingSocket(socket.socket):
    """Keeps the first bytes that come.  OpenSSL says that a server does not begin with TLS, and not what it sent."""

    first: bytes = b""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive as any socket does; asyncio's loops in Python call this with TLS, and ``recv`` without."""
        received = super().recv_into(buffer, nbytes, flags)
        if len(self.first) < _ENOUGH:
            self.first += bytes(memoryview(buffer)[: min(received, _ENOUGH)])
        return received


class HostNotAllowed(Exception):
    """``ACCOUNT_HOSTS`` allows none of the addresses that the host has."""


async def connect(
    host: str,
    port: int,
    *,
    timeout: float,
    allowed: tuple[str, ...] | None = None,
    resolved: Callable[[list[str]], None] = lambda addresses: None,
) -> RememberingSocket:
    """Resolve the name once, try its addresses in order, and return a connected, non-blocking socket.

    Only addresses that ``allowed`` (``ACCOUNT_HOSTS``) admits are dialled; ``resolved`` is told which these are.

    Raises:
        HostNotAllowed: there is no such address.
        OSError: the name is unknown, or no address could be reached (then the error of the first to which this machine
            has a route, else of the last one); this includes ``TimeoutError``.
        ValueError: ``host`` cannot be a name.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        found = _numeric(host, port) or await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [entry for entry in found if hosts.host_allowed(host, allowed, reached=str(entry[4][0]))]
        if not addresses:
            raise HostNotAllowed
        resolved([str(entry[4][0]) for entry in addresses])
        failures: list[OSError] = []
        for number, (family, kind, protocol, _, address) in enumerate(addresses, start=1):
            seconds = None if number == len(addresses) else min(_ONE_ADDRESS, timeout / len(addresses))
            try:
                async with asyncio.timeout(seconds):
                    return await _connect(family, kind, protocol, address)
            except OSError as error:
                failures.append(error)
        # A machine without IPv6 has no route to the server's second address: the first one's failure says more.
        raise next((failure for failure in failures if failure.errno not in _NO_ROUTE), failures[-1])


def _numeric(host: str, port: int) -> list[Any]:
    """What ``getaddrinfo`` says to an IP address, which needs no thread; nothing where a name must be looked up."""
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except OSError:
        return []


async def _connect(
    family: int, kind: int, protocol: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> RememberingSocket:
    sock = RememberingSocket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_name(sock: socket.socket) -> str:
    """Return the other end of the connection: ``192.0.2.1:587`` or ``[2001:db8::1]:587``."""
    return host_and_port(*sock.getpeername()[:2])


def host_and_port(host: str, port: int) -> str:
    """Return a host name or address with its port; an IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_name(sock: socket.socket) -> str:
    """Return the name for EHLO without DNS: the host name if it has a domain, else the address (RFC 5321 §4.1.3)."""
    name = socket.gethostname()
    if _DOMAIN.fullmatch(name):
        return name
    host = str(sock.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


# Clear text


def is_loopback(sock: socket.socket) -> bool:
    """Whether the connection has reached this machine, see ``rules.hosts``."""
    address = str(sock.getpeername()[0])
    return hosts.is_loopback(address, reached=address)


def cleartext_allowed(sock: socket.socket, host: str, entries: Iterable[str]) -> bool:
    """Whether clear text is allowed to the host under the address that the connection has reached."""
    return hosts.cleartext_allowed(host, entries, reached=str(sock.getpeername()[0]))
