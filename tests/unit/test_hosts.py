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


#: The resolver may read some of these, and TLS or the check of clear text something else.
NO_HOSTS = [
    *("[::1]", "[10.0.0.5]", "*.example", "a,b", ".", "..", "a..", "smtp.example.com/x", "smtp.example.com:", "a\x00b"),
    *("127.1", "127.0.0.01", "2130706433", "0x7f.0.0.1", "0x7f000001", "0177.0.0.1", "10.0.0.5.", "1.2.3.4.5", "a.0x"),
    *(
        "10.0.0.5%eth0",
        "fe80::1%",
        "fe80::1%a b",
        "fe80::1%x\n",
        "\uff11\uff12\uff17.0.0.1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ),
    *("255.255.255.255", "10.0.0.5/32", "ssh://a", "a\u2028b", "a\x7f"),
]


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a\u00adb c",
        "x\r\ny",
        "host:25",
        "http://host",
        "me@host",
        "a..b",
        "-a.example",
        "a" * 64,
        *NO_HOSTS,
    ],
)
def test_what_can_be_no_host_is_refused(host: str) -> None:
    assert not hosts.is_host(host)


@pytest.mark.parametrize(
    "host", ["localhost", "relay_1.internal.", "fa\u00df.example", "::1", "fe80::1%eth0", "1.example"]
)
def test_what_can_be_a_host_is_accepted(host: str) -> None:
    assert hosts.is_host(host)


def test_a_final_dot_is_not_part_of_the_name_that_tls_verifies() -> None:
    assert hosts.ascii_host("SMTP.example.com.") == "smtp.example.com"


#: Entries of ACCOUNT_HOSTS, host, address that is dialled, and what form and connection say.
ACCOUNT_HOSTS = [
    (None, "any.example", "10.0.0.5", True, True),
    ([], "any.example", "203.0.113.5", False, False),
    (["*.example.com"], "smtp.example.com", "203.0.113.5", True, True),
    (["*.example.com"], "SMTP.EXAMPLE.COM.", "203.0.113.5", True, True),
    (["*.example.com"], "example.com", "203.0.113.5", False, False),
    (["*.example.com"], "smtp.example.com.evil.example", "203.0.113.5", False, False),
    (["*.Stra\u00dfe.example"], "mx.xn--strae-oqa.example", "203.0.113.5", True, True),
    (["smtp.example.com"], "203.0.113.5", "203.0.113.5", False, False),
    (["203.0.113.0/24"], "smtp.example.com", "203.0.113.5", True, True),
    (["203.0.113.0/24"], "smtp.example.com", "10.0.0.5", True, False),
    (["203.0.113.0/24"], "10.0.0.5", "10.0.0.5", False, False),
    (["203.0.113.0/24"], "203.0.113.5", "203.0.113.5", True, True),
    (["203.0.113.0/24"], "::ffff:203.0.113.5", "::ffff:203.0.113.5", True, True),
    (["203.0.113.0/24"], "smtp.example.com", "::ffff:10.0.0.5", True, False),
    (["2001:db8::/32", "*.example.org"], "smtp.example.com", "2001:db8::5", True, True),
    (["10.0.0.5"], "10.0.0.5", "10.0.0.5", True, True),
]


@pytest.mark.parametrize(("entries", "host", "dialled", "in_form", "at_connection"), ACCOUNT_HOSTS)
def test_a_host_that_the_operator_did_not_allow_is_not_dialled(
    entries: list[str] | None, host: str, dialled: str, *, in_form: bool, at_connection: bool
) -> None:
    read = cast("tuple[str, ...] | None", kinds.ACCOUNT_HOSTS.read(entries))
    assert hosts.host_allowed(host, read) is in_form
    assert hosts.host_allowed(host, read, reached=dialled) is at_connection


@pytest.mark.parametrize("entry", ["10.0.0.5/8", "127.1", "a b", "", "http://x", "*.*:25", "stra\u00df*.example", "[*"])
def test_an_entry_of_account_hosts_that_nobody_can_read_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="must hold names"):
        kinds.ACCOUNT_HOSTS.read([entry])
