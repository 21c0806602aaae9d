"""A domain has one form in ASCII, so that mail and passwords go to the domain that was typed."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import idna
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.conf import OutboxSettings, outbox_settings
from prx_email_django.django_mail.envelope import envelope_address
from prx_email_django.django_mail.source import render_email
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.rules.domains import ascii_domain
from prx_email_django.rules.hosts import is_host
from prx_email_django.rules.redirect import route
from prx_email_django.transports.base import ConnectError, ConnectionSettings
from prx_email_django.transports.smtp import connection
from prx_email_django.transports.smtp.commands import UnsupportedMessage, path

#: As typed, in ASCII.  IDNA 2003 would make ``strasse.example`` of the first, which is somebody else's.
DOMAINS = [
    ("stra\u00dfe.example", "xn--strae-oqa.example"),
    ("STRA\u1e9eE.example", "xn--strae-oqa.example"),
    ("\u03c2.example", "xn--3xa.example"),
    ("b\u00fccher.example", "xn--bcher-kva.example"),
    ("B\u00dcCHER\u3002example", "xn--bcher-kva.example"),
    ("\u4f8b\u3048\uff0e\u30c6\u30b9\u30c8", "xn--r8jz45g.xn--zckzah"),
    ("bu\u0308cher.example", "xn--bcher-kva.example"),
    ("\uff26\uff21.example", "fa.example"),
    # Registered by IDNA 2003; Python's codec gives the same names.
    ("\u2603.example", "xn--n3h.example"),
    ("I\u2665.\U0001f4a9.example", "xn--i-n3p.xn--ls8h.example"),
    ("\u2764\ufe0f\u3002example", "xn--qei.example"),
    ("\U0001fae0.example", "xn--129h.example"),
    ("ab--\u00fc.example", "xn--ab---3ra.example"),
]


def read(**values: object) -> OutboxSettings:
    with override_settings(PRX_EMAIL=values):
        return outbox_settings()


@pytest.mark.parametrize(("typed", "expected"), DOMAINS)
def test_every_address_goes_to_the_domain_that_was_typed(typed: str, expected: str) -> None:
    address, wanted = f"me@{typed}", f"me@{expected}"
    assert split_mailbox(address).addr_spec == wanted
    assert envelope_address("to", address) == wanted
    assert path(address) == wanted
    assert read(REDIRECT_TO=address).redirect_to == (wanted,)
    assert read(MESSAGE_ID_DOMAIN=typed).message_id_domain == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a_b.stra\u00dfe.example", "a_b.xn--strae-oqa.example"),
        ("Build_Host", "build_host"),
        ("user-.example", "user-.example"),
    ],
)
def test_names_that_no_host_may_have_but_private_networks_do_are_accepted(typed: str, expected: str) -> None:
    assert envelope_address("to", f"me@{typed}") == f"me@{expected}"
    assert read(REDIRECT_TO=f"me@{typed}").redirect_to == (f"me@{expected}",)
    assert is_host(typed)


def test_the_functions_take_underscores_and_refuse_hyphens_at_the_ends_of_a_label() -> None:
    assert split_mailbox("me@a_b.stra\u00dfe.example").addr_spec == "me@a_b.xn--strae-oqa.example"
    with pytest.raises(ValueError, match="not a host name"):
        split_mailbox("me@user-.example")


@pytest.mark.parametrize(("typed", "expected"), DOMAINS)
def test_the_header_names_the_same_domain_as_the_envelope(typed: str, expected: str) -> None:
    """Django writes domains by IDNA 2003: the answer to a message would go to another domain."""
    message = EmailMessage("s", "b", f"me@{typed}", [f"Ann \u00dcnal <ann@{typed}>", "bob@example.org"])
    header = render_email(message).raw.decode().replace("\r\n ", " ")
    assert f"From: me@{expected}\r\n" in header
    assert f"<ann@{expected}>, bob@example.org\r\n" in header


def test_a_header_that_the_caller_overrides_keeps_its_domain() -> None:
    headers = {"From": "Shop <shop@stra\u00dfe.example>", "To": "friends: a@example.org;, ann@stra\u00dfe.example"}
    message = EmailMessage("s", "b", "me@example.org", ["ann@example.org"], headers=headers)
    header = render_email(message).raw.decode()
    assert "From: Shop <shop@xn--strae-oqa.example>\r\n" in header
    assert "To: friends: a@example.org;, ann@xn--strae-oqa.example\r\n" in header


@pytest.mark.parametrize(
    "pattern", ["*@stra\u00dfe.example", "*@STRA\u1e9eE.example", "*@*.example", "ann@*.example", "*@*example"]
)
def test_an_exempt_domain_is_exempt_however_it_is_typed(pattern: str) -> None:
    settings = read(REDIRECT_TO="qa@example.com", REDIRECT_EXCEPT=[pattern])
    address = split_mailbox("ann@stra\u00dfe.example").addr_spec
    found = route([address], redirect_to=settings.redirect_to, passing=settings.redirect_except)
    assert found.envelope == (address,)


def test_a_pattern_that_could_never_match_is_refused() -> None:
    """A wildcard inside a label beyond ASCII says nothing about the label's ASCII form."""
    with pytest.raises(ImproperlyConfigured, match="REDIRECT_EXCEPT"):
        read(REDIRECT_TO="qa@example.com", REDIRECT_EXCEPT=["*@stra\u00df*.example"])


@pytest.mark.parametrize(
    "domain",
    [
        # The next two are another domain in IDNA 2003, without the joiner or with "ss".
        "\U0001f469\u200d\U0001f4bb.example",
        "\u2603\u00df.example",
        "a\u200db.example",
        "a\u05d0.example",  # of both directions (RFC 5893)
        "\uff1e.example",
        "\u00df" * 60,
    ],
)
def test_what_the_standards_read_differently_is_refused_everywhere(domain: str) -> None:
    with pytest.raises(ValueError):
        split_mailbox(f"me@{domain}")
    with pytest.raises(ValueError):
        envelope_address("to", f"me@{domain}")
    with pytest.raises(UnsupportedMessage, match="not a host name"):
        path(f"me@{domain}")
    with pytest.raises(ImproperlyConfigured, match="REDIRECT_TO"):
        read(REDIRECT_TO=f"me@{domain}")
    assert not is_host(domain)


def test_a_domain_that_is_refused_may_be_given_in_ascii() -> None:
    assert split_mailbox("me@xn--ls8h.example").addr_spec == "me@xn--ls8h.example"


@given(st.text(st.characters(codec="utf-8", exclude_characters=".\u3002\uff0e\uff61"), min_size=1, max_size=8))
def test_a_domain_is_never_taken_for_another(label: str) -> None:
    """What IDNA 2008 has not is accepted only where IDNA 2003, by which it was registered, gives the same name."""
    try:
        made = ascii_domain(f"{label}.example")
    except ValueError:
        return
    with suppress(UnicodeError):
        assert idna.encode(f"{label}.example", uts46=True).decode("ascii").lower() == made
        return
    assert f"{label}.example".encode("idna").decode("ascii").lower() == made


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        *DOMAINS,
        ("::1", "::1"),
        ("relay.internal.", "relay.internal"),
        ("relay_1.internal", "relay_1.internal"),
        ("10.0.0.5",) * 2,
    ],
)
def test_dns_and_tls_see_the_host_that_was_typed(monkeypatch: pytest.MonkeyPatch, typed: str, expected: str) -> None:
    """With ``fass.example`` for ``fa\u00df.example`` a stranger's good certificate would get the password."""
    seen: list[object] = []

    async def resolved(host: str, port: int, **_options: object) -> socket.socket:
        seen.append(host)
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    class Client:
        transport = None

        def __init__(self, *, hostname: str, sock: socket.socket, **_options: object) -> None:
            seen.append(hostname)
            sock.close()
            raise OSError("far enough")

    monkeypatch.setattr(connection, "connect", resolved)
    monkeypatch.setattr(connection, "peer_name", lambda _sock: "peer")
    monkeypatch.setattr(connection, "local_name", lambda _sock: "here")
    monkeypatch.setattr(connection, "_Client", Client)
    settings = ConnectionSettings(host=typed, port=465, security="tls", auth_method="none")
    with pytest.raises(ConnectError, match="far enough"):
        asyncio.run(connection.SmtpTransport().open(settings))
    assert seen == [expected, expected]
