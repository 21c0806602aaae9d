"""``ACCOUNT_HOSTS`` for token addresses: judged by the address that is dialled, as the transport does for mail servers.

The token addresses of Google and Microsoft are not named by an account, so they are always allowed.
"""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from urllib import request as http
from urllib.parse import urlsplit

from prx_email_django.conf import outbox_settings
from prx_email_django.oauth.token import TokenRefused, misconfigured
from prx_email_django.oauth.token_request import GOOGLE_URL, MICROSOFT_URL
from prx_email_django.rules.hosts import host_allowed
from prx_email_django.rules.words import words as _

PROVIDER_HOSTS = frozenset(urlsplit(url).hostname for url in (GOOGLE_URL, MICROSOFT_URL))


def checked_handlers(url: str, context: ssl.SSLContext) -> tuple[http.BaseHandler, ...]:
    """Handlers for ``url`` whose connections go to allowed addresses only.

    Behind a proxy of the environment, which resolves the name itself, the name alone is judged.

    Raises:
        TokenRefused: ``ACCOUNT_HOSTS`` does not allow the name (permanent).
    """
    parts, allowed = urlsplit(url), outbox_settings().account_hosts
    host = parts.hostname or ""
    if allowed is None or host in PROVIDER_HOSTS:
        return (http.HTTPSHandler(context=context),)
    if not host_allowed(host, allowed):
        raise _not_allowed()
    if parts.scheme in http.getproxies() and not http.proxy_bypass(host):
        if not host_allowed(host, allowed, reached=host):
            raise _not_allowed()
        return (http.HTTPSHandler(context=context),)
    return _PlainHandler(allowed), _TlsHandler(allowed, context)


def _not_allowed() -> TokenRefused:
    return misconfigured(_("ACCOUNT_HOSTS does not allow the host of the token address"))


def _connect(host: str, port: int, timeout: float | None, allowed: Sequence[str]) -> socket.socket:
    """Connect to the first of the host's allowed addresses that answers."""
    failure: OSError | None = None
    for *_others, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not host_allowed(host, allowed, reached=str(address[0])):
            continue
        try:
            return socket.create_connection((str(address[0]), port), timeout)
        except OSError as error:
            failure = error
    raise failure or _not_allowed()


class _PlainConnection(HTTPConnection):
    def __init__(self, host: str, *, timeout: float, allowed: Sequence[str]) -> None:
        super().__init__(host, timeout=timeout)
        self.allowed = allowed

    def connect(self) -> None:
        """Connect to an allowed address."""
        self.sock = _connect(self.host, self.port, self.timeout, self.allowed)


class _TlsConnection(HTTPSConnection):
    def __init__(self, host: str, *, timeout: float, allowed: Sequence[str], tls: ssl.SSLContext) -> None:
        super().__init__(host, timeout=timeout, context=tls)
        self.allowed, self.tls = allowed, tls

    def connect(self) -> None:
        """Connect to an allowed address, and verify the certificate for the name."""
        plain = _connect(self.host, self.port, self.timeout, self.allowed)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)


class _PlainHandler(http.HTTPHandler):
    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__()
        self.allowed = allowed

    def http_open(self, req: http.Request) -> HTTPResponse:
        """Open a connection that is checked."""
        return self.do_open(functools.partial(_PlainConnection, allowed=self.allowed), req)


class _TlsHandler(http.HTTPSHandler):
    def __init__(self, allowed: Sequence[str], context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self.allowed, self.tls = allowed, context

    def https_open(self, req: http.Request) -> HTTPResponse:
        """Open a connection that is checked."""
        return self.do_open(functools.partial(_TlsConnection, allowed=self.allowed, tls=self.tls), req)
