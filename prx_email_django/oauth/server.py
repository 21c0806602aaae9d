"""Tokens from a token server: one form POST (RFC 6749 §4.4.2, §6), over verified TLS, followed nowhere else."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib import request as http
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit

from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.oauth.values import Grant, Token, TokenRefused, TokenRequest, misconfigured, usable
from prx_email_django.rules.hosts import check_token_url, is_loopback

#: Octets of an answer; a token with all around it has a few thousand.
MAX_ANSWER = 65_536
_LONGEST_LIFE = 10 * 365 * 86_400.0
#: Errors that pass by themselves, also where they come with a 4xx (RFC 6749 §4.1.2.1, RFC 8628 §3.5).
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_PASSING_CODES = frozenset({408, 425, 429})
_ERROR_NAME = re.compile(r"[a-z_]{1,40}")
#: Microsoft's number for the reason, the one useful part of its description.
_AADSTS = re.compile(r"AADSTS\d{4,8}")


class _EveryAnswer(http.HTTPErrorProcessor):
    """Hands every answer back, whatever its code: no redirect is followed, a secret goes to one address only."""

    def http_response(self, request: http.Request, response: HTTPResponse) -> HTTPResponse:
        return response

    https_response = http_response


@sensitive_variables()
def post(request: TokenRequest, *, timeout: float) -> Token:
    """Ask once, and read the answer to its end or until ``timeout`` seconds are over.  Raises ``TokenRefused``."""
    try:
        check_token_url(request.url)
    except ValueError as error:
        raise misconfigured(str(error)) from None
    asked_at, deadline = datetime.now(UTC), time.monotonic() + timeout
    headers = {"Accept": "application/json", "User-Agent": "prx_email_django"}
    asked = http.Request(request.url, data=_form(request), headers=headers, method="POST")  # noqa: S310 - checked above
    try:
        with _opener(request.url).open(asked, timeout=timeout) as response:
            code, answer = response.status, _answer(_read(response, deadline))
    except (OSError, HTTPException) as error:
        raise _unreachable(error) from None
    if code != 200:
        raise _refused(code, answer)
    return _granted(answer, request, asked_at)


@sensitive_variables()
def _form(request: TokenRequest) -> bytes:
    form = {
        "grant_type": request.grant.value,
        "client_id": request.client_id,
        "client_secret": request.client_secret,
        "refresh_token": request.refresh_token if request.grant is Grant.REFRESH_TOKEN else "",
        "scope": request.scope,
    }
    return urlencode({name: value for name, value in form.items() if value}).encode()


def _opener(url: str) -> http.OpenerDirector:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authorities = outbox_settings().tls_ca_file
    if authorities:
        context.load_verify_locations(authorities)  # beside the system's: providers are on the internet
    local = is_loopback(urlsplit(url).hostname or "")
    proxies = http.ProxyHandler({} if local else None)  # None: as the environment says
    return http.build_opener(http.HTTPSHandler(context=context), proxies, _EveryAnswer())


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """Read the answer in pieces, so that a server that drips is left at the deadline."""
    body = b""
    while piece := response.read1(MAX_ANSWER):
        body += piece
        if len(body) > MAX_ANSWER:
            raise TokenRefused("the answer of the token server is too long", permanent=False, code="answer")
        if time.monotonic() > deadline:
            raise TimeoutError
    return body


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
        access_token=usable(answer.get("access_token"), permanent=False),
        expires_at=None if life is None else asked_at + timedelta(seconds=life),
        refresh_token=renewed if fresh else None,
    )


def _seconds(value: object) -> float | None:
    """Return ``expires_in``, which some servers send as text; None where it is missing or absurd."""
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds <= _LONGEST_LIFE else None


def _refused(code: int, answer: Mapping[str, Any]) -> TokenRefused:
    """Judge an answer other than 200.  What is no OAuth error may not come from the token server: it passes."""
    name = answer.get("error")
    if 300 <= code < 400:
        return TokenRefused(f"the token address redirects (HTTP {code})", permanent=True, code="http")
    if not isinstance(name, str) or not _ERROR_NAME.fullmatch(name):
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
