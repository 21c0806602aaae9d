"""Access tokens that a server can verify by itself: JSON Web Tokens with a shared key (RFC 7519, HS256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

KEY = b"the signing key of an identity provider that does not exist"


def token(user: str, *, seconds: int = 600, key: bytes = KEY) -> str:
    """A token of this user that is valid for ``seconds`` from now."""
    now = int(time.time())
    head = {"alg": "HS256", "typ": "JWT"}
    claims = {"email": user, "sub": user, "iat": now - 3600, "nbf": now - 3600, "exp": now + seconds}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{_base64(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
