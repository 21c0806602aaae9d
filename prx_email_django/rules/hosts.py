"""What a host is, which may be spoken to in clear text, and where secrets may go.  Pure: no name is resolved."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_NO_HOST = re.compile(r"[\s:/@]")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_host(host: str) -> bool:
    """Whether this can be a host: no URL, no user, no port, nothing unseen (an empty one is judged elsewhere)."""
    return _address(host) is not None or (host.isprintable() and not _NO_HOST.search(host))


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


def check_token_url(url: str) -> None:
    """Raise ``ValueError`` unless ``url`` is https, or http to loopback, without user and fragment."""
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        well_formed = False
    if not well_formed or not url.isascii() or not url.isprintable() or any(one in url for one in " #"):
        raise ValueError("the token address is not a plain URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("the token address must be https (http only to loopback)")


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
