"""A person signs in at another device, with a code that the terminal shows (RFC 8628)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import sleep
from typing import Any

from django.views.decorators.debug import sensitive_variables

from prx_email_django.oauth.servers import authorization_server
from prx_email_django.oauth.sign_in import EXCHANGE_TIMEOUT, SignedIn, refused, signed_in
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.oauth.token_request import Grant
from prx_email_django.oauth.token_server import post_form, token_form
from prx_email_django.rules.hosts import check_token_url
from prx_email_django.rules.words import words as _

#: Seconds between two questions where the server names none, and what ``slow_down`` adds (RFC 8628 §3.2, §3.5).
_INTERVAL = 5.0
_LONGEST_INTERVAL = 60.0
#: Seconds that a code lives at most, whatever the server says.
_LONGEST_LIFE = 1800.0
_NOT_REACHED = frozenset({"network", "timeout", "tls", "http"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What the terminal shows (``user_code`` and ``address``), and how the server wants to be asked; in seconds."""

    user_code: str
    address: str
    device_code: str = field(repr=False)
    interval: float
    lifetime: float


@sensitive_variables()
def begin(account: Any) -> DeviceCode:
    """Ask the authorization server for a code.

    Raises:
        TokenRefused: the server has no device flow, or refused.
    """
    server = authorization_server(account)
    if not server.device_url:
        raise refused(_("the authorization server has no device flow"), "device")
    form = {"client_id": server.client.client_id, "scope": server.client.scope}
    answer = post_form(server.device_url, form, timeout=EXCHANGE_TIMEOUT)
    # Google names the address differently than RFC 8628.
    code, address = answer.get("user_code"), answer.get("verification_uri", answer.get("verification_url"))
    device_code = answer.get("device_code")
    if not all(
        isinstance(text, str) and text.isascii() and text.isprintable() for text in (code, address, device_code)
    ):
        raise refused(_("the authorization server sent no usable device code"), "device")
    try:
        check_token_url(str(address))
    except ValueError:
        raise refused(_("the authorization server sent no usable device code"), "device") from None
    return DeviceCode(
        user_code=str(code),
        address=str(address),
        device_code=str(device_code),
        interval=min(max(_seconds(answer.get("interval"), _INTERVAL), 1.0), _LONGEST_INTERVAL),
        lifetime=min(_seconds(answer.get("expires_in"), _LONGEST_LIFE), _LONGEST_LIFE),
    )


@sensitive_variables()
def finish(account: Any, code: DeviceCode) -> SignedIn:
    """Ask until the person has signed in, as slowly as the server wants (RFC 8628 §3.5).

    Raises:
        TokenRefused: the person refused, the code has expired, or another person has signed in.
    """
    server = authorization_server(account)
    request = replace(server.client, grant=Grant.DEVICE_CODE, scope="", parameters={"device_code": code.device_code})
    interval, remaining = code.interval, code.lifetime
    while remaining > 0:
        sleep(interval)
        remaining -= interval
        try:
            tokens = post_form(request.url, token_form(request), timeout=EXCHANGE_TIMEOUT)
        except TokenRefused as error:
            interval = _next_interval(error, interval)
        else:
            return signed_in(account, server, tokens, nonce="")
    raise _expired()


def _next_interval(error: TokenRefused, interval: float) -> float:
    """Return the seconds to the next question, or raise what ends the sign-in."""
    if error.code == "authorization_pending":
        return interval
    if error.code == "slow_down":
        return min(interval + 5.0, _LONGEST_INTERVAL)
    if error.code in _NOT_REACHED and not error.permanent:
        return min(interval * 2, _LONGEST_INTERVAL)
    if error.code == "expired_token":
        raise _expired() from None
    # Microsoft says authorization_declined.
    if error.code in ("access_denied", "authorization_declined"):
        raise refused(_("the sign-in was cancelled, or consent was denied"), "access_denied") from None
    raise error


def _expired() -> TokenRefused:
    return refused(_("the code expired before anybody signed in"), "expired_token")


def _seconds(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else default
