"""What is asked, what comes back, and why nothing came."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from prx_email_django.rules.text import cut

#: What may stand in an SASL answer: a control character would end the field that holds the token.
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Grant(StrEnum):
    """How a token is asked for."""

    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
    CLIENT_CREDENTIALS = "client_credentials"
    CALLABLE = "callable"


class TokenRefused(Exception):
    """No token.  ``permanent``: until a person acts; otherwise it is worth another try.

    ``code`` is the server's error (``invalid_grant``…), or ``configuration``, ``callable``, ``network``, ``tls``,
    ``timeout``, ``http`` or ``answer``.  The text has at most 160 characters and no secret.
    """

    def __init__(self, message: str, *, permanent: bool, code: str) -> None:
        super().__init__(cut(message))
        self.permanent = permanent
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """All that is needed to ask for a token; ``callable`` is the dotted path that is called with ``account``."""

    grant: Grant
    url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    scope: str = ""
    callable: str = ""
    account: object = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token; ``expires_at`` is None where nobody told.

    ``refresh_token`` is set where the server gave out a new one: the old one may be dead, so store it.
    """

    access_token: str = field(repr=False)
    expires_at: datetime | None = None
    refresh_token: str | None = field(default=None, repr=False)


def usable(token: object, *, permanent: bool) -> str:
    """Return ``token`` if it can be sent to a mail server, else raise ``TokenRefused``."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenRefused("what came back is no usable access token", permanent=permanent, code="answer")
    return token


def misconfigured(message: str) -> TokenRefused:
    """Return the error that only a person can mend."""
    return TokenRefused(message, permanent=True, code="configuration")
