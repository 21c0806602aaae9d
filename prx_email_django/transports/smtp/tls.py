"""TLS contexts of SMTP connections: the system's authorities, those that are added, and a client certificate."""

from __future__ import annotations

import asyncio
import functools
import ssl
import stat
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from prx_email_django.transports.base import TlsFiles

#: Bytes of a file; the bundle of all public authorities has 0.3 MB.
_MAX_SIZE = 10_000_000


class UnusableFile(Exception):
    """A file of authorities, or of the client certificate, cannot be used; ``str()`` is shown to people."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be used: {reason}")


async def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a client's context: TLS 1.2 or later, certificate and name verified.  Built again when a file changes.

    Raises:
        UnusableFile: a file does not exist, cannot be read, or does not hold what it should.
    """
    return await asyncio.to_thread(_current_context, files)


def _current_context(files: TlsFiles) -> ssl.SSLContext:
    versions = tuple(_version(field.name, getattr(files, field.name)) for field in fields(files))
    return _build_context(files, versions)


def _version(name: str, path: str) -> tuple[int, int]:
    """Inode and time of change.  Only a regular file of a sensible size is read: a FIFO would never end."""
    if not path:
        return 0, 0
    label = _label(name)
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnusableFile(label, _reason(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFile(label, "it is not a file")
    if found.st_size > _MAX_SIZE:
        raise UnusableFile(label, "it is too large")
    return found.st_ino, found.st_mtime_ns


@functools.lru_cache(maxsize=32)
def _build_context(files: TlsFiles, _versions: tuple[tuple[int, int], ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in ("shared_ca_file", "ca_file"):
        if path := getattr(files, name):
            _add_authorities(context, _label(name), path)
    if files.cert_file:
        _load_client_certificate(context, files)
    return context


def _add_authorities(context: ssl.SSLContext, label: str, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise UnusableFile(label, _reason(error, "it holds no certificate in PEM format")) from None


def _load_client_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Load certificate and key.  Each is opened before, so that an error names the file that cannot be read."""
    for name in ("cert_file", "key_file"):
        if path := getattr(files, name):
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise UnusableFile(_label(name), _reason(error)) from None
    key = files.key_file or files.cert_file
    try:
        context.load_cert_chain(files.cert_file, key, password=_refuse_encrypted_key)
    except _EncryptedKey:
        raise UnusableFile(_label("key_file" if files.key_file else "cert_file"), "its key is encrypted") from None
    except (OSError, ValueError) as error:
        text = "certificate and key do not belong together, or are not in PEM format"
        raise UnusableFile(_label("cert_file"), _reason(error, text)) from None


class _EncryptedKey(Exception):
    pass


def _refuse_encrypted_key() -> str:
    """Without this, OpenSSL would ask for a passphrase at the terminal of the worker, and wait."""
    raise _EncryptedKey


def _label(name: str) -> str:
    return "TLS_CA_FILE" if name == "shared_ca_file" else f"tls_{name}"


def _reason(error: Exception, otherwise: str = "it is not a path") -> str:
    """The system's words (``No such file or directory``), or ours for what OpenSSL or Python says."""
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return otherwise
    return error.strerror or type(error).__name__


def certificate_words(certificate: Mapping[str, Any] | None) -> str:
    """Say who issued a certificate and for how many days it is valid."""
    if not certificate:
        return "no certificate"
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    name = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    return f"certificate by {name}, {days:.0f} days left"
