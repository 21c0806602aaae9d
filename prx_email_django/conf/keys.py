"""Keys that encrypt credentials: Fernet keys as given, or derived from a passphrase or from SECRET_KEY."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

#: Characters that a passphrase needs at least.
PASSPHRASE_LENGTH = 16
_INFO = b"prx_email_django credential key v1"
_ROUNDS = 600_000


def read_keys(value: object) -> tuple[str, ...]:
    """Read a list of Fernet keys and passphrases (``str`` or ``bytes``), the first of which encrypts.

    Raises ``ValueError``, never with a key in its text.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of at least one key")
    keys = tuple(key.decode("utf-8", "replace") if isinstance(key, bytes) else key for key in value)
    if not all(isinstance(key, str) and len(key) >= PASSPHRASE_LENGTH for key in keys):
        raise ValueError(f"must hold Fernet keys, or passphrases of {PASSPHRASE_LENGTH} characters or more")
    return keys


def fernet_key(key: str) -> bytes:
    """Return the Fernet key that ``key`` is, or that belongs to it as a passphrase."""
    return key.encode() if _is_fernet_key(key) else _stretch(key)


def from_secret_key(secret: str | bytes) -> bytes:
    """Return the Fernet key that belongs to one SECRET_KEY (HKDF-SHA256, RFC 5869)."""
    octets = secret.encode() if isinstance(secret, str) else secret
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(octets)
    return base64.urlsafe_b64encode(derived)


def _is_fernet_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, altchars=b"-_", validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


@functools.lru_cache(maxsize=8)
def _stretch(passphrase: str) -> bytes:
    """Derive slowly, since people make these up (PBKDF2, RFC 8018); once a process."""
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", passphrase.encode(), _INFO, _ROUNDS))
