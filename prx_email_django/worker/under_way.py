"""The statement that the database executes while the calling thread goes on, and what is to be done with its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

#: What is to be done once a statement has its result.
Work: TypeAlias = Callable[[], object]


class UnderWay:
    """What the statement that is under way has left to do; a drain has at most one, whatever the number of accounts.

    The next statement is begun before that is done, so that the database has always something to do.  ``run`` does the
    work of an account's worker, and handles its errors.
    """

    def __init__(self, run: Callable[[Any, Work], None]) -> None:
        self._run = run
        self._left: tuple[Any, Work] | None = None
        #: The statement is a claim: nobody knows yet how much it takes.
        self.is_claim = False

    def follow(self, worker: Any, work: Work, *, is_claim: bool = False) -> None:
        """Note what the statement that was begun leaves to do, and do what the one before it has left."""
        before, self._left, self.is_claim = self._left, (worker, work), is_claim
        if before is not None:
            self._run(*before)

    def finish(self) -> bool:
        """Wait for the statement, and do what it has left to do; False: none is under way."""
        left, self._left, self.is_claim = self._left, None, False
        if left is not None:
            self._run(*left)
        return left is not None

    def drop(self, worker: Any) -> None:
        """Leave the work of this account's worker undone: it has failed."""
        if self._left is not None and self._left[0] is worker:
            self._left, self.is_claim = None, False
