"""Result of a request for a token: a ``Token``, or the exception ``TokenRefused``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prx_email_django.rules.text import clean
from prx_email_django.rules.words import words as _

#: Characters that an access token may have in a SASL response: a control character would end its field.
_TOKEN = re.compile(r"[\x21-\x7e]+")


class TokenRefused(Exception):
    """There is no token.  ``permanent``: a person must act; otherwise another try may succeed.

    ``code`` is the server's error (``invalid_grant``…), or ``configuration``, ``callable``, ``network``, ``tls``,
    ``timeout``, ``http`` or ``answer``.  The text has at most 160 characters and no secret.  ``retry_after``: the
    server asks not to be asked again before this time has passed (RFC 9110 §10.2.3).
    """

    def __init__(self, message: str, *, permanent: bool, code: str, retry_after: timedelta | None = None) -> None:
        super().__init__(clean(message))
        #: The text that a face translates.
        self.said = message
        self.permanent = permanent
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token.

    Its expiry is a ``lifetime`` counted from the request (token servers), or an instant ``expires_at`` (functions of
    the host project), or not known.  ``refresh_token`` is set where the server issued a new one.  Store it: the old one
    may not be valid any more.
    """

    access_token: str = field(repr=False)
    lifetime: timedelta | None = None
    expires_at: datetime | None = None
    refresh_token: str | None = field(default=None, repr=False)


def usable(token: object, *, permanent: bool) -> str:
    """Return ``token`` if it can be sent to a mail server.

    Raises:
        TokenRefused: it is no text, or has characters that a SASL response cannot carry.
    """
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenRefused(_("the answer has no usable access token"), permanent=permanent, code="answer")
    return token


def misconfigured(message: str) -> TokenRefused:
    """Return the error of a wrong configuration, which only a person can correct."""
    return TokenRefused(message, permanent=True, code="configuration")
