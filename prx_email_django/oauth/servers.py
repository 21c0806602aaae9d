"""Authorization servers at which a person signs in: Google's, Microsoft's with its national clouds, and others.

``authorization_server`` finds the server of an account.  Google and Microsoft are known; a Microsoft cloud of its own
(``oauth_token_url`` at another host) has its addresses beside its token address; ``OAUTH_SERVERS`` names the addresses
of every other server.  All are https, or http to loopback, at hosts that ``ACCOUNT_HOSTS`` allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.oauth.token import misconfigured
from prx_email_django.oauth.token_hosts import PROVIDER_HOSTS
from prx_email_django.oauth.token_request import (
    GOOGLE_SCOPE,
    MICROSOFT_SCOPE,
    Grant,
    OAuthAccount,
    TokenRequest,
    token_request,
)
from prx_email_django.rules.hosts import check_token_url, host_allowed
from prx_email_django.rules.words import words as _

_GOOGLE_AUTHORIZATION = "https://accounts.google.com/o/oauth2/v2/auth"
_GOOGLE_DEVICE = "https://oauth2.googleapis.com/device/code"
#: Both forms are documented (developers.google.com/identity/openid-connect, "ID token payload").
_GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
#: The end of every token address of Microsoft, in every cloud (learn.microsoft.com, "National clouds").
_MICROSOFT_TOKEN = "/oauth2/v2.0/token"  # noqa: S105  (a path, no secret)
#: Google issues a refresh token only for offline access, and after the first sign-in only with new consent.
_GOOGLE_PARAMETERS = {"access_type": "offline", "prompt": "consent"}
#: The account that is signed in to this browser is often the wrong one.
_SELECT_ACCOUNT = {"prompt": "select_account"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationServer:
    """Where and how a person signs in for an account.

    ``client`` is a request for a token that lacks only its grant: token address, client id, client secret, scope.
    ``issuers`` may hold ``{tenantid}``, which stands for the claim ``tid`` (Microsoft).  ``loopback`` is the host of
    the redirect address of ``outbox_authorize``.
    """

    name: str
    authorization_url: str
    device_url: str
    issuers: tuple[str, ...]
    client: TokenRequest
    parameters: Mapping[str, str] = field(default_factory=dict)
    loopback: str = "127.0.0.1"


@sensitive_variables()
def authorization_server(account: OAuthAccount) -> AuthorizationServer:
    """Return the server at which the account's person signs in.

    Raises:
        TokenRefused: the account has no such server, or lacks its client id (permanent).
        DecryptionFailed: a secret cannot be decrypted with the present keys.
    """
    provider = str(account.oauth_provider)
    # The refresh token is what the person signs in for; the request is never sent with this one.
    client = token_request(account, refresh_token="none")  # noqa: S106
    if client.grant is Grant.CALLABLE or not provider:
        raise misconfigured(_("the account has no provider at which a person can sign in"))
    server = _server(provider, account, client)
    _check(server.authorization_url)
    if server.device_url:
        _check(server.device_url)
    return server


def _server(provider: str, account: OAuthAccount, client: TokenRequest) -> AuthorizationServer:
    listed = outbox_settings().oauth_servers.get(client.url)
    wanted = str(account.oauth_scope)
    if provider == "google" and (listed or not account.oauth_token_url):
        return AuthorizationServer(
            name="Google",
            authorization_url=listed.authorization if listed else _GOOGLE_AUTHORIZATION,
            device_url=listed.device if listed else _GOOGLE_DEVICE,
            issuers=(listed.issuer,) if listed else _GOOGLE_ISSUERS,
            client=_with_scope(client, wanted or GOOGLE_SCOPE, "openid email"),
            parameters=_GOOGLE_PARAMETERS,
        )
    if provider == "microsoft" and (listed or client.url.endswith(_MICROSOFT_TOKEN)):
        tenant = client.url.removesuffix(_MICROSOFT_TOKEN)
        parts = urlsplit(client.url)
        return AuthorizationServer(
            name="Microsoft",
            authorization_url=listed.authorization if listed else f"{tenant}/oauth2/v2.0/authorize",
            device_url=listed.device if listed else f"{tenant}/oauth2/v2.0/devicecode",
            issuers=(listed.issuer if listed else f"{parts.scheme}://{parts.netloc}/{{tenantid}}/v2.0",),
            client=_with_scope(client, wanted or MICROSOFT_SCOPE, "offline_access openid email profile"),
            parameters=_SELECT_ACCOUNT,
            loopback="localhost",  # the portal lets nobody register 127.0.0.1, and ignores the port of localhost
        )
    if listed is None:
        raise misconfigured(_("OAUTH_SERVERS does not name the server of the account's token address"))
    return AuthorizationServer(
        name=urlsplit(listed.authorization).hostname or "",
        authorization_url=listed.authorization,
        device_url=listed.device,
        issuers=(listed.issuer,),
        client=_with_scope(client, wanted, "offline_access openid email"),
        parameters=_SELECT_ACCOUNT,
    )


def _with_scope(client: TokenRequest, scope: str, needed: str) -> TokenRequest:
    """The request with a scope that also gives the address of the person, and a refresh token."""
    scopes = dict.fromkeys([*scope.split(), *needed.split()])
    values: dict[str, Any] = {"url": client.url, "client_id": client.client_id, "client_secret": client.client_secret}
    return TokenRequest(grant=Grant.AUTHORIZATION_CODE, scope=" ".join(scopes), **values)


def _check(url: str) -> None:
    try:
        check_token_url(url)
    except ValueError as error:
        raise misconfigured(str(error)) from None
    host = urlsplit(url).hostname or ""
    if host not in PROVIDER_HOSTS and not host_allowed(host, outbox_settings().account_hosts):
        raise misconfigured(_("ACCOUNT_HOSTS does not allow the host of the authorization server"))
