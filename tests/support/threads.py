"""A call beside the test: it may be held up at any place, and looked at meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import connections

import prx_email_django as prx

T = TypeVar("T")


class Beside(threading.Thread, Generic[T]):
    """A call in a thread of its own, which closes its database connections."""

    def __init__(self, call: Callable[..., T], **arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._arguments = arguments
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._results.append(self._call(**self._arguments))
        except BaseException as error:  # noqa: BLE001  (told to the test)
            self._error = error
        finally:
            connections.close_all()

    def outcome(self) -> T:
        """What it returned or raised."""
        self.join(60)
        assert not self.is_alive(), "the call never returned"
        if self._error is not None:
            raise self._error
        return self._results[0]


class Sending(Beside[prx.SendResult]):
    """A ``send``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(prx.send, **arguments)


class Draining(Beside[prx.DrainReport]):
    """A ``drain``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(prx.drain, **arguments)
