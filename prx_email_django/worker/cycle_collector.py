"""Python's collector of cycles during a drain: it leaves out what the process held before, and looks less often."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: New objects after which the collector looks at them, where the host's number is lower (Python's own: 700).
NEW_OBJECTS = 10_000


@contextmanager
def cycle_collector_at_ease() -> Iterator[None]:
    """Keep full collections from going through all the objects of the host's process, again and again.

    A drain makes many objects and drops them, which makes the collector look at everything: in a small Django project
    40 ms each time, in which nothing is sent.  What the host has frozen itself stays frozen (``gc.freeze``).

    New objects are looked at each time when there are many: nearly all are gone by then, and none is in a cycle.
    """
    thresholds = gc.get_threshold()
    looks_less = 0 < thresholds[0] < NEW_OBJECTS  # 0: the host does without the collector
    if looks_less:
        gc.set_threshold(NEW_OBJECTS, *thresholds[1:])
    leaves_out = not gc.get_freeze_count()
    if leaves_out:
        gc.freeze()
    try:
        yield
    finally:
        if leaves_out:
            gc.unfreeze()
        if looks_less and gc.get_threshold()[0] == NEW_OBJECTS:  # else the host has changed it meanwhile
            gc.set_threshold(*thresholds)
