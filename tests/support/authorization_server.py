"""An authorization server on loopback that behaves as Google or Microsoft: consent page, PKCE, rotation, device flow.

    with AuthorizationServer() as server:
        server.person = "shop@example.com"
        ...

It answers in its own threads; what a person does at the consent page is a click, or ``approve`` for tests without a
browser.  A code works once, for ten minutes, for one client, redirect address and verifier, as RFC 6749 §4.1.2 demands.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import urlopen

import trustme

from tests.support.https_server import HttpsServer
from tests.support.patience import PATIENCE

#: The directory (tenant) of this server, as Microsoft has it in the claim ``tid``.
TENANT = "11111111-2222-3333-4444-555555555555"


@dataclass
class Client:
    """A registered application; ``secret`` is empty for a public client."""

    client_id: str = "the-client"
    secret: str = "the-client-secret"
    #: Registered redirect addresses; a loopback address fits with any port (RFC 8252 §7.3).
    redirects: list[str] = field(default_factory=list)


class AuthorizationServer(HttpsServer):
    """The server; ``kind`` is ``google`` or ``microsoft``."""

    def __init__(self, kind: str = "google", *, authority: trustme.CA | None = None) -> None:
        self.kind = kind
        self.client = Client()
        #: The address of the person who signs in, and what the server says of it.
        self.person = "shop@example.com"
        self.claims: dict[str, Any] = {}
        #: Added to the parameters of the redirect, such as ``iss``.
        self.answer: dict[str, str] = {}
        #: Answer every token request with this OAuth error.
        self.error: dict[str, str] = {}
        self.issues_refresh_tokens = True
        self.rotates = kind == "microsoft"
        #: Errors of the next questions of a device, in order; then the tokens follow.
        self.device_errors: list[str] = []
        #: Called with the access token that was issued, so that a mail server can know it.
        self.issued: Any = lambda token: None
        self.authorizations: list[dict[str, str]] = []
        self.forms: list[dict[str, str]] = []
        self.refresh_tokens: set[str] = set()
        self._codes: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        super().__init__(self._handler(), authority)
        base = f"{self.url}/common/oauth2/v2.0" if kind == "microsoft" else self.url
        self.token_url = f"{base}/token"
        self.authorization_url = f"{base}/authorize"
        self.device_url = f"{base}/devicecode"
        self.issuer = f"{self.url}/{TENANT}/v2.0" if kind == "microsoft" else self.url

    @property
    def settings(self) -> dict[str, Any]:
        """The value of ``OAUTH_SERVERS`` that names this server; Microsoft's addresses need none."""
        if self.kind == "microsoft":
            return {}
        addresses = {"authorization": self.authorization_url, "device": self.device_url, "issuer": self.issuer}
        return {self.token_url: addresses}

    def fields(self, **changed: Any) -> dict[str, Any]:
        """Fields of an account that signs in here."""
        values = {
            "oauth_provider": self.kind,
            "oauth_client_id": self.client.client_id,
            "oauth_client_secret": self.client.secret,
            "oauth_token_url": self.token_url,
            "user": "shop@example.com",
            "email": "shop@example.com",
            "auth_method": "xoauth2",
        }
        return {**values, **changed}

    def approve(self, address: str, **changed: str) -> str:
        """Do as a person who allows the access: return the address to which the browser is sent."""
        query = dict(parse_qsl(urlsplit(address).query))
        self.authorizations.append(query)
        assert query["code_challenge_method"] == "S256"
        return self._redirect(query, **changed)

    def follow(self, address: str) -> None:
        """Allow the access, and open the redirect address as the browser does."""
        with urlopen(self.approve(address), timeout=PATIENCE) as response:
            response.read()

    # Answers

    def _redirect(self, query: dict[str, str], **changed: str) -> str:
        code = secrets.token_urlsafe(16)
        with self._lock:
            self._codes[code] = query
        answer = {"state": query.get("state", ""), **({} if "error" in changed else {"code": code}), **self.answer}
        return f"{query['redirect_uri']}?{urlencode({**answer, **changed})}"

    def _is_registered(self, redirect_uri: str) -> bool:
        parts = urlsplit(redirect_uri)
        is_loopback = parts.hostname in ("127.0.0.1", "localhost") and parts.path in ("", "/")
        return is_loopback or redirect_uri in self.client.redirects

    def consent(self, query: dict[str, str]) -> tuple[int, str]:
        """The page on which a person signs in, or the error page of an address that nobody registered."""
        self.authorizations.append(query)
        if query.get("client_id") != self.client.client_id or not self._is_registered(query.get("redirect_uri", "")):
            return 400, "<h1>Error 400: redirect_uri_mismatch</h1>"
        yes, no = self._redirect(query), self._redirect(query, error="access_denied")
        title = f"{self.kind.capitalize()}: {html.escape(self.person)} allows access to {html.escape(query['scope'])}?"
        return 200, (
            f"<!doctype html><meta charset=utf-8><title>Sign in</title><h1>{title}</h1>"
            f'<a id=yes href="{html.escape(yes)}">Allow</a> <a id=no href="{html.escape(no)}">Cancel</a>'
        )

    def device(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A code for a device (RFC 8628 §3.2)."""
        if "mail.google.com" in form["scope"] and self.kind == "google" and self.error:
            return 400, self.error
        name = "verification_url" if self.kind == "google" else "verification_uri"
        code = {"device_code": "the-device-code", "user_code": "WDJB-MJHT", "expires_in": 900, "interval": 1}
        return 200, {**code, name: f"{self.url}/device"}

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Tokens for a code, a device or a refresh token, or the OAuth error."""
        self.forms.append(form)
        if self.error:
            return 400, self.error
        if form.get("client_id") != self.client.client_id or form.get("client_secret", "") != self.client.secret:
            return 401, {"error": "invalid_client"}
        grant = form["grant_type"]
        if grant == "refresh_token":
            with self._lock:
                if form["refresh_token"] not in self.refresh_tokens:
                    return 400, {"error": "invalid_grant", "error_description": "AADSTS50173: revoked"}
                if self.rotates:
                    self.refresh_tokens.discard(form["refresh_token"])
            return 200, self._tokens("", with_refresh=self.rotates)
        if grant.endswith("device_code"):
            if self.device_errors:
                return 400, {"error": self.device_errors.pop(0)}
            return 200, self._tokens("", with_refresh=self.issues_refresh_tokens)
        with self._lock:
            begun = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if begun is None or begun["redirect_uri"] != form["redirect_uri"] or begun["client_id"] != form["client_id"]:
            return 400, {"error": "invalid_grant"}
        if begun["code_challenge"] != challenge.decode():
            return 400, {"error": "invalid_grant", "error_description": "the verifier does not fit"}
        return 200, self._tokens(begun.get("nonce", ""), with_refresh=self.issues_refresh_tokens)

    def _tokens(self, nonce: str, *, with_refresh: bool) -> dict[str, Any]:
        access = f"access-{secrets.token_urlsafe(8)}"
        self.issued(access)
        tokens: dict[str, Any] = {"access_token": access, "expires_in": 3600, "token_type": "Bearer"}
        if with_refresh:
            tokens["refresh_token"] = f"refresh-{secrets.token_urlsafe(8)}"
            self.refresh_tokens.add(tokens["refresh_token"])
        return {**tokens, "id_token": self._id_token(nonce)}

    def _id_token(self, nonce: str) -> str:
        claims = {"iss": self.issuer, "aud": self.client.client_id, "exp": int(time.time()) + 3600}
        if self.kind == "google":
            claims |= {"email": self.person, "email_verified": True}
        else:
            claims |= {"preferred_username": self.person, "tid": TENANT}
        claims |= {"nonce": nonce} if nonce else {}
        claims |= self.claims
        parts = [{"alg": "RS256"}, {name: value for name, value in claims.items() if value is not None}]
        coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return ".".join([*coded, "c2lnbmF0dXJl"])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if not parts.path.endswith("/authorize"):
                    return self.reply(404, b"", "text/plain")
                status, page = owner.consent(dict(parse_qsl(parts.query)))
                return self.reply(status, page.encode(), "text/html; charset=utf-8")

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                status, answer = (owner.device if self.path.endswith("/devicecode") else owner.token)(form)
                self.reply(status, json.dumps(answer).encode(), "application/json")

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler
