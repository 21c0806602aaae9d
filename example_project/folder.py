"""The one folder that the example writes to, used by one of ``make demo`` and ``make serve`` at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InUse(Exception):
    """Another one works in the folder."""


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep others out for the length of the block, even if it ends by a kill.  Raises ``InUse``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"{folder} is in use by another make demo or make serve: end that one first") from error
        yield


def empty(folder: Path) -> None:
    """Remove what an earlier run has left, but not the lock."""
    for one in folder.iterdir():
        if one.is_dir():
            shutil.rmtree(one)
        elif one.name != "lock":
            one.unlink()
