"""TLS contexts of SMTP connections: the system's authorities, those that are added, and a client certificate."""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from prx_email_django.conf.authorities import UnusableFile, add_authorities, file_version, reason_in_words
from prx_email_django.transports.base import TlsFiles


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
    return file_version(_label(name), path) if path else (0, 0)


@functools.lru_cache(maxsize=32)
def _build_context(files: TlsFiles, _versions: tuple[tuple[int, int], ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in ("shared_ca_file", "ca_file"):
        if path := getattr(files, name):
            add_authorities(context, _label(name), path)
    if files.cert_file:
        _load_client_certificate(context, files)
    return context


def _load_client_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Load certificate and key.  Each is opened before, so that an error names the file that cannot be read."""
    for name in ("cert_file", "key_file"):
        if path := getattr(files, name):
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise UnusableFile(_label(name), reason_in_words(error)) from None
    key = files.key_file or files.cert_file
    try:
        context.load_cert_chain(files.cert_file, key, password=_refuse_encrypted_key)
    except _EncryptedKey:
        raise UnusableFile(_label("key_file" if files.key_file else "cert_file"), "its key is encrypted") from None
    except (OSError, ValueError) as error:
        text = _PROBLEMS.get(getattr(error, "reason", None) or "", "certificate and key must be there, in PEM format")
        raise UnusableFile(_label("cert_file"), reason_in_words(error, text)) from None


_OF_ANOTHER = "the key is not that of the first certificate"
_TOO_WEAK = "its key or signature is too weak"
#: What OpenSSL says of a certificate and a key that it can read.
_PROBLEMS = {
    "KEY_VALUES_MISMATCH": _OF_ANOTHER,
    "KEY_TYPE_MISMATCH": _OF_ANOTHER,
    "NO_CERTIFICATE_ASSIGNED": _OF_ANOTHER,
    "EE_KEY_TOO_SMALL": _TOO_WEAK,
    "CA_KEY_TOO_SMALL": _TOO_WEAK,
    "CA_MD_TOO_WEAK": _TOO_WEAK,
}


class _EncryptedKey(Exception):
    pass


def _refuse_encrypted_key() -> str:
    """Without this, OpenSSL would ask for a passphrase at the terminal of the worker, and wait."""
    raise _EncryptedKey


def _label(name: str) -> str:
    return "TLS_CA_FILE" if name == "shared_ca_file" else f"tls_{name}"


def certificate_words(certificate: Mapping[str, Any] | None) -> str:
    """Say who issued a certificate and for how many days it is valid."""
    if not certificate:
        return "no certificate"
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    name = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    return f"certificate by {name}, {days:.0f} days left"
