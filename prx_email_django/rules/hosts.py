"""What a host is, to which host clear text may be written, and where secrets may go.  No name is resolved here.

The form, ``full_clean``, the settings reader and the connection all ask these functions.  The connection also gives the
address that it has reached, which says more than a name does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from prx_email_django.rules.domains import ascii_domain

_Network: TypeAlias = IPv4Network | IPv6Network


def ascii_host(host: str) -> str:
    """The host as DNS and TLS take it: an address without brackets, or a name in ASCII; a final dot is kept.

    Raises:
        ValueError: it is neither.
    """
    if _address(host) is not None:
        return _without_brackets(host)
    name = host.removesuffix(".")
    return ascii_domain(name, lenient=True) + host[len(name) :]


def is_host(host: str) -> bool:
    """Whether this can be a host: no URL, no user, no port, nothing invisible."""
    try:
        ascii_host(host)
    except ValueError:
        return False
    return host.isprintable()


def is_loopback(host: str, *, reached: str | None = None) -> bool:
    """Whether the host is this machine, the only one to which credentials may travel in clear text.

    With ``reached``, the address that the connection has reached, the name says nothing.
    """
    address = _address(host if reached is None else reached)
    return address.is_loopback if address is not None else _canonical_name(host) == "localhost"


def cleartext_allowed(host: str, entries: Iterable[str], *, reached: str | None = None) -> bool:
    """Whether ``CLEARTEXT_HOSTS`` (``entries``) names the host, or has a network that it lies in.

    The host lies where ``reached`` does, the address that the connection has reached, or where it is an address itself.
    """
    address, name = _address(host if reached is None else reached), _canonical_name(host)
    parsed = [_parsed_entry(entry) for entry in entries]
    if name and name in parsed:
        return True
    return address is not None and any(address in network for network in parsed if not isinstance(network, str))


def cleartext_entry(entry: str) -> str:
    """An entry of ``CLEARTEXT_HOSTS`` in its one form: a network, or a name in ASCII without a final dot.

    Raises:
        ValueError: it is neither, or a network with host bits.
    """
    bare = _without_brackets(entry.strip())
    try:
        return str(_without_mapping(ip_network(bare)))
    except ValueError:
        if bare.replace(".", "").isdigit():  # a slip in an address, not a name
            raise
        return ascii_domain(bare.removesuffix("."), lenient=True)


def check_token_url(url: str) -> None:
    """Raise ``ValueError`` unless ``url`` is https, or http to loopback, without user and fragment."""
    try:
        parts = urlsplit(url)
        well_formed = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        well_formed = False
    if not well_formed or not url.isascii() or not url.isprintable() or " " in url or "#" in url:
        raise ValueError("the token address is not a plain URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("the token address must be https (http only to loopback)")


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The host as an address without its zone (``%eth0``); an IPv4-mapped one is the IPv4 address that it means."""
    try:
        address = ip_address(_without_brackets(host).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _without_mapping(network: _Network) -> _Network:
    """The network itself, or the IPv4 network that an IPv4-mapped one (``::ffff:10.0.0.0/104``) means."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def _canonical_name(host: str) -> str:
    """The name in ASCII without a final dot; empty where it is no host."""
    try:
        return ascii_host(host).removesuffix(".")
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def _parsed_entry(entry: str) -> _Network | str:
    """A network or a name; empty where the entry is neither, so that it allows nothing."""
    try:
        entry = cleartext_entry(entry)
    except ValueError:
        return ""
    try:
        return ip_network(entry)
    except ValueError:
        return entry
