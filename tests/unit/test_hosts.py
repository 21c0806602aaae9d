"""Hosts: the form and the connection give the same answer about clear text."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from prx_email_django.conf import kinds
from prx_email_django.rules import hosts
from prx_email_django.transports.smtp import connect


class Peer:
    """A connected socket, as far as its remote address is asked for."""

    def __init__(self, address: str) -> None:
        self.address = address

    def getpeername(self) -> tuple[str, int]:
        return self.address, 25


def connected_to(address: str) -> socket.socket:
    return cast(socket.socket, Peer(address))


#: Host as typed, address that it has, an entry of CLEARTEXT_HOSTS, and whether clear text is allowed.
CLEARTEXT = [
    ("relay.internal", "10.0.0.5", "relay.internal", True),
    ("relay.internal.", "10.0.0.5", "relay.internal", True),
    ("relay.internal", "10.0.0.5", "Relay.Internal.", True),
    ("RELAY.internal", "10.0.0.5", "relay.internal", True),
    ("mail.relay.internal", "10.0.0.5", "relay.internal", False),
    ("relay_1.internal", "10.0.0.5", "RELAY_1.internal", True),
    ("STRASSE.example", "10.0.0.5", "stra\u00dfe.example", False),
    ("stra\u00dfe.example", "10.0.0.5", "STRA\u1e9eE.example", True),
    ("xn--strae-oqa.example", "10.0.0.5", "stra\u00dfe.example", True),
    ("relay\u3002internal", "10.0.0.5", "relay.internal", True),
    ("10.0.0.5", "10.0.0.5", "10.0.0.0/8", True),
    ("11.0.0.5", "11.0.0.5", "10.0.0.0/8", False),
    ("10.0.0.5", "10.0.0.5", "10.0.0.5", True),
    ("[10.0.0.5]", "10.0.0.5", "10.0.0.5", True),
    ("::ffff:10.0.0.5", "::ffff:10.0.0.5", "10.0.0.0/8", True),
    ("10.0.0.5", "10.0.0.5", "::ffff:10.0.0.0/104", True),
    ("10.0.0.5", "::ffff:10.0.0.5", "10.0.0.5", True),
    ("fd00::5", "fd00::5", "fd00::/8", True),
    ("[fd00::5]", "fd00::5", "[fd00::5]", True),
    ("FD00:0::5", "fd00::5", "fd00::5", True),
    ("fe80::1%eth0", "fe80::1%eth0", "fe80::/10", True),
    ("fe80::1%eth0", "fe80::1%eth0", "fe80::1", True),
    ("localhost.", "127.0.0.1", "relay.internal", True),
    ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "relay.internal", True),
]


@pytest.mark.parametrize(("host", "address", "entry", "expected"), CLEARTEXT)
def test_form_and_connection_allow_clear_text_to_the_same_hosts(
    host: str, address: str, entry: str, *, expected: bool
) -> None:
    entries = cast("tuple[str, ...]", kinds.HOSTS.read([entry]))
    assert hosts.cleartext_allowed(host, entries) is expected
    assert connect.cleartext_allowed(connected_to(address), host, entries) is expected


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST.", "::1", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("[::1]", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.5", "::ffff:10.0.0.5", False),
        ("10.0.0.5", "10.0.0.5", False),
        ("localhost.example", "10.0.0.5", False),
    ],
)
def test_form_and_connection_know_the_same_hosts_as_loopback(host: str, address: str, *, expected: bool) -> None:
    assert hosts.is_loopback(host) is expected
    assert connect.is_loopback(connected_to(address)) is expected


def test_a_name_is_judged_by_the_address_that_was_reached() -> None:
    """``localhost`` in a changed hosts file must not get credentials in clear text."""
    assert not connect.is_loopback(connected_to("10.0.0.5"))
    assert connect.cleartext_allowed(connected_to("10.0.0.5"), "anything.example", ("10.0.0.0/8",))


def test_an_entry_that_nobody_can_read_allows_nothing() -> None:
    assert not hosts.cleartext_allowed("10.0.0.5", ("not a network", "10.0.0.0/99", ""))
    assert not hosts.cleartext_allowed("", ("", "localhost"))


@pytest.mark.parametrize("host", ["a b", "a\u00adb c", "x\r\ny", "host:25", "http://host", "me@host", "a..b", "a" * 64])
def test_what_can_be_no_host_is_refused(host: str) -> None:
    assert not hosts.is_host(host)


@pytest.mark.parametrize("host", ["localhost", "relay_1.internal.", "fa\u00df.example", "::1", "[::1]", "fe80::1%eth0"])
def test_what_can_be_a_host_is_accepted(host: str) -> None:
    assert hosts.is_host(host)
