"""A server's last reply and the end of its TLS come in one segment: nothing is written to it any more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import trustme

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.base import ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import BODY, ListFeed, outgoing_messages, run_session
from tests.support.patience import PATIENCE

EHLO = b"250-here\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
OK, GO_ON = b"250 2.0.0 ok\r\n", b"354 go on\r\n"


class Server:
    """Accepts one connection by TLS, and talks as ``talk`` says; then it closes in the segment of its last words."""

    def __init__(self, folder: Path, talk: Callable[[Server], bytes]) -> None:
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._talk = talk
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._arrived, self._leaving, server_side=True)
        self._heard = b""

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        self._socket, _ = self._listening.accept()
        self._socket.settimeout(PATIENCE)
        with self._socket:
            self._repeat(self._tls.do_handshake)
            self.say(b"220 here\r\n")
            self.hear(b"EHLO", 1)
            self.say(EHLO)
            self._tls.write(self._talk(self))
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            self._socket.sendall(self._leaving.read())
            while self._socket.recv(65536):  # a socket that is closed with unread bytes is reset
                pass

    def _repeat(self, step: Callable[[], object]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._flush()
                self._arrived.write(self._socket.recv(65536))
            else:
                self._flush()
                return

    def _flush(self) -> None:
        if data := self._leaving.read():
            self._socket.sendall(data)

    def say(self, data: bytes) -> None:
        """Send this."""
        self._tls.write(data)
        self._flush()

    def hear(self, text: bytes, count: int) -> None:
        """Read until the client has sent ``text`` so many times since the last call, and the line is complete."""

        def read() -> None:
            self._heard += self._tls.read(65536)

        while self._heard.count(text) < count or not self._heard.endswith(b"\n"):
            self._repeat(read)
        self._heard = b""


def windows(server: Server) -> bytes:
    """Four messages are unanswered; the last words answer them."""
    server.hear(BODY, 4)
    return 3 * OK + 3 * 4 * OK


def bodies(server: Server) -> bytes:
    """The last words answer the second body and the third envelope, behind which the third body would go."""
    server.hear(b"DATA\r\n", 1)
    server.say(OK + OK + GO_ON)
    server.hear(b"DATA\r\n", 1)
    server.say(OK + OK + OK + GO_ON)
    server.hear(b"DATA\r\n", 1)
    return OK + OK + OK + GO_ON


@pytest.mark.parametrize(
    ("talk", "options", "accepted", "trouble"),
    [
        (windows, {"pipelining": "chunked", "max_in_flight": 4, "window": 4}, 4, Trouble.NONE),
        # The third message had begun, and its attempt counts.
        (bodies, {"pipelining": "full", "max_in_flight": 0}, 2, Trouble.CONNECTION),
    ],
    ids=["chunked", "full"],
)
def test_nothing_is_written_after_the_end_of_tls(
    talk: Callable[[Server], bytes], options: dict[str, object], accepted: int, trouble: Trouble, tmp_path: Path
) -> None:
    feed = ListFeed(outgoing_messages(6))
    with Server(tmp_path, talk) as server:
        values: dict[str, object] = {"tls_files": TlsFiles(ca_file=server.ca_file), "timeout": PATIENCE, **options}
        settings = ConnectionSettings("localhost", server.port, "tls", "none", **values)  # type: ignore[arg-type]
        end = asyncio.run(run_session(SmtpTransport(), settings, feed))
    found = [feed.outcomes[number].ending for number in sorted(feed.outcomes)]
    assert found[:accepted] == [Ending.ACCEPTED] * accepted
    assert Ending.UNKNOWN not in found
    assert end.trouble is trouble and end.broken is None
