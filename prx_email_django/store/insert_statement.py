"""enqueue: on PostgreSQL one statement checks the account, writes everything and asks for a drain.

The other databases take a short transaction (``insert_rows``).  Both write all drafts or none.  What they do not write
(files, large bodies, a draft that no longer fits its account) is left to ``store.insert``, whose errors say what is
wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prx_email_django.store.db import refusing_text, retried_after_conflict
from prx_email_django.store.draft import Draft
from prx_email_django.store.insert_arrays import insert_arrays
from prx_email_django.store.insert_execution import Inserted, Unsuited
from prx_email_django.store.insert_one import insert_one
from prx_email_django.store.insert_one_elsewhere import can_insert_one, insert_one_elsewhere
from prx_email_django.store.insert_rows import insert_rows

#: Recipients up to which a message has a statement of its own, two parameters each: PostgreSQL takes 65 535 of them.
MOST_RECIPIENTS = 100


def can_insert(connection: Any) -> bool:
    """Whether the outbox's database knows the statements."""
    if connection.vendor == "postgresql":
        return not connection.Database.__version__.startswith("2")
    return connection.vendor in ("sqlite", "mysql")


@refusing_text
@retried_after_conflict
def insert_together(connection: Any, drafts: Sequence[Draft], *, now: datetime | None) -> Inserted:
    """Write all drafts, or none; ``now`` None: the database's clock at the statement.

    Outside a transaction the statement asks for a drain too, if a message is due: its commit is that of the messages,
    so a drain that answers finds them.

    Raises:
        Unfit: nothing was written.
    """
    asks = not connection.in_atomic_block and (
        connection.get_autocommit() if connection.connection is None else connection.autocommit
    )
    first = drafts[0]
    is_one = len(drafts) == 1 and first.raw is None and not first.parts and len(first.recipients) <= MOST_RECIPIENTS
    if connection.vendor != "postgresql":
        if is_one and can_insert_one(connection):
            return insert_one_elsewhere(connection, first, now=now, asks=asks)
        return insert_rows(connection, drafts, now=now, asks=asks)
    if is_one:
        return insert_one(connection, first, now=now, asks=asks)
    if any(draft.parts for draft in drafts):
        raise Unsuited
    return insert_arrays(connection, drafts, now=now, asks=asks)
