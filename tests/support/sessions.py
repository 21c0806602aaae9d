"""Database sessions that take turns: each runs to its next statement when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import connections

from prx_email_django.models.managers import outbox_alias
from tests.support.patience import PATIENCE

#: Seconds after which a session that has not come to its next statement is taken to wait for another one's lock.
BLOCKED_AFTER = 0.1


class Session(threading.Thread):
    """A function on a connection of its own; it stops before every statement and every commit."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._turns = threading.Semaphore(0)
        #: It stands before a statement, or has ended.
        self._stands = threading.Event()
        self.ended = False
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self.start()
        assert self._stands.wait(PATIENCE), "it never came to its first statement"

    def run(self) -> None:
        connection: Any = connections[outbox_alias()]
        connection.ensure_connection()
        real = connection._commit

        def commit() -> None:
            self._stop()
            real()

        connection._commit = commit
        try:
            with connection.execute_wrapper(self._statement):
                self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001  (``result`` raises it in the test)
            self._error = error
        finally:
            connection._commit = real
            connection.close()
            self.ended = True
            self._stands.set()

    def _statement(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self._stop()
        return execute(sql, params, many, context)

    def _stop(self) -> None:
        self._stands.set()
        if not self._turns.acquire(timeout=PATIENCE):
            raise TimeoutError("nobody let it go on")

    @property
    def is_blocked(self) -> bool:
        """Whether its statement waits for another session."""
        return not self._stands.is_set()

    def step(self) -> bool:
        """Run one statement; False: it has ended, or it waits for a lock."""
        if self.ended or self.is_blocked:
            return False
        self._stands.clear()
        self._turns.release()
        return self._stands.wait(BLOCKED_AFTER)

    def result(self) -> Any:
        """What the function returned.

        Raises:
            BaseException: what it raised.
        """
        if self._error is not None:
            raise self._error
        return self._found[0]


def interleave(calls: Sequence[Callable[[], Any]], order: Iterable[int]) -> list[Any]:
    """Let the calls take turns by their numbers in ``order``, then the first to its end, and so on; their results."""
    sessions = [Session(call) for call in calls]
    for number in order:
        sessions[number].step()
    for _ in range(1_000):
        for session in sessions:
            while session.step():
                pass
        if all(session.ended for session in sessions):
            return [session.result() for session in sessions]
        for session in sessions:
            session._stands.wait(BLOCKED_AFTER)
    raise AssertionError("they wait for each other for ever")
