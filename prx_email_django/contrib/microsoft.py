"""Tokens of a Microsoft application that signs in by a certificate: ``pip install prx_email_django[microsoft]``.

::

    PRX_EMAIL = {"OAUTH_CALLABLES": ["prx_email_django.contrib.microsoft.certificate_token"]}

An account with provider ``custom`` and this function as ``oauth_callable`` holds client id and tenant, and as its
client secret the private key with the certificate (PEM, one after the other), or a reference to a file with both.  They
are read at each request, so that a renewed certificate counts at once.  A token address names another cloud of
Microsoft.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.views.decorators.debug import sensitive_variables
from msal import ConfidentialClientApplication

from prx_email_django.contrib._token_transport import Transport
from prx_email_django.oauth.token import TokenRefused, misconfigured
from prx_email_django.oauth.token_request import MICROSOFT_APP_SCOPE, MICROSOFT_URL
from prx_email_django.rules.words import words as _

_TOKEN_PATH = "/oauth2/v2.0/token"  # noqa: S105  (a path, no secret)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


@sensitive_variables()
def certificate_token(account: Any) -> tuple[str, datetime | None]:
    """Return a token of the application, and when it ends.

    Raises:
        TokenRefused: tenant, client id, key or certificate is missing or of no use, or Microsoft refused.
    """
    if not account.oauth_client_id or not (account.oauth_tenant or account.oauth_token_url):
        raise misconfigured(_("the certificate of the application needs client id and tenant of the account"))
    key, certificate = _key_and_certificate(account.oauth_client_secret)
    address = account.oauth_token_url or MICROSOFT_URL.format(tenant=quote(account.oauth_tenant, safe=""))
    transport = Transport()
    try:
        application = ConfidentialClientApplication(
            account.oauth_client_id,
            authority=address.removesuffix(_TOKEN_PATH),
            client_credential={"private_key": key, "public_certificate": certificate},
            http_client=transport,
            instance_discovery=False,  # the operator names the host; ACCOUNT_HOSTS holds
        )
        answer = application.acquire_token_for_client(scopes=[account.oauth_scope or MICROSOFT_APP_SCOPE])
    except TokenRefused:
        raise
    except (ValueError, TypeError):
        if transport.last is not None and transport.last.status != 200:
            transport.refuse()
        raise misconfigured(_("the certificate of the application cannot be used: check key and tenant")) from None
    if "access_token" not in answer:
        transport.refuse()
    lifetime = answer.get("expires_in")
    ends_at = datetime.now(UTC) + timedelta(seconds=int(lifetime)) if lifetime else None
    return str(answer["access_token"]), ends_at


@sensitive_variables()
def _key_and_certificate(text: str) -> tuple[str, str]:
    blocks = {match[1]: match[0] for match in _PEM.finditer(text or "")}
    key = next((block for name, block in blocks.items() if name.endswith("PRIVATE KEY")), "")
    if not key or "CERTIFICATE" not in blocks:
        raise misconfigured(_("the client secret must hold private key and certificate of the application, as PEM"))
    return key, blocks["CERTIFICATE"]
