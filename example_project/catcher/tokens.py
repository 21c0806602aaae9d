"""A token server (OAuth 2, client credentials: RFC 6749 §4.4) on loopback."""

from __future__ import annotations

import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from example_project.catcher.credentials import CLIENT_ID, CLIENT_SECRET


class TokenServer(ThreadingHTTPServer):
    """Issues access tokens; ``issued`` contains the valid tokens."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.issued: set[str] = set()

    def start(self) -> int:
        """Serve in a thread; return the port."""
        threading.Thread(target=self.serve_forever, name="token-server", daemon=True).start()
        return self.server_port


class _Answer(BaseHTTPRequestHandler):
    server: TokenServer

    def do_POST(self) -> None:  # noqa: N802  (http.server calls this name)
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if form.get("client_id") != [CLIENT_ID] or form.get("client_secret") != [CLIENT_SECRET]:
            self._reply(401, {"error": "invalid_client"})
            return
        token = secrets.token_urlsafe(24)
        self.server.issued.add(token)
        self._reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    def _reply(self, code: int, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
