"""The folder that the example writes to; only one ``make demo`` or ``make serve`` may use it at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InUse(Exception):
    """Another process uses the folder."""


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Lock the folder for the length of the block; a killed process leaves no lock.  Raises ``InUse``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"{folder} is in use by another make demo or make serve: stop the other first") from error
        yield


def empty(folder: Path) -> None:
    """Delete the files of an earlier run, but not the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
