"""What a host is, and which may be spoken to in clear text.  Pure: no name is resolved."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_NO_HOST = re.compile(r"[\s:/@]")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_host(host: str) -> bool:
    """Whether this can be a host: no URL, no user and no port beside it (an empty one is judged elsewhere)."""
    return _address(host) is not None or not _NO_HOST.search(host)


def is_loopback(host: str) -> bool:
    """``localhost`` or a loopback address: the only place where credentials may travel in clear text."""
    address = _address(host)
    return address.is_loopback if address else host.rstrip(".").lower() == "localhost"


def cleartext_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether ``host`` is one of the names, or lies in one of the networks, of ``CLEARTEXT_HOSTS``."""
    address = _address(host)
    for entry in allowed:
        if entry.rstrip(".").lower() == host.rstrip(".").lower():
            return True
        if address is not None and _in_network(address, entry):
            return True
    return False


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
