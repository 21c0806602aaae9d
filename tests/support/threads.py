"""A call in another thread, so that a test can block it at a chosen place and look at the database meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import connections

import prx_email_django as prx
from tests.support.patience import PATIENCE

T = TypeVar("T")


class CallInThread(threading.Thread, Generic[T]):
    """Calls a function in a new thread, and closes the database connections of that thread at the end."""

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
        except BaseException as error:  # noqa: BLE001  (outcome() raises it in the test)
            self._error = error
        finally:
            connections.close_all()

    def outcome(self) -> T:
        """Wait for the end; return what the function returned, or raise what it raised."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the call never returned"
        if self._error is not None:
            raise self._error
        return self._results[0]


class Sending(CallInThread[prx.SendResult]):
    """``send`` in another thread."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(prx.send, **arguments)


class Draining(CallInThread[prx.DrainReport]):
    """``drain`` in another thread."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(prx.drain, **arguments)
