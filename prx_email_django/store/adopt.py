"""adopt: give a copied database its own ``INSTANCE``; it sends nothing that the original may have sent."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import F, Max, QuerySet

from prx_email_django.models import OutboxMessage, OutboxState
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.states import TRANSITIONS, ErrorCode, Status
from prx_email_django.store.db import atomic, retried
from prx_email_django.store.outbox import outbox_state
from prx_email_django.store.recover import BATCH, record_lost

#: How far ids jump ahead, so that no Message-ID is used twice: mailboxes drop a message with a repeated one as a copy.
ID_JUMP = 1_000_000


def adopt(instance: str, *, clock: Clock) -> int:
    """Put every unsent message at rest, move ids ahead, then store the new instance; return how many messages changed.

    The order matters, since MariaDB commits at the second step: after a crash in between nothing may be sent yet.
    """
    newest, changed = OutboxMessage.objects.aggregate(newest=Max("pk"))["newest"] or 0, 0
    # A worker may claim, or give back, a message between the two; one look finds it in either state.
    while unsent().filter(pk__lte=newest).exists():
        changed += _rest_sending(newest, clock=clock) + _rest_waiting(newest, clock=clock)
    _jump_ids()
    outbox_state()
    OutboxState.objects.filter(pk=1).update(instance=instance)
    return changed


def _rest_sending(newest: int, *, clock: Clock) -> int:
    total = 0
    while True:
        with atomic():
            sending = OutboxMessage.objects.filter(status=Status.SENDING, pk__lte=newest)
            ids = list(sending.order_by("pk").values_list("pk", flat=True)[:BATCH])
            if not ids:
                return total
            # A write first: it locks the rows.  It changes nothing: updated_at is still the instant of the claim.
            sending.filter(pk__in=ids).update(claim_token=F("claim_token"))
            total += len(record_lost(list(sending.filter(pk__in=ids)), now=clock.now, code=ErrorCode.ADOPTED))


def unsent() -> QuerySet[OutboxMessage]:
    """The messages that an adoption would put at rest."""
    sources = OutboxMessage.objects.filter(status__in=TRANSITIONS["adopt"].sources)
    return sources.exclude(last_error_code=ErrorCode.ADOPTED, next_attempt_at__isnull=True)


@retried
def _rest_waiting(newest: int, *, clock: Clock) -> int:
    return (
        unsent()
        .filter(pk__lte=newest)
        .exclude(status=Status.SENDING)
        .update(
            status=Status.FAILED,
            last_error_code=ErrorCode.ADOPTED,
            next_attempt_at=None,
            updated_at=clock.now,
        )
    )


@retried
def _jump_ids() -> None:
    connection: Any = connections[outbox_alias()]
    table = OutboxMessage._meta.db_table
    quoted = connection.ops.quote_name(table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COALESCE(MAX(id), 0) FROM {quoted}")
        highest = cursor.fetchone()[0]
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [quoted])
            sequence = cursor.fetchone()[0]
            cursor.execute(
                f"SELECT setval(%s::regclass, GREATEST(%s, (SELECT last_value FROM {sequence})) + %s)",
                [sequence, highest, ID_JUMP],
            )
        elif connection.vendor == "sqlite":
            cursor.execute("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = %s", [table])
            target = max(highest, cursor.fetchone()[0]) + ID_JUMP
            # Never without the row: ids of deleted messages would be used again.
            cursor.execute("UPDATE sqlite_sequence SET seq = %s WHERE name = %s", [target, table])
            if not cursor.rowcount:
                cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, target])
        else:
            cursor.execute(
                "SELECT AUTO_INCREMENT FROM information_schema.TABLES"
                " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
                [table],
            )
            target = max(highest, cursor.fetchone()[0] or 1) + ID_JUMP
            cursor.execute(f"ALTER TABLE {quoted} AUTO_INCREMENT = {int(target)}")
