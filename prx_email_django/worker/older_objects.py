"""Python's collector of cycles during a drain: it leaves out what the process held before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def older_objects_left_out() -> Iterator[None]:
    """Keep full collections from going through all the objects of the host's process, again and again.

    A drain makes many objects and drops them, which makes the collector look at everything: in a small Django project
    40 ms each time, in which nothing is sent.  What the host has frozen itself stays frozen (``gc.freeze``).
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
