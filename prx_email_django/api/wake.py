"""Wakes a drain after the commit, once for many messages; a failure never reaches the caller."""

from __future__ import annotations

import logging

from django.db import connections, transaction
from django.utils.module_loading import import_string

from prx_email_django.conf import outbox_settings
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store.db import clock_for
from prx_email_django.store.outbox import request_wake

logger = logging.getLogger("prx_email_django")


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


def wake() -> None:
    """Send one wake-up, if no other is on its way."""
    path = outbox_settings().wake
    if not path:
        return
    try:
        if request_wake(clock=clock_for(None)):
            import_string(path)()
    except Exception:
        logger.exception("the wake-up failed; the next scheduled drain sends what is due")
