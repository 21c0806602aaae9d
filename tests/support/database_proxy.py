"""A TCP proxy on loopback before the test's database server: it can go away and come back, as a restarted server does.

with DatabaseProxy() as proxy, Drainer(env=proxy.environment) as drainer:
    proxy.go_away()
    assert eventually(lambda: "the database is away" in drainer.errors)
    proxy.come_back()
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from django.db import connection


class DatabaseProxy:
    """Forwards connections to the server of the test's database; all methods may be called from any thread."""

    def __init__(self) -> None:
        settings = connection.settings_dict
        self._server = (str(settings["HOST"]), int(settings["PORT"]))
        prefix = {"postgresql": "POSTGRES", "mysql": "MARIADB"}[connection.vendor]
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: What leads a process with ``tests.settings`` to this proxy.
        self.environment = {f"{prefix}_HOST": "127.0.0.1", f"{prefix}_PORT": str(self._listener.getsockname()[1])}
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._away = False
        #: Chunks of answers until one is lost; 0: none is.
        self._answers_left = 0

    def go_away(self) -> None:
        """Cut every connection, and close new ones at once."""
        with self._changed:
            self._away = True
            self._cut()

    def lose_answer(self, number: int = 1) -> None:
        """Forward what clients say; in place of the server's answer of this number, cut every connection."""
        with self._changed:
            self._answers_left = number

    def come_back(self) -> None:
        """Forward new connections again."""
        with self._changed:
            self._away = False

    def _cut(self) -> None:
        for pair in self._pairs:
            for end in pair:
                _shut(end)
        self._pairs.clear()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._changed:
                if self._away:
                    client.close()
                    continue
            server = socket.create_connection(self._server)
            pair = (client, server)
            with self._changed:
                self._pairs.add(pair)
            for source, target, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, target, pair, answers), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, pair: Any, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers:
                    with self._changed:
                        lost = self._answers_left == 1
                        self._answers_left = max(0, self._answers_left - 1)
                        if lost:
                            self._cut()
                            self._changed.notify_all()
                            return
                target.sendall(data)
        except OSError:
            pass
        finally:
            with self._changed:
                self._pairs.discard(pair)
            for end in pair:
                _shut(end)

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut(self._listener)
        self.go_away()


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
