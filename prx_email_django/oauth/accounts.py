"""From an account to the request for its token: the defaults of each provider."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

from django.views.decorators.debug import sensitive_variables

from prx_email_django.oauth.values import Grant, TokenRequest, misconfigured

GOOGLE_URL = "https://oauth2.googleapis.com/token"
MICROSOFT_URL = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
#: The only one that opens SMTP (developers.google.com/gmail/imap/xoauth2-protocol).
GOOGLE_SCOPE = "https://mail.google.com/"
#: With a person's refresh token, and as an application of its own (learn.microsoft.com, "Authenticate an IMAP, POP or
#: SMTP connection using OAuth").
MICROSOFT_SCOPE = "https://outlook.office.com/SMTP.Send offline_access"
MICROSOFT_APP_SCOPE = "https://outlook.office365.com/.default"


class OAuthAccount(Protocol):
    """What of an ``Account`` matters here; all of them text."""

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
    """Return what to ask for ``account``; ``refresh_token`` is a newer one than the account's own.

    Raises ``TokenRefused`` (permanent) where the account lacks what its provider needs, and ``DecryptionFailed``.
    """
    provider = str(account.oauth_provider)
    if provider == "custom" and account.oauth_callable:
        return TokenRequest(grant=Grant.CALLABLE, callable=account.oauth_callable, account=account)
    refresh_token = refresh_token or account.oauth_refresh_token
    secret = account.oauth_client_secret
    grant = Grant.REFRESH_TOKEN if refresh_token else Grant.CLIENT_CREDENTIALS
    url, scope = _provider_defaults(provider, grant, account.oauth_tenant)
    url = account.oauth_token_url or url
    if not account.oauth_client_id or not (refresh_token or secret) or not url:
        raise misconfigured(f"the account lacks what the provider {provider!r} needs to fetch a token")
    return TokenRequest(
        grant=grant,
        url=url,
        client_id=account.oauth_client_id,
        client_secret=secret,
        refresh_token=refresh_token,
        scope=account.oauth_scope or scope,
    )


def _provider_defaults(provider: str, grant: Grant, tenant: str) -> tuple[str, str]:
    """Return the address and the scope of a provider, empty where there are none."""
    if provider == "google":
        # Google has no client credentials for mailboxes.
        return (GOOGLE_URL, GOOGLE_SCOPE) if grant is Grant.REFRESH_TOKEN else ("", "")
    if provider != "microsoft":
        return "", ""
    if grant is Grant.REFRESH_TOKEN:
        return MICROSOFT_URL.format(tenant=quote(tenant or "common", safe="")), MICROSOFT_SCOPE
    # An application signs in to one tenant; "common" has no meaning for it.
    return (MICROSOFT_URL.format(tenant=quote(tenant, safe="")) if tenant else ""), MICROSOFT_APP_SCOPE
