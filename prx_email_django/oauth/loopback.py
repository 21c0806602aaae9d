"""Takes the answer of a browser on this machine: a loopback redirect (RFC 8252 §7.3), for one sign-in."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qsl, urlsplit

#: Bytes of a pasted address.
_MAX_ADDRESS = 16_384
_DONE = (
    b"<!doctype html><meta charset=utf-8><title>Signed in</title><p>The answer has arrived. You may close this window."
)


class LoopbackReceiver:
    """Listens on 127.0.0.1 until a browser has brought the answer with the right state.

    A request with another state, path or host is refused and changes nothing: any program of this machine, and any web
    page, can send one.
    """

    def __init__(self, *, host: str, port: int = 0) -> None:
        """Listen; ``port`` 0 chooses a free port.

        Raises:
            OSError: the port is in use, or may not be used.
        """
        self.state = ""
        self._answer: Mapping[str, str] = {}
        self._arrived = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                """Take the answer."""
                accepted = self.headers.get("Host", "") in receiver.hosts and receiver.take(self.path)
                self.send_response(200 if accepted else 400)
                body = _DONE if accepted else b"This is not the answer of the sign-in."
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Referrer-Policy", "no-referrer")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: the path holds the code."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.redirect_uri = f"http://{host}:{self.port}"
        self.hosts = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, address: str) -> bool:
        """Take the answer from the address (or its path) in which a browser has ended; False: it is not the answer."""
        answer = _parameters(address)
        if not self.state or answer.get("state") != self.state or not ("code" in answer or "error" in answer):
            return False
        if not self._arrived.is_set():
            self._answer = answer
            self._arrived.set()
        return True

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        """Return the answer, or None if there is none within ``seconds``."""
        return self._answer if self._arrived.wait(seconds) else None


def _parameters(address: str) -> dict[str, str]:
    """The parameters of an address; empty where one is repeated (RFC 6749 §3.1) or it is none."""
    try:
        parts = urlsplit(address.strip()[:_MAX_ADDRESS])
        pairs = parse_qsl(parts.query, max_num_fields=30)
    except ValueError:
        return {}
    answer = dict(pairs)
    return answer if parts.path in ("", "/") and len(answer) == len(pairs) else {}
