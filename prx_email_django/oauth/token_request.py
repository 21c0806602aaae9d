"""``TokenRequest``: what to ask for an account's token, with the defaults of each provider."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import quote

from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf.references import resolve
from prx_email_django.oauth.token import misconfigured
from prx_email_django.rules.words import words as _

GOOGLE_URL = "https://oauth2.googleapis.com/token"
MICROSOFT_URL = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
#: The only scope of Google that allows SMTP (developers.google.com/gmail/imap/xoauth2-protocol).
GOOGLE_SCOPE = "https://mail.google.com/"
#: Scopes of Microsoft: with a person's refresh token, and for an application that signs in as itself
#: (learn.microsoft.com, "Authenticate an IMAP, POP or SMTP connection using OAuth").
MICROSOFT_SCOPE = "https://outlook.office.com/SMTP.Send offline_access"
MICROSOFT_APP_SCOPE = "https://outlook.office365.com/.default"


class Grant(StrEnum):
    """How a token is requested; the values are those of ``grant_type`` (RFC 6749), but for ``CALLABLE``."""

    REFRESH_TOKEN = "refresh_token"  # noqa: S105  (the name of a grant, no secret)
    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
    CALLABLE = "callable"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Everything that is needed to ask for a token; ``callable`` is a dotted path, called with ``account``.

    ``parameters`` are further fields of the form: a code with its verifier, or the code of a device.
    """

    grant: Grant
    url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    scope: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    callable: str = ""
    account: object = field(default=None, repr=False)


class OAuthAccount(Protocol):
    """The fields of an ``Account`` that are read here; all of them are text."""

    oauth_provider: Any
    oauth_client_id: Any
    oauth_client_secret: Any
    oauth_refresh_token: Any
    oauth_tenant: Any
    oauth_scope: Any
    oauth_token_url: Any
    oauth_callable: Any


@sensitive_variables()
def token_request(account: OAuthAccount, *, refresh_token: str = "") -> TokenRequest:
    """Return the request for the token of ``account``.

    ``refresh_token`` is one that the token server issued later than the account's own; it replaces that.

    Raises:
        TokenRefused: the account lacks a field that its provider needs (permanent).
        DecryptionFailed: a secret cannot be decrypted with the present keys.
        SecretAbsent: a secret is a reference that names nothing here.
    """
    provider = str(account.oauth_provider)
    if provider == "custom" and account.oauth_callable:
        return TokenRequest(grant=Grant.CALLABLE, callable=account.oauth_callable, account=_resolved(account))
    refresh_token = refresh_token or resolve(account.oauth_refresh_token)
    secret = resolve(account.oauth_client_secret)
    grant = Grant.REFRESH_TOKEN if refresh_token else Grant.CLIENT_CREDENTIALS
    url, scope = _provider_defaults(provider, grant, account.oauth_tenant)
    url = account.oauth_token_url or url
    if not account.oauth_client_id or not (refresh_token or secret) or not url:
        raise misconfigured(
            _("the account lacks what the provider %(provider)s needs to fetch a token", provider=repr(provider))
        )
    return TokenRequest(
        grant=grant,
        url=url,
        client_id=account.oauth_client_id,
        client_secret=secret,
        refresh_token=refresh_token,
        scope=account.oauth_scope or scope,
    )


@sensitive_variables()
def _resolved(account: OAuthAccount) -> OAuthAccount:
    """The account for the host's function: a copy with the secrets themselves, where it holds references."""
    held = {name: getattr(account, name, "") for name in ("password", "oauth_client_secret", "oauth_refresh_token")}
    meant = {name: secret for name, text in held.items() if (secret := resolve(text)) != text}
    if not meant:
        return account
    account = copy.copy(account)
    for name, secret in meant.items():
        setattr(account, name, secret)
    return account


def _provider_defaults(provider: str, grant: Grant, tenant: str) -> tuple[str, str]:
    """Return token address and scope of a provider; both empty where there is no default."""
    if provider == "google":
        # Google offers no client credentials for SMTP.
        return (GOOGLE_URL, GOOGLE_SCOPE) if grant is Grant.REFRESH_TOKEN else ("", "")
    if provider != "microsoft":
        return "", ""
    if grant is Grant.REFRESH_TOKEN:
        return MICROSOFT_URL.format(tenant=quote(tenant or "common", safe="")), MICROSOFT_SCOPE
    # An application signs in to one tenant; "common" has no meaning for it.
    return (MICROSOFT_URL.format(tenant=quote(tenant, safe="")) if tenant else ""), MICROSOFT_APP_SCOPE
