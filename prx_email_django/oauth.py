"""Fetches access tokens: one form POST to a token server (RFC 6749 §4.4, §6), or a call of the host's own function.

Network side: no database, no lock, nothing stored; the caller keeps what comes back, the new refresh token too.
No text of a server or of a function is repeated in an error: it may hold a secret.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import json
import re
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http.client import HTTPException, HTTPResponse
from typing import Any, Protocol, TypeVar
from urllib import request as http
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit

from django.db import connections
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.hosts import is_loopback

T = TypeVar("T")

GOOGLE_URL = "https://oauth2.googleapis.com/token"
MICROSOFT_URL = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
GOOGLE_SCOPE = "https://mail.google.com/"
#: For a person's refresh token, and for an application of its own.
MICROSOFT_SCOPE = "https://outlook.office.com/SMTP.Send offline_access"
MICROSOFT_APP_SCOPE = "https://outlook.office365.com/.default"

#: Octets of an answer; a token with all around it has a few thousand.
MAX_ANSWER = 65_536
MAX_ERROR = 160
_LONGEST_LIFE = 10 * 365 * 86_400.0
#: Errors that pass by themselves, also where they come with a 4xx (RFC 6749 §4.1.2.1, RFC 8628 §3.5).
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_PASSING_CODES = frozenset({408, 425, 429})
_ERROR_NAME = re.compile(r"[a-z_]{1,40}")
#: Microsoft's number for the reason, the one useful part of its description.
_AADSTS = re.compile(r"AADSTS\d{4,8}")
#: What may stand in an SASL answer: a control character would end the field that holds the token.
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Grant(StrEnum):
    """How a token is asked for."""

    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the name of a grant
    CLIENT_CREDENTIALS = "client_credentials"
    CALLABLE = "callable"


class TokenRefused(Exception):
    """No token.  ``permanent``: until a person acts; otherwise it is worth another try.

    ``code`` is the server's error (``invalid_grant``…), or ``configuration``, ``network``, ``tls``, ``timeout``,
    ``http`` or ``answer``.  The text has at most 160 characters and no secret.
    """

    def __init__(self, message: str, *, permanent: bool, code: str) -> None:
        super().__init__(message[:MAX_ERROR])
        self.permanent = permanent
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """All that is needed to ask for a token; ``callable`` is the dotted path called with ``account``."""

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


class OAuthAccount(Protocol):
    """What of an ``Account`` matters here."""

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
        raise _misconfigured(f"the account lacks what the provider {provider!r} needs to fetch a token")
    return TokenRequest(
        grant=grant,
        url=url,
        client_id=account.oauth_client_id,
        client_secret=secret,
        refresh_token=refresh_token,
        scope=account.oauth_scope or scope,
    )


def _provider_defaults(provider: str, grant: Grant, tenant: str) -> tuple[str, str]:
    """Return the address and scope of a provider, empty where there are none."""
    if provider == "google":
        # Google has no client credentials for mailboxes.
        return (GOOGLE_URL, GOOGLE_SCOPE) if grant is Grant.REFRESH_TOKEN else ("", "")
    if provider != "microsoft":
        return "", ""
    if grant is Grant.REFRESH_TOKEN:
        return MICROSOFT_URL.format(tenant=quote(tenant or "common", safe="")), MICROSOFT_SCOPE
    # An application signs in to one tenant; "common" has no meaning for it.
    return (MICROSOFT_URL.format(tenant=quote(tenant, safe="")) if tenant else ""), MICROSOFT_APP_SCOPE


def check_token_url(url: str) -> None:
    """Raise ``ValueError`` unless ``url`` is https, or http to loopback, without user and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        well_formed = bool(host) and parts.port != 0 and "@" not in parts.netloc and not parts.fragment
    except ValueError:
        well_formed, host = False, ""
    if not well_formed or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the token address is no URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("the token address must be https (http only to loopback)")


async def fetch_token(request: TokenRequest, *, timeout: float) -> Token:
    """Fetch a token within ``timeout`` seconds, without blocking the event loop.

    Raises ``TokenRefused``.  What is still running after the timeout runs on in a daemon thread, its result dropped.
    """
    try:
        async with asyncio.timeout(timeout):
            if request.grant is Grant.CALLABLE:
                return await _call(request)
            return await _in_thread(lambda: _post(request, timeout=timeout))
    except TimeoutError:
        raise TokenRefused(f"no token within {timeout:g} seconds", permanent=False, code="timeout") from None


async def _in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a daemon thread: unlike the loop's own executor, one that hangs delays no exit."""
    work: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(function)
        except Exception as error:  # noqa: BLE001 - carried over to whoever awaits
            work.set_exception(error)
        else:
            work.set_result(result)

    work.set_running_or_notify_cancel()
    threading.Thread(target=run, name="prx-email-token", daemon=True).start()
    return await asyncio.wrap_future(work)


# --- the host's own function ----------------------------------------------------------------------------------------


async def _call(request: TokenRequest) -> Token:
    function = _listed(request.callable)
    try:
        if inspect.iscoroutinefunction(function):
            answer = await function(request.account)
        else:
            answer = await _in_thread(lambda: _call_sync(function, request.account))
    except (TokenRefused, TimeoutError):
        raise
    except Exception as error:  # noqa: BLE001 - it is not ours and may raise anything
        raise TokenRefused(_where(request.callable, error), permanent=False, code="callable") from None
    return _called(request.callable, answer)


def _listed(path: str) -> Callable[[object], Any]:
    if path not in outbox_settings().oauth_callables:
        raise _misconfigured("OAUTH_CALLABLES does not list the account's OAuth callable")
    try:
        function = import_string(path)
    except ImportError:
        raise _misconfigured(f"{path} can't be imported") from None
    if not callable(function):
        raise _misconfigured(f"{path} is not a function")
    return function  # type: ignore[no-any-return]


def _call_sync(function: Callable[[object], Any], account: object) -> Any:
    try:
        return function(account)
    finally:
        connections.close_all()  # this thread's own, which ends here


def _where(path: str, error: Exception) -> str:
    """Say what was raised, and on which line, without its text."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{path} raised {type(error).__name__} in {frame.name}, line {frame.lineno}"


@sensitive_variables()
def _called(path: str, answer: object) -> Token:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TokenRefused(f"{path} must return (token, expires_at | None)", permanent=True, code="answer")
    token, expires_at = answer
    if expires_at is not None and (not isinstance(expires_at, datetime) or expires_at.tzinfo is None):
        raise TokenRefused(f"{path} must return an aware datetime, or None", permanent=True, code="answer")
    return Token(access_token=_usable(token), expires_at=expires_at)


# --- a token server -------------------------------------------------------------------------------------------------


class _NoRedirect(http.HTTPRedirectHandler):
    """A redirect would carry the secret to an address that nobody approved."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener(url: str) -> http.OpenerDirector:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authorities = outbox_settings().tls_ca_file
    if authorities:
        context.load_verify_locations(authorities)  # beside the system's: providers are on the internet
    local = is_loopback(urlsplit(url).hostname or "")
    return http.build_opener(
        http.HTTPSHandler(context=context), http.ProxyHandler({} if local else None), _NoRedirect()
    )


@sensitive_variables()
def _post(request: TokenRequest, *, timeout: float) -> Token:
    """Ask once, and read the answer to its end or to the deadline."""
    try:
        check_token_url(request.url)
    except ValueError as error:
        raise _misconfigured(str(error)) from None
    asked_at, deadline = datetime.now(UTC), time.monotonic() + timeout
    form = {
        "grant_type": request.grant.value,
        "client_id": request.client_id,
        "client_secret": request.client_secret,
        "refresh_token": request.refresh_token if request.grant is Grant.REFRESH_TOKEN else "",
        "scope": request.scope,
    }
    body = urlencode({name: value for name, value in form.items() if value}).encode()
    headers = {"Accept": "application/json", "User-Agent": "prx_email_django"}
    post = http.Request(request.url, data=body, headers=headers, method="POST")  # noqa: S310 - checked above
    try:
        with _opener(request.url).open(post, timeout=timeout) as response:
            return _granted(_answer(_read(response, deadline)), request, asked_at)
    except HTTPError as error:
        with error:
            raise _refused(error.code, _answer(_read(error, deadline))) from None
    except (OSError, HTTPException) as error:
        raise _unreachable(error) from None


def _read(response: HTTPResponse | HTTPError, deadline: float) -> bytes:
    """Read the answer in pieces, so that a server that drips is left at the deadline."""
    pieces, length = [], 0
    while length <= MAX_ANSWER and (piece := response.read1(MAX_ANSWER)):
        pieces.append(piece)
        length += len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
    if length > MAX_ANSWER:
        raise TokenRefused("the token server's answer is too long", permanent=False, code="answer")
    return b"".join(pieces)


def _answer(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of an answer, empty where it is none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


@sensitive_variables()
def _granted(answer: Mapping[str, Any], request: TokenRequest, asked_at: datetime) -> Token:
    life, renewed = _seconds(answer.get("expires_in")), answer.get("refresh_token")
    fresh = isinstance(renewed, str) and bool(renewed) and renewed != request.refresh_token
    return Token(
        access_token=_usable(answer.get("access_token")),
        expires_at=None if life is None else asked_at + timedelta(seconds=life),
        refresh_token=renewed if fresh else None,
    )


def _usable(token: object) -> str:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenRefused("what came back holds no usable access token", permanent=False, code="answer")
    return token


def _seconds(value: object) -> float | None:
    """Return ``expires_in``, which some servers send as text; None where it is missing or absurd."""
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds <= _LONGEST_LIFE else None


def _refused(code: int, answer: Mapping[str, Any]) -> TokenRefused:
    """Judge an answer other than 200.  What is no OAuth error did not come from the token server: it passes."""
    name = answer.get("error")
    if not isinstance(name, str) or not _ERROR_NAME.fullmatch(name):
        if 300 <= code < 400:
            return TokenRefused(f"the token address redirects (HTTP {code})", permanent=True, code="http")
        return TokenRefused(f"the token server answered HTTP {code}", permanent=False, code="http")
    passing = code >= 500 or code in _PASSING_CODES or name in _PASSING
    number = _AADSTS.match(str(answer.get("error_description", "")))
    reason = f"{name} ({number[0]})" if number else name
    return TokenRefused(f"the token server refused: {reason}", permanent=not passing, code=name)


def _unreachable(error: OSError | HTTPException) -> TokenRefused:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return TokenRefused("the token server did not answer in time", permanent=False, code="timeout")
    if isinstance(reason, ssl.SSLError):
        why = getattr(reason, "verify_message", "") or reason.reason or "failed"
        return TokenRefused(f"TLS to the token server: {why}", permanent=False, code="tls")
    return TokenRefused(f"the token server can't be reached ({type(reason).__name__})", permanent=False, code="network")


def _misconfigured(message: str) -> TokenRefused:
    return TokenRefused(message, permanent=True, code="configuration")
