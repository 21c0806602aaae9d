"""Keys that encrypt credentials: Fernet keys, given or derived from a passphrase or from SECRET_KEY."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prx_email_django.rules.words import words as _

#: Least length of a passphrase, in characters.
PASSPHRASE_LENGTH = 16
#: The entry of a list of keys that stands for the keys which are derived from SECRET_KEY and its fallbacks.
OF_DJANGO = "SECRET_KEY"
_INFO = b"prx_email_django credential key v1"
_ROUNDS = 600_000


def read_keys(value: object) -> tuple[str, ...]:
    """The Fernet keys and passphrases (``str`` or ``bytes``) of a list; the first key encrypts.

    Raises:
        ValueError: it is no such list; the text holds no key.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(_("must be a list of at least one key"))
    keys = tuple(key.decode("utf-8", "replace") if isinstance(key, bytes) else key for key in value)
    if not all(isinstance(key, str) and (key == OF_DJANGO or len(key) >= PASSPHRASE_LENGTH) for key in keys):
        raise ValueError(
            _(
                'must hold Fernet keys, passphrases of %(length)d characters or more, or "%(django)s"',
                length=PASSPHRASE_LENGTH,
                django=OF_DJANGO,
            )
        )
    return keys


def fernet_key(key: str) -> bytes:
    """The Fernet key itself, or the Fernet key that is derived from the passphrase."""
    return key.encode() if _is_fernet_key(key) else _derive(key)


def from_secret_key(secret: str | bytes) -> bytes:
    """The Fernet key that is derived from a SECRET_KEY (HKDF-SHA256, RFC 5869)."""
    secret = secret.encode() if isinstance(secret, str) else secret
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(secret)
    return base64.urlsafe_b64encode(derived)


def _is_fernet_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, altchars=b"-_", validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


@functools.lru_cache(maxsize=8)
def _derive(passphrase: str) -> bytes:
    """Derive a key slowly, since passphrases can be guessed (PBKDF2, RFC 8018); once in a process."""
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", passphrase.encode(), _INFO, _ROUNDS))
