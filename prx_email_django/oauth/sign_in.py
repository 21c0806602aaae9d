"""A person signs in and permits this app to send: authorization code with PKCE (RFC 6749 §4.1, RFC 7636).

``begin`` makes the address to open in a browser, and the secrets of this one attempt (``SignIn``), which the caller
keeps until the browser comes back.  ``finish`` judges what came back, exchanges the code, and compares the person.
Nothing is stored here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from django.views.decorators.debug import sensitive_variables

from prx_email_django.oauth.servers import AuthorizationServer, authorization_server
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.oauth.token_server import ERROR_NAME, REFRESH_TOKEN, post_form, token_form
from prx_email_django.rules.domains import folded_address
from prx_email_django.rules.words import words as _

#: Seconds for the exchange of a code.
EXCHANGE_TIMEOUT = 20.0
#: Seconds by which the clocks of this machine and of the server may differ.
_CLOCK_SKEW = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """The secrets of one sign-in, and what it was begun with.  All values are text, so that a session can hold them."""

    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str
    token_url: str
    client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """What a sign-in gave: the refresh token, and the address of the person."""

    refresh_token: str = field(repr=False)
    address: str


@sensitive_variables()
def begin(account: Any, *, redirect_uri: str, state: str = "") -> tuple[SignIn, str]:
    """Return a new sign-in for the account, and the address that the person opens in a browser.

    Raises:
        TokenRefused: the account cannot sign in anywhere (permanent).
    """
    server = authorization_server(account)
    started = SignIn(
        state=state or secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(64),
        redirect_uri=redirect_uri,
        token_url=server.client.url,
        client_id=server.client.client_id,
    )
    challenge = base64.urlsafe_b64encode(hashlib.sha256(started.verifier.encode()).digest()).rstrip(b"=")
    query = {
        "response_type": "code",
        "client_id": started.client_id,
        "redirect_uri": redirect_uri,
        "scope": server.client.scope,
        "state": started.state,
        "nonce": started.nonce,
        "code_challenge": challenge.decode(),
        "code_challenge_method": "S256",
        "login_hint": _wanted_address(account),
        **server.parameters,
    }
    joint = "&" if "?" in server.authorization_url else "?"
    return started, server.authorization_url + joint + urlencode(
        {name: value for name, value in query.items() if value}
    )


@sensitive_variables()
def finish(account: Any, started: SignIn, answer: Mapping[str, str]) -> SignedIn:
    """Judge the parameters with which the browser came back, and exchange the code.

    Raises:
        TokenRefused: the answer is not that of this sign-in, the person or the server refused, or another person has
            signed in.
    """
    server = authorization_server(account)
    if not hmac.compare_digest(answer.get("state", "").encode(), started.state.encode()):
        raise refused(_("this answer belongs to no sign-in that was begun here"), "state")
    if (server.client.url, server.client.client_id) != (started.token_url, started.client_id):
        raise refused(_("the account was given another provider or client id during the sign-in"), "changed")
    if "iss" in answer and not _is_issuer(answer["iss"], server):  # mix-up of servers (RFC 9207 §2.4)
        raise refused(_("another authorization server has answered"), "issuer")
    if "error" in answer:
        raise _not_permitted(answer["error"])
    if not answer.get("code"):
        raise refused(_("the authorization server sent no code"), "code")
    parameters = {
        "code": answer["code"],
        "redirect_uri": started.redirect_uri,
        "code_verifier": started.verifier,
    }
    request = replace(server.client, scope="", parameters=parameters)
    tokens = post_form(request.url, token_form(request), timeout=EXCHANGE_TIMEOUT)
    return signed_in(account, server, tokens, nonce=started.nonce)


@sensitive_variables()
def signed_in(account: Any, server: AuthorizationServer, tokens: Mapping[str, Any], *, nonce: str) -> SignedIn:
    """Return the refresh token of a token answer, after the person was compared with the account.

    The ID token has come from the token address over TLS, so that its signature need not be verified (OpenID Connect
    Core §3.1.3.7, 6); issuer, audience, expiry and nonce are.  An empty ``nonce`` was not sent (device flow).

    Raises:
        TokenRefused: there is no refresh token, or it is another person's.
    """
    claims = _claims(tokens.get("id_token"))
    _check_claims(claims, server, nonce)
    addresses = _addresses(claims)
    wanted = _wanted_address(account)
    if folded_address(wanted) not in map(folded_address, addresses):  # to providers case makes no difference
        shown = addresses[0] if addresses else "nobody with an address"
        raise refused(
            _("signed in was %(shown)s, but the account is for %(wanted)s", shown=shown, wanted=wanted), "person"
        )
    token = tokens.get("refresh_token")
    if not isinstance(token, str) or not REFRESH_TOKEN.fullmatch(token):
        raise refused(_("the authorization server issued no refresh token"), "offline")
    return SignedIn(refresh_token=token, address=wanted)


def refused(message: str, code: str) -> TokenRefused:
    """Return the error of a sign-in that failed for good: the person must begin again."""
    return TokenRefused(message, permanent=True, code=code)


def _not_permitted(error: str) -> TokenRefused:
    name = error if ERROR_NAME.fullmatch(error) else "unknown error"
    if name == "access_denied":
        return refused(_("the sign-in was cancelled, or consent was denied"), name)
    return refused(_("the authorization server refused: %(error)s", error=name), name)


def _wanted_address(account: Any) -> str:
    """The mailbox that must sign in: the user, which the mail server compares with the token, or the email address."""
    return str(account.user if "@" in account.user else account.email or account.user)


def _is_issuer(issuer: str, server: AuthorizationServer, tenant: str = "") -> bool:
    """Whether the server bears this name; without the claim ``tid``, any one tenant of it fits."""
    for expected in server.issuers:
        before, marker, after = expected.partition("{tenantid}")
        if not marker:
            fits = issuer == expected
        elif tenant:
            fits = issuer == f"{before}{tenant}{after}"
        else:
            middle = issuer.removeprefix(before).removesuffix(after)
            fits = issuer == f"{before}{middle}{after}" and bool(middle) and "/" not in middle
        if fits:
            return True
    return False


def _claims(token: object) -> Mapping[str, Any]:
    """The claims of an ID token (a JWT, RFC 7519); empty where it is none."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _check_claims(claims: Mapping[str, Any], server: AuthorizationServer, nonce: str) -> None:
    """Check what OpenID Connect Core §3.1.3.7 demands beside the signature."""
    audience, client = claims.get("aud"), server.client.client_id
    audiences = audience if isinstance(audience, list) else [audience]
    ends_at = claims.get("exp")
    if not claims:
        raise refused(_("the authorization server does not say who signed in"), "id_token")
    if not _is_issuer(str(claims.get("iss", "")), server, str(claims.get("tid", ""))):
        raise refused(_("the ID token is from another authorization server"), "issuer")
    if client not in audiences or (len(audiences) > 1 and claims.get("azp") != client):
        raise refused(_("the ID token is for another application"), "audience")
    if not isinstance(ends_at, int | float) or ends_at + _CLOCK_SKEW < time.time():
        raise refused(_("the ID token has expired: is the clock of this machine right"), "expired")
    if nonce and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise refused(_("the ID token belongs to another sign-in"), "nonce")


def _addresses(claims: Mapping[str, Any]) -> list[str]:
    """The addresses of the person; Microsoft has the sign-in name in ``preferred_username`` or ``upn``."""
    names = ["email", "preferred_username", "upn"]
    if claims.get("email_verified") in (False, "false"):
        names.remove("email")
    return [str(claims[name]) for name in names if isinstance(claims.get(name), str) and "@" in claims[name]]
