"""A token server with TLS that takes signed assertions (RFC 7523), as Google and Microsoft do."""

from __future__ import annotations

import json
import secrets
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl

import jwt
import trustme

from tests.support.https_server import HttpsServer


class AssertionServer(HttpsServer):
    """Verifies each assertion with ``key``; ``error`` refuses every request."""

    def __init__(self, authority: trustme.CA) -> None:
        self.key: Any = None
        self.error: dict[str, str] = {}
        #: Called with each token that is issued, so that a mail server can know it.
        self.issued: Any = lambda token: None
        self.forms: list[dict[str, str]] = []
        self.claims: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """OpenID configuration, which msal reads first."""
                base = f"{owner.url}/example.com"
                names = ("authorization_endpoint", "token_endpoint")
                values = (f"{base}/oauth2/v2.0/authorize", f"{base}/oauth2/v2.0/token")
                self.reply(200, {**dict(zip(names, values, strict=True)), "issuer": f"{base}/v2.0"})

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                owner.forms.append(form)
                self.reply(*owner.token(form))

            def reply(self, status: int, answer: dict[str, Any]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        super().__init__(Handler, authority)

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A token for an assertion that the key has signed."""
        if self.error:
            return 400, self.error
        assertion = form.get("assertion") or form.get("client_assertion", "")
        try:
            claims = jwt.decode(
                assertion, self.key, algorithms=["RS256", "PS256"], options={"verify_aud": False, "verify_iat": False}
            )
        except jwt.InvalidTokenError:
            return 400, {"error": "invalid_grant"}
        # google-auth names Google's own address, whatever the key's token address is.
        assert claims["aud"].startswith((self.url, "https://oauth2.googleapis.com/token"))
        self.claims.append(claims)
        token = f"access-{secrets.token_urlsafe(8)}"
        self.issued(token)
        return 200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
