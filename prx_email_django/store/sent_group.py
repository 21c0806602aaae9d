"""The hot write: a group of accepted messages becomes ``sent`` in one guarded statement."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from django.db import connections
from django.db.models import Field

from prx_email_django.models import OutboxMessage
from prx_email_django.querysets import outbox_alias
from prx_email_django.states import Status

_SQL = """UPDATE {table} SET
 status = %s, sent_at = %s, updated_at = %s, next_attempt_at = NULL, claim_expires_at = NULL,
 last_error = %s, last_error_code = %s, message_number = COALESCE(message_number, retries),
 provider_message_id = COALESCE(provider_message_id, CASE id {headers} END),
 provider_response = CASE id {responses} END
 WHERE id IN ({ids}) AND status = %s AND claim_token = %s"""


def mark_sent(rows: Sequence[tuple[OutboxMessage, str, str]], *, token: uuid.UUID, now: datetime) -> set[int]:
    """Mark (message, Message-ID, response) as sent where the claim is still ours; return the ids that were.

    One portable statement with the same guard as everywhere: the ORM needs three milliseconds to build it for 24 rows.
    """
    connection = connections[outbox_alias()]
    ids = [message.pk for message, _, _ in rows]
    cases = " ".join(["WHEN %s THEN %s"] * len(rows))
    statement = _SQL.format(
        table=connection.ops.quote_name(OutboxMessage._meta.db_table),
        headers=cases,
        responses=cases,
        ids=", ".join(["%s"] * len(rows)),
    )
    moment = _prepared("sent_at", now)
    params: list[Any] = [Status.SENT.value, moment, moment, "", ""]
    for message, header, _ in rows:
        params += [message.pk, header]
    for message, _, response in rows:
        params += [message.pk, response]
    params += [*ids, Status.SENDING.value, _prepared("claim_token", token)]
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        changed = cursor.rowcount
    if changed == len(rows):
        return set(ids)
    ours = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENT, claim_token=token)
    return set(ours.values_list("pk", flat=True))


def _prepared(column: str, value: Any) -> Any:
    connection = connections[outbox_alias()]
    field = cast("Field[Any, Any]", OutboxMessage._meta.get_field(column))
    return field.get_db_prep_save(value, connection)
