"""Asks a token server: one form POST (RFC 6749 §4.4.2, §6) over verified TLS; redirects are not followed."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib import request as http
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit

from django.views.decorators.debug import sensitive_variables

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.authorities import UnusableFile, add_authorities, file_version
from prx_email_django.oauth.token import Token, TokenRefused, misconfigured, usable
from prx_email_django.oauth.token_hosts import checked_handlers
from prx_email_django.oauth.token_request import Grant, TokenRequest
from prx_email_django.rules.hosts import check_token_url, is_loopback
from prx_email_django.rules.words import words as _

#: Bytes of an answer; a usual answer has a few thousand.
MAX_ANSWER = 65_536
#: Seconds; a longer ``expires_in`` counts as unknown.
_MAX_LIFETIME = 10 * 365 * 86_400.0
#: Temporary errors, also where the status is 4xx (RFC 6749 §4.1.2.1, RFC 8628 §3.5).
_TEMPORARY = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
#: Characters of a refresh token (RFC 6749 §A.17), and a length that can be stored and sent.
REFRESH_TOKEN = re.compile(r"[\x20-\x7e]{1,16384}")
_DIGITS = re.compile(r"[0-9]{1,18}")
_LONGEST_WAIT = timedelta(days=1)
_TEMPORARY_STATUSES = frozenset({408, 425, 429})
ERROR_NAME = re.compile(r"[a-z_]{1,40}")
#: Microsoft's number of the reason: the useful part of its description.
_AADSTS = re.compile(r"AADSTS\d{4,8}")


class _EveryAnswer(http.HTTPErrorProcessor):
    """Returns every answer, whatever its status: no redirect is followed, so secrets go to one address only."""

    def http_response(self, request: http.Request, response: HTTPResponse) -> HTTPResponse:
        return response

    https_response = http_response


@sensitive_variables()
def post(request: TokenRequest, *, timeout: float) -> Token:
    """Ask once, and read the answer until ``timeout`` seconds have passed.

    Raises:
        TokenRefused: there is no usable token in the answer, or no answer.
    """
    return _granted(post_form(request.url, token_form(request), timeout=timeout), request)


@sensitive_variables()
def post_form(url: str, form: Mapping[str, str], *, timeout: float) -> Mapping[str, Any]:
    """Post a form to an address of an authorization server, and return the JSON object of its answer.

    Raises:
        TokenRefused: the server refused, or there is no answer within ``timeout`` seconds.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    status, headers_in, body = exchange("POST", url, urlencode(form).encode(), headers=headers, timeout=timeout)
    answer = answer_of(body)
    if status != 200 or ("error" in answer and "access_token" not in answer):
        raise refusal(status, answer, headers_in)
    return answer


@sensitive_variables()
def exchange(
    method: str, url: str, body: bytes | None, *, headers: Mapping[str, str], timeout: float
) -> tuple[int, Message, bytes]:
    """Send one request over verified TLS to an allowed address; return status, headers and body of the answer.

    Raises:
        TokenRefused: the address is not allowed, or there is no answer within ``timeout`` seconds.
    """
    try:
        check_token_url(url)
    except ValueError as error:
        raise misconfigured(str(error)) from None
    deadline = time.monotonic() + timeout
    request = http.Request(  # noqa: S310  (check_token_url has refused other schemes)
        url, data=body, headers={"User-Agent": "prx_email_django", **headers}, method=method
    )
    try:
        with _opener(url).open(request, timeout=timeout) as response:
            return response.status, response.headers, _read(response, deadline)
    except (OSError, HTTPException) as error:
        raise _unreachable(error) from None


@sensitive_variables()
def token_form(request: TokenRequest) -> dict[str, str]:
    """Return the form of a token request; the names are those of RFC 6749."""
    form = {
        "grant_type": request.grant.value,
        "client_id": request.client_id,
        "client_secret": request.client_secret,
        "refresh_token": request.refresh_token if request.grant is Grant.REFRESH_TOKEN else "",
        "scope": request.scope,
        **request.parameters,
    }
    return {name: value for name, value in form.items() if value}


def _opener(url: str) -> http.OpenerDirector:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities := outbox_settings().tls_ca_file:
        _trust(context, str(authorities))
    local = is_loopback(urlsplit(url).hostname or "")
    proxies = http.ProxyHandler({} if local else None)  # None: the proxies of the environment
    return http.build_opener(*checked_handlers(url, context), proxies, _EveryAnswer())


def _trust(context: ssl.SSLContext, path: str) -> None:
    """Add the authorities of ``TLS_CA_FILE``; a file that cannot be used is no trouble of the token server."""
    try:
        file_version("TLS_CA_FILE", path)
        add_authorities(context, "TLS_CA_FILE", path)
    except UnusableFile as error:
        raise misconfigured(error.args[0]) from None


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """Read the answer in chunks, so that a server that sends slowly cannot exceed the deadline."""
    body = b""
    while chunk := response.read1(MAX_ANSWER):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise TokenRefused(_("the answer of the token server is too long"), permanent=False, code="answer")
        if time.monotonic() > deadline:
            raise TimeoutError
    return body


def answer_of(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of an answer; empty where the answer is not one."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


@sensitive_variables()
def _granted(answer: Mapping[str, Any], request: TokenRequest) -> Token:
    lifetime, issued = _seconds(answer.get("expires_in")), answer.get("refresh_token")
    is_new = isinstance(issued, str) and issued != request.refresh_token and bool(REFRESH_TOKEN.fullmatch(issued))
    return Token(
        access_token=usable(answer.get("access_token"), permanent=False),
        lifetime=None if lifetime is None else timedelta(seconds=lifetime),
        refresh_token=issued if is_new else None,
    )


def _seconds(value: object) -> float | None:
    """Return ``expires_in``, which some servers send as text; None where it is missing or out of range.

    A lifetime of 0 or less says nothing: some servers send it for a token that does not expire.
    """
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds <= _MAX_LIFETIME else None


def retry_after(headers: Mapping[str, Any] | Message) -> timedelta | None:
    """Return how long ``Retry-After`` asks to wait: seconds or an HTTP date (RFC 9110 §10.2.3), at most a day.

    A date is counted from the server's own ``Date``, where there is one.  None: the header is missing, or in the past.
    """
    value = str(headers.get("Retry-After", "")).strip()
    if _DIGITS.fullmatch(value):
        wait = timedelta(seconds=min(int(value), _LONGEST_WAIT.total_seconds()))
    else:
        until, sent_at = _http_date(value), _http_date(str(headers.get("Date", "")))
        if until is None:
            return None
        wait = min(until - (sent_at or datetime.now(UTC)), _LONGEST_WAIT)
    return wait if wait > timedelta(0) else None


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def refusal(status: int, answer: Mapping[str, Any], headers: Mapping[str, Any] | Message) -> TokenRefused:
    """Return what an answer other than 200 means.

    An answer without an OAuth error may come from a proxy and not from the token server: it is temporary.
    """
    name, wait = answer.get("error"), retry_after(headers)
    if 300 <= status < 400:
        return TokenRefused(
            _("the token address redirects (HTTP %(status)d)", status=status), permanent=True, code="http"
        )
    if not isinstance(name, str) or not ERROR_NAME.fullmatch(name):
        return TokenRefused(
            _("the token server answered HTTP %(status)d", status=status),
            permanent=False,
            code="http",
            retry_after=wait,
        )
    temporary = status >= 500 or status in _TEMPORARY_STATUSES or name in _TEMPORARY
    number = _AADSTS.match(str(answer.get("error_description", "")))
    reason = f"{name} ({number[0]})" if number else name
    return TokenRefused(
        _("the token server refused: %(reason)s", reason=reason),
        permanent=not temporary,
        code=name,
        retry_after=wait if temporary else None,
    )


def _unreachable(error: OSError | HTTPException) -> TokenRefused:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return TokenRefused(_("the token server did not answer in time"), permanent=False, code="timeout")
    if isinstance(reason, ssl.SSLError):
        detail = getattr(reason, "verify_message", "") or reason.reason or "failed"
        return TokenRefused(_("TLS to the token server: %(problem)s", problem=detail), permanent=False, code="tls")
    return TokenRefused(
        _("the token server can't be reached (%(error)s)", error=type(reason).__name__), permanent=False, code="network"
    )
