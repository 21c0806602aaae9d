"""What must hold before anything is sent."""

from __future__ import annotations

from django.db import connections

from prx_email_django.errors import SendInsideTransaction
from prx_email_django.models.managers import outbox_alias


def check_outside_transaction(name: str) -> None:
    """Refuse to speak SMTP inside a transaction on the outbox's database.

    The wrapper of a ``TestCase`` does not count, as with ``atomic(durable=True)``.

    Raises:
        SendInsideTransaction: there is an open ``atomic()``, or autocommit is off.
    """
    connection = connections[outbox_alias()]
    inside = any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    if inside or not (connection.in_atomic_block or connection.get_autocommit()):
        instead = {"send": "use enqueue() there", "reply": "reply after the transaction"}.get(
            name, "use requeue_outbox() there" if name == "retry_outbox" else "drain after the transaction"
        )
        raise SendInsideTransaction(
            f"{name}() speaks SMTP and cannot run inside an open transaction: {instead}", code="inside_transaction"
        )
