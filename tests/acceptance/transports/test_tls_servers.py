"""TLS with authorities of one's own, client certificates, and servers whose TLS is outdated."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from prx_email_django.rules.outcomes import Ending, Phase, Trouble
from prx_email_django.status.advice import advice
from prx_email_django.transports.base import ConnectError, ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import outgoing, transmit
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer


@pytest.fixture
def clients(tmp_path: Path) -> trustme.CA:
    """The authority of client certificates; ``client.pem`` and ``client.key`` are one of them."""
    authority = trustme.CA()
    leaf = authority.issue_cert("client.example.org")
    (tmp_path / "client.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(tmp_path / "client.key")
    return authority


def demand_certificate(server: SmtpServer, clients: trustme.CA) -> None:
    context = server.ssl_context
    assert context is not None
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("name", ["shared_ca_file", "ca_file"])
def test_authority_of_the_settings_or_of_the_account_is_trusted(tls: str, name: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with SmtpServer(tls=tls) as server:
        files = {"shared_ca_file": str(other), "ca_file": str(other), name: server.ca_file}
        feed, _ = transmit(server, [outgoing()], tls_files=TlsFiles(**files))
        assert feed.outcomes[1].ending is Ending.ACCEPTED


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_client_certificate_is_shown_to_a_server_that_demands_it(tls: str, clients: trustme.CA, tmp_path: Path) -> None:
    with SmtpServer(tls=tls) as server:
        demand_certificate(server, clients)
        files = TlsFiles("", server.ca_file, str(tmp_path / "client.pem"), str(tmp_path / "client.key"))
        feed, _ = transmit(server, [outgoing()], tls_files=files)
        assert feed.outcomes[1].ending is Ending.ACCEPTED


class BlockingServer:
    """A server as those over OpenSSL are: it sends an alert when it refuses a handshake, which asyncio's does not."""

    def __init__(self, context: ssl.SSLContext, *, starttls: bool) -> None:
        self._context, self._starttls = context, starttls

    def __enter__(self) -> tuple[str, int]:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        host, port = self._listening.getsockname()
        return str(host), int(port)

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
        self._listening.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(PATIENCE)
            if self._starttls:
                client.sendall(b"220 hello\r\n")
                client.recv(1000)
                client.sendall(b"250-hello\r\n250 STARTTLS\r\n")
                client.recv(1000)
                client.sendall(b"220 go ahead\r\n")
            # Unread bytes at the closing would become a reset, which may overtake the alert.
            with client.dup() as raw:
                try:
                    self._context.wrap_socket(client, server_side=True).close()
                except ssl.SSLError:
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(1000):
                        pass


@pytest.fixture
def server_context(tmp_path: Path) -> ssl.SSLContext:
    """A context with a certificate that ``server-ca.pem`` has issued."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "server-ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def refused_by(context: ssl.SSLContext, tls: str, files: TlsFiles) -> ConnectError:
    with BlockingServer(context, starttls=tls == "starttls") as (_, port), pytest.raises(ConnectError) as caught:
        settings = ConnectionSettings(
            "localhost", port, {"implicit": "tls"}.get(tls, tls), "none", timeout=PATIENCE, tls_files=files
        )
        asyncio.run(SmtpTransport().open(settings))
    return caught.value


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("shown", ["none", "unknown"])
def test_client_certificate_that_is_missing_or_unknown_is_trouble_of_tls(  # noqa: PLR0913
    tls: str,
    version: ssl.TLSVersion,
    shown: str,
    clients: trustme.CA,
    server_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    """With TLS 1.3 the refusal comes after the handshake, when the client waits for a reply."""
    (clients if shown == "none" else trustme.CA()).configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.maximum_version = version
    identity = ("", "") if shown == "none" else (str(tmp_path / "client.pem"), str(tmp_path / "client.key"))
    error = refused_by(server_context, tls, TlsFiles("", str(tmp_path / "server-ca.pem"), *identity))
    assert (error.phase, error.trouble, error.error_code) == (Phase.TLS, Trouble.TLS, "tls"), error
    assert "tls_cert_file" in advice(f"TLS failed ({error})"), error


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_server_with_outdated_tls_only_is_told_so(
    tls: str, version: ssl.TLSVersion, server_context: ssl.SSLContext, tmp_path: Path
) -> None:
    server_context.set_ciphers("DEFAULT@SECLEVEL=0")
    server_context.minimum_version = server_context.maximum_version = version
    error = refused_by(server_context, tls, TlsFiles("", str(tmp_path / "server-ca.pem")))
    assert (error.phase, error.trouble, error.error_code) == (Phase.TLS, Trouble.TLS, "tls"), error
    assert "TLS 1.2" in advice(f"TLS failed ({error})"), error


def _without_key_identifier(folder: Path) -> ssl.SSLContext:
    """A server whose certificate lacks the authority key identifier, as many private authorities issue them."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: str, serial: int, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, "authority")]
        builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), serial)
        return builder.not_valid_before(now - day).not_valid_after(now + day)

    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = certificate("authority", 1, keys[0]).add_extension(x509.BasicConstraints(True, None), critical=True)
    authority = authority.add_extension(usage, critical=True)
    authority = authority.add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key()), critical=False)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    leaf = certificate("localhost", 2, keys[1]).add_extension(names, critical=False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "strict-ca.pem").write_bytes(authority.sign(keys[0], hashes.SHA256()).public_bytes(pem))
    chain = folder / "strict.pem"
    private = keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    chain.write_bytes(leaf.sign(keys[0], hashes.SHA256()).public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def test_certificate_that_python_3_13_refuses_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ssl.create_default_context

    def strict(*arguments: Any) -> ssl.SSLContext:
        context = real(*arguments)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    server = _without_key_identifier(tmp_path)
    error = refused_by(server, "implicit", TlsFiles("", str(tmp_path / "strict-ca.pem")))
    assert (error.phase, error.trouble) == (Phase.TLS, Trouble.TLS)
    assert "Missing Authority Key Identifier" in str(error) and "3.13" in advice(f"TLS failed ({error})")


def test_certificate_with_a_weak_key_is_explained(tmp_path: Path) -> None:
    """An old appliance has one of 1024 bits, which OpenSSL refuses at its usual level."""
    key, now, day = rsa.generate_private_key(65537, 1024), datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "weak.pem").write_bytes(certificate.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(tmp_path / "weak.pem")
    error = refused_by(context, "implicit", TlsFiles("", str(tmp_path / "weak.pem")))
    assert (error.phase, error.trouble) == (Phase.TLS, Trouble.TLS)
    assert "too weak" in str(error) and "new one" in advice(f"TLS failed ({error})")
