"""Tokens of a Google service account with domain-wide delegation: ``pip install prx_email_django[google]``.

::

    PRX_EMAIL = {"OAUTH_CALLABLES": ["prx_email_django.contrib.google.service_account_token"]}

An account with provider ``custom`` and this function as ``oauth_callable`` holds the JSON key of the service account
as its client secret, or a reference to it.  The token is for the account's user.  The key is read at each request, so
that a new key counts at once.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from django.views.decorators.debug import sensitive_variables
from google.auth.exceptions import GoogleAuthError
from google.oauth2.service_account import Credentials

from prx_email_django.contrib._token_transport import Transport
from prx_email_django.oauth.token import TokenRefused, misconfigured
from prx_email_django.oauth.token_request import GOOGLE_SCOPE
from prx_email_django.rules.words import words as _


@sensitive_variables()
def service_account_token(account: Any) -> tuple[str, datetime | None]:
    """Return a token for the account's user, and when it ends.

    Raises:
        TokenRefused: the client secret is no key of a service account, or Google refused.
    """
    transport = Transport()
    try:
        key = json.loads(account.oauth_client_secret)
        scopes = (account.oauth_scope or GOOGLE_SCOPE).split()
        make: Any = Credentials.from_service_account_info  # has no types
        credentials = make(key, scopes=scopes, subject=account.user)
    except (ValueError, TypeError, AttributeError, GoogleAuthError):
        raise misconfigured(_("the client secret is not the JSON key of a service account")) from None
    try:
        credentials.refresh(transport)
    except TokenRefused:
        raise
    except GoogleAuthError:
        transport.refuse()
    ends_at = credentials.expiry
    return str(credentials.token), ends_at.replace(tzinfo=UTC) if ends_at is not None else None
