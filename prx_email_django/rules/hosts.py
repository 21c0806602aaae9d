"""What a host is, where an account may connect, and where clear text and secrets may go.  No name is resolved here.

The form, ``full_clean``, the settings reader and the connection all ask these functions.  The connection also gives the
address that it has reached, which says more than a name does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from prx_email_django.rules.domains import ascii_domain, ascii_domain_pattern
from prx_email_django.rules.words import Words
from prx_email_django.rules.words import words as _

_Network: TypeAlias = IPv4Network | IPv6Network

_BROADCAST = IPv4Address("255.255.255.255")
#: The zone of an IPv6 address (RFC 4007 §11), as interfaces are named.
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,32}", re.ASCII)
#: The last label of what resolvers read as a number, and therefore as an IPv4 address (whatwg URL, "ends in a number").
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")


def ascii_host(host: str) -> str:
    """The host as DNS and TLS take it: an address, or a name in ASCII without a final dot.

    This is the one rule for the form and for the connection.  An address is written plainly: no brackets, four decimal
    numbers for IPv4 (``inet_aton`` also reads ``127.1`` and ``0x7f000001``), a zone (``%eth0``) only for IPv6.  A
    certificate never has the final dot of a name, so the name is verified without it.

    Raises:
        ValueError: it is no host; the text goes on after "the host is".
    """
    address = _plain_address(host)
    if address is not None:
        if address.is_unspecified or address.is_multicast or address == _BROADCAST:
            raise ValueError("not the address of a server")
        return host
    name = ascii_domain(host.removesuffix("."), lenient=True)
    if _NUMERIC.fullmatch(name.rpartition(".")[2]):
        raise ValueError("neither a name nor an address in its plain form")
    # RFC 1123 §2.1.  A hyphen at the end is as wrong, but private networks have such names.
    if any(label.startswith("-") for label in name.split(".")):
        raise ValueError("not a host name")
    return name


def is_host(host: str) -> bool:
    """Whether this can be a host: no URL, no user, no port, no brackets, nothing invisible."""
    try:
        ascii_host(host)
    except ValueError:
        return False
    return True


def host_allowed(host: str, entries: Iterable[str] | None, *, reached: str | None = None) -> bool:
    """Whether ``ACCOUNT_HOSTS`` (``entries``; None: everything) allows a connection to this host.

    A pattern allows the names that it matches, a network the address that is dialled (``reached``) and the hosts that
    are addresses themselves.  Without ``reached``, a name is allowed if its address could lie in one of the networks.
    """
    if entries is None:
        return True
    address, name = _address(host if reached is None else reached), _canonical_name(host)
    for entry in entries:
        network = _parsed_network(entry)
        if network is None:
            if fnmatchcase(name, entry):
                return True
        elif (reached is None and address is None and name) or (address is not None and address in network):
            return True
    return False


def account_host_entry(entry: str) -> str:
    """An entry of ``ACCOUNT_HOSTS`` in its one form: a network, or a pattern of names (``*.example.com``).

    Raises:
        ValueError: it is neither, or a network with host bits.
    """
    bare = entry.strip()
    if "*" not in bare and "?" not in bare:
        return cleartext_entry(bare)
    pattern = ascii_domain_pattern(bare).removesuffix(".")
    ascii_domain(pattern.replace("*", "a").replace("?", "a"), lenient=True)
    return pattern


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


def cleartext_refusal(host: str) -> Words:
    """Why clear text is refused, with the setting to write; the form and the connection say the same."""
    return _(
        "clear text is not allowed to this host: choose STARTTLS or implicit TLS, or, on a network that you trust, add "
        'the host to the setting: PRX_EMAIL["CLEARTEXT_HOSTS"] = ["%(host)s"]',
        host=host,
    )


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
        well_formed = is_host(parts.hostname or "") and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        well_formed = False
    if not well_formed or not url.isascii() or not url.isprintable() or " " in url or "#" in url:
        raise ValueError(_("the token address is not a plain URL"))
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError(_("the token address must be https (http only to loopback)"))


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _plain_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that the host is, written without brackets; None where it is a name.

    Raises:
        ValueError: an address with a zone that no interface has.
    """
    bare, percent, zone = host.partition("%")
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    if percent and not (isinstance(address, IPv6Address) and _ZONE.fullmatch(zone)):
        raise ValueError("not an address with a zone")
    return address


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
        return ascii_host(host)
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def _parsed_entry(entry: str) -> _Network | str:
    """A network or a name; empty where the entry is neither, so that it allows nothing."""
    try:
        entry = cleartext_entry(entry)
    except ValueError:
        return ""
    return _parsed_network(entry) or entry


@lru_cache(maxsize=256)
def _parsed_network(entry: str) -> _Network | None:
    """The network that an entry is; None: it is a name or a pattern."""
    try:
        return ip_network(entry)
    except ValueError:
        return None
