"""Servers that break off, fall silent or are no mail servers: check and ``send`` say what is wrong and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import AccountState
from prx_email_django.transports.smtp import connect as connecting
from tests.integration.test_account_check import failed
from tests.support.factories import MEMORY, account, account_on
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

GREETING, STARTTLS = b"220 mail.example.org ESMTP\r\n", b"250-mail.example.org\r\n250 STARTTLS\r\n"
#: TLS alerts (RFC 8446 §6): one record of two bytes, level and description.
PROTOCOL_VERSION, HANDSHAKE_FAILURE = b"\x15\x03\x01\x00\x02\x02\x46", b"\x15\x03\x01\x00\x02\x02\x28"
UNRECOGNIZED_NAME, CLOSE_NOTIFY = b"\x15\x03\x01\x00\x02\x02\x70", b"\x15\x03\x03\x00\x02\x01\x00"


@pytest.fixture(autouse=True)
def settings_for_smtp(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp", "SMTP_TIMEOUT": 1}
    monkeypatch.setattr("prx_email_django.api.account_check.ONE_ANSWER", 1.0)


@contextlib.contextmanager
def server_that(*script: bytes | None, keeps_open: bool = False) -> Iterator[int]:
    """Port of a server that says these bytes, and waits for the client where there is None; then it closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def converse(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            for part in script:
                if part is None:
                    client.recv(65536)
                else:
                    client.sendall(part)
            while keeps_open and client.recv(65536):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=converse, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def without_tenths(text: str) -> str:
    """Part of the second that a step may take goes by before its wait begins, or before it ends."""
    return re.sub(r"in [01]\.\d s", "in 1 s", text)


def said(port: int, security: str) -> tuple[str, str, str]:
    """The failed step, what it found and what to do; ``send`` says the same."""
    account(host="localhost", port=port, security=security)
    step, detail, advice = failed(prx.check_account("main"))
    result = prx.send(account="main", to="bo@example.org", subject="s", body_text="t")
    detail = without_tenths(detail)
    assert without_tenths(result.error).startswith(detail)
    assert advice in result.error
    return step, detail.replace(f"localhost:{port}", "…"), advice


CLOSED = "the server closed the connection"


@pytest.mark.parametrize(
    ("security", "script", "step", "detail", "hint"),
    [
        ("tls", (), "tls", f"connection failed: …: TLS handshake: {CLOSED}", "STARTTLS and port 587"),
        ("tls", (None,), "tls", f"connection failed: …: TLS handshake: {CLOSED}", "STARTTLS and port 587"),
        ("tls", (None, b"\x16\x03\x03\x00\x7a\x02"), "tls", f"connection failed: …: TLS handshake: {CLOSED}", "587"),
        ("tls", (None, CLOSE_NOTIFY), "tls", f"TLS with …: {CLOSED}", "STARTTLS and port 587"),
        ("tls", (None, PROTOCOL_VERSION), "tls", "TLS with …: TLSV1_ALERT_PROTOCOL_VERSION", "TLS 1.2"),
        ("tls", (None, HANDSHAKE_FAILURE), "tls", "TLS with …: SSLV3_ALERT_HANDSHAKE_FAILURE", "tls_cert_file"),
        ("tls", (None, UNRECOGNIZED_NAME), "tls", "TLS with …: TLSV1_UNRECOGNIZED_NAME", "host name"),
        *(
            ("tls", (*begun, sent), "tls", f"TLS with …: WRONG_VERSION_NUMBER; the server answered with {kind}", hint)
            for begun, sent, kind, hint in (
                ((), GREETING, "SMTP in clear text", "A mail server answers at this port, and does not begin with TLS"),
                ((), b"220-ftp.example.org FTP server ready\r\n", "FTP in clear text", "An FTP server"),
                ((), b"554 no service\r\n", "SMTP in clear text", "choose STARTTLS"),
                ((), b"* OK [CAPABILITY IMAP4rev1] ready\r\n", "IMAP in clear text", "for reading mail"),
                ((), b"+OK ready\r\n", "POP3 or another protocol in clear text", "for reading mail"),
                ((), b"SSH-2.0-OpenSSH_9.2\r\n", "SSH in clear text", "An SSH server"),
                ((None,), b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP in clear text", "A web server"),
                ((None,), b"<html><title>400</title>", "HTTP in clear text", "A web server"),
            )
        ),
        (
            "tls",
            (b"hello swordfish\r\n",),
            "tls",
            "TLS with …: WRONG_VERSION_NUMBER; that port does not begin with TLS",
            "choose STARTTLS",
        ),
        ("starttls", (), "greeting", f"connection failed: …: greeting: {CLOSED}", "refuse this machine"),
        ("starttls", (GREETING, None), "extensions", f"connection failed: …: EHLO: {CLOSED}", "refuse this machine"),
        (
            "starttls",
            (GREETING, None, STARTTLS, None),
            "tls",
            f"connection failed: …: STARTTLS: {CLOSED}",
            "implicit TLS and port 465",
        ),
        (
            "starttls",
            (GREETING, None, STARTTLS, None, b"220 go\r\n", None),
            "tls",
            f"connection failed: …: STARTTLS: {CLOSED}",
            "implicit TLS and port 465",
        ),
        (
            "starttls",
            (GREETING, None, STARTTLS, None, b"220 go\r\n", None, b"500 what?\r\n"),
            "tls",
            "TLS with …: WRONG_VERSION_NUMBER; the server went on in clear text after STARTTLS",
            "implicit TLS and port 465",
        ),
        (
            "starttls",
            (GREETING, None, STARTTLS, None, b"454 4.7.0 TLS not available\r\n"),
            "tls",
            "…: STARTTLS: 454 4.7.0 TLS not available",
            "cannot begin TLS",
        ),
        ("none", (b"554\r\n",), "greeting", "…: greeting: 554", "refuses this machine"),
        ("none", (b"421 4.3.2 busy\r\n",), "greeting", "…: greeting: 421 4.3.2 busy", "closed for a while"),
        (
            "none",
            (b"220 ftp\r\n", None, b"500 EHLO?\r\n", None, b"500 HELO?\r\n"),
            "extensions",
            "…: EHLO: 500 HELO?",
            "FTP",
        ),
    ],
)
def test_a_server_that_breaks_off(
    security: str, script: tuple[bytes | None, ...], step: str, detail: str, hint: str
) -> None:
    with server_that(*script) as port:
        found = said(port, security)
    assert found[:2] == (step, detail)
    assert hint in found[2]


@pytest.mark.parametrize(
    ("security", "script", "step", "detail", "hint"),
    [
        ("none", (b"220 mail.exam",), "greeting", "the greeting from … was not complete in 1 s", "very slowly"),
        ("none", (b"220-a\r\n220-b\r\n",), "greeting", "the greeting from … was not complete in 1 s", "very slowly"),
        ("none", (GREETING, None, b"250-mail"), "extensions", "the answer to EHLO from … was not complete", "slowly"),
        ("none", (GREETING,), "extensions", "no answer to EHLO from … in 1 s", "fell silent"),
        ("starttls", (), "greeting", "no greeting from … in 1 s; that port may begin with TLS", "implicit TLS"),
        ("tls", (), "tls", "no TLS handshake with … in 1 s", "587"),
        ("starttls", (GREETING, None, STARTTLS, None, b"220 go\r\n"), "tls", "no TLS handshake with … in 1 s", "465"),
    ],
)
def test_a_server_that_falls_silent(
    security: str, script: tuple[bytes | None, ...], step: str, detail: str, hint: str
) -> None:
    with server_that(*script, keeps_open=True) as port:
        found = said(port, security)
    assert found[0] == step
    assert found[1].startswith(detail)
    assert hint in found[2]


def test_a_server_that_ends_the_connection_at_the_login(settings: Any) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TLS_CA_FILE": server.ca_file}
        server.on("auth", drop=True)
        login = {"auth_method": "password", "user": "ann", "password": "secret"}
        step, detail, advice = failed(prx.check_account(account_on(server, **login)))
    assert (step, detail) == ("login", f"connection failed: localhost:{server.port}: login: {CLOSED}")
    assert "wrong password" in advice


def test_a_port_of_this_machine_where_nobody_listens_may_be_another_container() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    step, detail, advice = said(port, "none")
    assert (step, detail) == ("connect", "connection failed: …: Connection refused")
    assert "In a container" in advice


@pytest.mark.parametrize(
    ("security", "words", "hint"),
    [
        ("starttls", "no greeting from … in 1 s; that port may begin with TLS", "implicit TLS"),
        ("tls", "no TLS handshake with … in 1 s", "587"),
    ],
)
def test_a_send_that_its_deadline_ends_says_what_it_had_waited_for(
    security: str, words: str, hint: str, settings: Any
) -> None:
    """SEND_DEADLINE (30 s) ends before SMTP_TIMEOUT (60 s): by default ``send`` named neither host nor port."""
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp", "SEND_DEADLINE": 1.2}
    with server_that(keeps_open=True) as port:
        owner = account(host="localhost", port=port, security=security)
        result = prx.send(account="main", to="bo@example.org", subject="s", body_text="t")
    assert result.error_code == "timeout"
    words = words.replace("…", f"localhost:{port}")
    assert without_tenths(result.error).startswith(f"not done within SEND_DEADLINE: {words}")
    assert hint in result.error
    reason = AccountState.objects.get(account=owner).last_trouble
    assert words in without_tenths(reason)


def failing_with(*errors: int) -> Callable[..., Any]:
    """What connecting to one address after the other comes to."""
    numbers = iter(errors)

    async def fail(*_address: object) -> socket.socket:
        raise OSError(next(numbers), "no")

    return fail


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ((errno.ECONNREFUSED, errno.ENETUNREACH), errno.ECONNREFUSED),
        ((errno.ENETUNREACH, errno.EHOSTUNREACH), errno.EHOSTUNREACH),
        ((errno.ENETUNREACH, errno.EADDRNOTAVAIL), errno.EADDRNOTAVAIL),
    ],
)
def test_of_two_addresses_the_one_with_a_route_is_told(
    errors: tuple[int, int], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without IPv6 said "Network is unreachable" where the server's IPv4 address had refused."""

    async def both(_loop: Any, *_names: Any, **_kind: Any) -> list[Any]:
        four, six = (socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")
        return [(family, socket.SOCK_STREAM, 6, "", (address, 465)) for family, address in (four, six)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    monkeypatch.setattr(connecting, "_connect", failing_with(*errors))
    with pytest.raises(OSError, match="no") as raised:
        asyncio.run(connecting.connect("mail.example.com", 465, timeout=5))
    assert raised.value.errno == told
