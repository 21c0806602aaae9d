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
        #: Work was done since the loop has set this back: a worker may have something to do by it.
        self.has_worked = False

    @property
    def is_any(self) -> bool:
        """Whether a statement is under way."""
        return self._left is not None

    def follow(self, worker: Any, work: Work, *, is_claim: bool = False) -> None:
        """Note what the statement that was begun leaves to do, and do what the one before it has left."""
        before, self._left, self.is_claim = self._left, (worker, work), is_claim
        self._do(before)

    def finish(self) -> bool:
        """Wait for the statement, and do what it has left to do; False: none is under way."""
        left, self._left, self.is_claim = self._left, None, False
        self._do(left)
        return left is not None

    def taken_from(self, worker: Any) -> Work | None:
        """What is left to do for this account's worker, which fails: nobody else does it from now on."""
        if self._left is None or self._left[0] is not worker:
            return None
        work, self._left, self.is_claim = self._left[1], None, False
        return work

    def _do(self, left: tuple[Any, Work] | None) -> None:
        if left is not None:
            self.has_worked = True
            self._run(*left)
