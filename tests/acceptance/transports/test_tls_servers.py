"""TLS with authorities of one's own, client certificates, and servers whose TLS is outdated."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from prx_email_django.rules.outcomes import Ending, Phase, Trouble
from prx_email_django.status.reasons import advice
from prx_email_django.transports.base import ConnectError, ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import outgoing, transmit
from tests.support.smtp_script import PATIENCE
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
        self._thread.join(60)
        self._listening.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(60)
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
