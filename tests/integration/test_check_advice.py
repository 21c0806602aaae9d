"""The check of an account against servers that say, or do, what people meet most: each answer says what to do next."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import prx_email_django as prx
from prx_email_django.models import OutboxMessage
from tests.integration.test_account_check import failed, secured
from tests.integration.test_check_odd_servers import without_tenths
from tests.support.factories import MEMORY, account, account_on
from tests.support.provider_doubles import resolving_to
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def settings_for_smtp(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp"}
    monkeypatch.setattr("prx_email_django.api.account_check.ONE_ANSWER", 1.0)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("534-5.7.9 Application-specific password required. Learn more at\r\n534 5.7.9 x - gsmtp", "app password"),
        ("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled", "switched off"),
        ("535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults", "exempt"),
        ("535 5.7.139 Authentication unsuccessful, the user's password has expired", "has expired"),
        ("432 4.7.12 A password transition is needed", "has expired"),
        ("550 5.7.30 Basic authentication is not supported for Client Submission", "switched off"),
    ],
)
def test_a_login_that_is_refused_for_a_known_reason(reply: str, words: str, settings: Any) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        server.on("auth", reply=reply)
        name, detail, advice = failed(prx.check_account(secured(server, settings)))
        result = prx.send(account="main", to="bo@example.org", subject="s", body_text="t")
    assert name == "login"
    assert detail.startswith(f"localhost:{server.port}: {reply[:3]}") or f"localhost:{server.port}" in detail
    assert words in advice
    assert words in result.error


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that answers no connection, as one that a firewall blocks: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        yield port
        for connection in waiting:
            connection.close()


def test_a_port_25_that_the_network_blocks(silent_port: int) -> None:
    account(host="mail.example.com", port=25, security="starttls")
    with resolving_to("mail.example.com", 25, silent_port):
        name, detail, advice = failed(prx.check_account("main"))
    assert (name, without_tenths(detail)) == ("connect", "no connection to mail.example.com:25 in 1 s")
    assert "use port 587" in advice


def use_certificate_without_key_identifier(server: SmtpServer, folder: Path) -> str:
    """Give the server such a certificate, as many in-house authorities issue; return the authority's file."""
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "in-house")])
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    leaf = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    built = []
    for subject, key in zip((name, leaf), keys, strict=True):
        certificate = x509.CertificateBuilder(issuer_name=name, subject_name=subject, public_key=key.public_key())
        certificate = certificate.serial_number(x509.random_serial_number())
        certificate = certificate.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        certificate = certificate.add_extension(x509.BasicConstraints(ca=subject is name, path_length=None), True)
        certificate = certificate.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        built.append(certificate.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    key_bytes = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(key_bytes + built[1])
    (folder / "ca.pem").write_bytes(built[0])
    assert server.ssl_context is not None
    server.ssl_context.load_cert_chain(folder / "server.pem")
    return str(folder / "ca.pem")


def test_a_certificate_that_python_refuses_from_3_13_on(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenSSL accepts it, the flag VERIFY_X509_STRICT does not."""
    usual = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = usual(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python sets from 3.13 on
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        settings.PRX_EMAIL = {
            **settings.PRX_EMAIL,
            "TLS_CA_FILE": use_certificate_without_key_identifier(server, tmp_path),
        }
        name, detail, advice = failed(prx.check_account(account_on(server)))
    assert name == "tls"
    assert f"TLS with localhost:{server.port}: " in detail
    assert "RFC 5280" in advice, detail


@pytest.mark.parametrize("words", ["450 4.2.0 Greylisted, see http://postgrey.example", "451 4.7.1 Try again later"])
def test_a_message_that_the_server_puts_off_at_first_sight(words: str) -> None:
    with SmtpServer() as server:
        server.defer("me@example.org", words)
        name, detail, advice = failed(prx.check_account(account_on(server), send_to="me@example.org"))
    assert (name, words[:3] in detail) == ("message", True)
    assert "greylisting" in advice
    assert OutboxMessage.objects.get().next_attempt_at is not None, "the advice says that it is tried again"
