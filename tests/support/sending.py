"""A ``send`` beside the test: it may be held up at any place, and looked at meanwhile."""

from __future__ import annotations

import threading
from typing import Any

from django.db import connections

import prx_email_django as prx


class Sending(threading.Thread):
    """A ``send`` in a thread of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(daemon=True)
        self.arguments = arguments
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = prx.send(**self.arguments)
        except BaseException as error:  # noqa: BLE001  (told to the test)
            self.result = error
        finally:
            connections.close_all()

    def outcome(self) -> Any:
        self.join(60)
        assert not self.is_alive(), "send never returned"
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result
