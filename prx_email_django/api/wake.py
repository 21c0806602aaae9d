"""Wakes a drain after the commit, once for many messages; neither an error nor a silent broker reaches the caller."""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from django.db import connections, transaction
from django.utils.module_loading import import_string

from prx_email_django.conf import outbox_settings
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.outbox import LOOKS_FOR, request_wake

logger = logging.getLogger("prx_email_django")

#: Seconds that a caller waits for what it has woken: a broker usually answers within milliseconds.
PATIENCE = 0.1
#: Seconds after which the log says that a wake-up hangs.
DEADLINE = 2.0
#: Functions for ``WAKE`` that touch only the outbox's own database -> whether they do so now.
_IN_CALLER: dict[Callable[[], object], Callable[[], bool]] = {}
#: Held while a wake-up runs: threads that hang do not pile up.
_running = threading.Lock()
#: When the last wake-up will have run for ``DEADLINE``, on the monotonic clock.
_late_at = 0.0


def _forget_running() -> None:
    """In a forked child no thread of its parent runs."""
    global _running
    _running = threading.Lock()


@atexit.register
def _let_finish() -> None:
    """Give a wake-up the rest of its two seconds: a script that queues mail and ends would take its wake-up with it."""
    if _running.acquire(timeout=max(0.0, _late_at - monotonic())):
        _running.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_running)


def wake_on_commit() -> None:
    """Ask for a drain when the caller's transaction is committed; many messages need one wake-up.

    With autocommit off there is no hook for the commit: the next scheduled drain sends what is due.
    """
    alias = outbox_alias()
    connection = connections[alias]
    if not (connection.in_atomic_block or connection.get_autocommit()):
        return
    waiting = {(frozenset(entry[0]), entry[1]) for entry in connection.run_on_commit}
    if connection.in_atomic_block and (frozenset(connection.savepoint_ids), wake) in waiting:
        return
    transaction.on_commit(wake, using=alias, robust=True)


def wake_after_statement(*, asked: bool | None, seconds: float) -> None:
    """Call ``WAKE`` after a statement that has asked for a drain (``asked``), or found that others have.

    A drain that answers others looks at the queue until ``LOOKS_FOR`` after it began.  A statement that took longer may
    have been committed later, so it asks again.
    """
    if asked is None:
        wake_on_commit()
    elif asked:
        _wake(lambda: True)
    elif seconds >= LOOKS_FOR:
        wake()


def wake() -> None:
    """Note that a drain is wanted, and call ``WAKE`` if no other wake-up is on its way.

    The note is written without ``WAKE`` too: ``flush_outbox --loop`` watches it.
    """
    _wake(request_wake)


def _wake(is_first: Callable[[], bool]) -> None:
    try:
        if not is_first():
            return
        if path := outbox_settings().wake:
            _call(import_string(path))
    except Exception:
        logger.exception("the wake-up failed; the next scheduled drain sends what is due")


def in_caller_if(condition: Callable[[], bool]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Mark a function for ``WAKE`` that is called in the caller's thread while ``condition()`` is true."""

    def mark(function: Callable[[], None]) -> Callable[[], None]:
        _IN_CALLER[function] = condition
        return function

    return mark


def _call(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, and wait for it shortly; where an earlier one hangs, leave it out."""
    if _belongs_to_caller(function):
        function()
        return
    running, done = _running, threading.Event()
    if not running.acquire(blocking=False):
        logger.debug("no wake-up was sent, because an earlier one has not returned yet")
        return
    global _late_at
    _late_at = monotonic() + DEADLINE
    context = contextvars.copy_context()
    try:
        _start(_run, function, context, running, done)
    except BaseException:
        running.release()
        raise
    if not done.wait(PATIENCE):
        _start(_log_late, done)


def _belongs_to_caller(function: Callable[[], object]) -> bool:
    """Whether only the caller's thread can call it, or it waits for nothing but the database that has just committed.

    A test case's transaction (in which Django runs ``on_commit`` on request) and a SQLite database in memory belong to
    the caller's connection.
    """
    connection: Any = connections[outbox_alias()]
    if connection.in_atomic_block or (connection.vendor == "sqlite" and connection.is_in_memory_db()):
        return True
    return _IN_CALLER.get(function, lambda: False)()


def _start(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, name="prx-email-wake", daemon=True).start()


def _run(
    function: Callable[[], object], context: contextvars.Context, running: threading.Lock, done: threading.Event
) -> None:
    try:
        context.run(function)
    except Exception:
        logger.exception("the wake-up failed; the next scheduled drain sends what is due")
    finally:
        try:
            connections.close_all()  # of this thread
        finally:
            running.release()
            done.set()


def _log_late(done: threading.Event) -> None:
    if not done.wait(DEADLINE - PATIENCE):
        logger.error(
            "the wake-up has not returned for %g s and is left to itself; no other is sent before it returns, and the "
            "next scheduled drain sends what is due",
            DEADLINE,
        )
