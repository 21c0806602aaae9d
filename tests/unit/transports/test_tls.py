"""TLS contexts: who is trusted, and errors that name the file."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from prx_email_django.conf.authorities import UnusableFile
from prx_email_django.transports.base import TlsFiles
from prx_email_django.transports.smtp.tls import tls_context

NAMES = {"shared_ca_file": "TLS_CA_FILE", "ca_file": "tls_ca_file", "cert_file": "tls_cert_file"}


def context(**files: str) -> ssl.SSLContext:
    return asyncio.run(tls_context(TlsFiles(**files)))


def names(context: ssl.SSLContext) -> set[str]:
    return {str(authority["subject"]) + str(authority["serialNumber"]) for authority in context.get_ca_certs()}


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "all.pem", tmp_path / "one.pem"
    for path in paths:
        trustme.CA().cert_pem.write_to_path(path)
    return paths


@pytest.fixture
def identity(tmp_path: Path) -> tuple[Path, Path]:
    """A client's certificate and its key, in two files."""
    leaf = trustme.CA().issue_cert("client.example.org")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    return certificate, key


def test_context_verifies_and_requires_tls_1_2() -> None:
    built = context()
    assert built.minimum_version is ssl.TLSVersion.TLSv1_2
    assert built.check_hostname and built.verify_mode is ssl.CERT_REQUIRED
    assert context() is built


def test_authorities_are_added_to_those_of_the_system(authorities: tuple[Path, Path]) -> None:
    shared, own = map(str, authorities)
    system = names(ssl.create_default_context())
    with_shared, with_both = names(context(shared_ca_file=shared)), names(context(shared_ca_file=shared, ca_file=own))
    assert system < with_shared < with_both
    assert len(with_both - system) == 2


def _absent(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _text(path: Path) -> None:
    path.write_text("no certificate\n")


def _empty(path: Path) -> None:
    path.touch()


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 20_000_000)


def _bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("make", [_absent, _folder, _fifo, _text, _empty, _huge, _bytes])
def test_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / "file.pem"
    make(path)
    with pytest.raises(UnusableFile, match=f"^{NAMES[name]} cannot be used: [A-Za-z]"):
        context(**{name: str(path)})


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/dev/null", "/dev/zero", "\udcff"])
def test_path_that_is_none_is_named(name: str, path: str) -> None:
    with pytest.raises(UnusableFile, match=f"^{NAMES[name]} cannot be used: [A-Za-z]"):
        context(**{name: path})


def test_client_certificate_is_loaded_with_its_key(identity: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = identity
    context(cert_file=str(certificate), key_file=str(key))
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    context(cert_file=str(both))


def test_key_of_another_certificate_is_refused_in_words(identity: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    trustme.CA().issue_cert("other.example.org").private_key_pem.write_to_path(other)
    with pytest.raises(UnusableFile, match="key is not that of the first certificate"):
        context(cert_file=str(identity[0]), key_file=str(other))


def test_authority_before_the_clients_own_certificate_is_refused_in_words(
    identity: tuple[Path, Path], authorities: tuple[Path, Path], tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authorities[0].read_bytes() + identity[0].read_bytes())
    with pytest.raises(UnusableFile, match="key is not that of the first certificate"):
        context(cert_file=str(chain), key_file=str(identity[1]))


def test_certificate_without_its_key_is_refused_in_words(identity: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.key"
    empty.touch()
    for key in ("", str(empty), str(identity[0])):
        with pytest.raises(UnusableFile, match="tls_cert_file cannot be used: certificate and key must be there"):
            context(cert_file=str(identity[0]), key_file=key)


def test_weak_client_certificate_is_not_called_unreadable(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    times = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    builder = builder.serial_number(1).not_valid_before(times[0]).not_valid_after(times[1])
    both = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    both.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem[0]) + key.private_bytes(*pem))
    with pytest.raises(UnusableFile, match="too weak"):
        context(cert_file=str(both))


def test_missing_key_is_named(identity: tuple[Path, Path]) -> None:
    with pytest.raises(UnusableFile, match="tls_key_file cannot be used: No such file"):
        context(cert_file=str(identity[0]), key_file="/nowhere/client.key")


def test_encrypted_key_asks_nobody_for_a_passphrase(identity: tuple[Path, Path], tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(identity[1].read_bytes(), password=None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(UnusableFile, match="tls_key_file cannot be used: its key is encrypted"):
        context(cert_file=str(identity[0]), key_file=str(locked))


def test_renewed_files_are_read_again(identity: tuple[Path, Path], authorities: tuple[Path, Path]) -> None:
    files = {"ca_file": str(authorities[0]), "cert_file": str(identity[0]), "key_file": str(identity[1])}
    first = context(**files)
    assert context(**files) is first
    os.utime(identity[1], (1, 1))
    assert context(**files) is not first
