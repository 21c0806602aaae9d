"""The most frequent write: a group of accepted messages becomes ``sent``, each with its attempt, under their token.

PostgreSQL does it in one statement.  The other databases take two statements in a transaction, written by hand: the ORM
needs three milliseconds to build the first one for 24 rows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from django.db import connections
from django.db.models import Field, Model

from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.sent import FIXED_NUMBER_SQL
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store.db import atomic

#: Column -> value of a ``DeliveryAttempt``.
Attempt = dict[str, Any]

#: ``rules.sent.sent_columns`` in SQL, for messages none of whose recipients was refused.
_BECOMES_SENT = f"""status = %s, sent_at = %s, updated_at = %s, next_attempt_at = NULL, claim_expires_at = NULL,
 last_error = '', last_error_code = '', message_number = {FIXED_NUMBER_SQL},
 provider_message_id = COALESCE({{row}}provider_message_id, {{header}}), provider_response = {{response}}"""

_CASES = "CASE id {cases} END"
_SENT = f"""UPDATE {{messages}} SET {_BECOMES_SENT.format(row="", header=_CASES, response=_CASES)}
 WHERE id IN ({{ids}}) AND status = %s AND claim_token = %s"""

# One JSON parameter: a long list of placeholders costs the driver more than the database's whole work.
_SENT_WITH_ATTEMPTS = f"""WITH given AS (SELECT * FROM json_to_recordset(%s::json) AS row (
 message_id bigint, number integer, header_message_id text, response text, started_at timestamptz,
 finished_at timestamptz, phase text, smtp_code smallint, enhanced_code text, peer text, worker text)),
changed AS (UPDATE {{messages}} AS m
 SET {_BECOMES_SENT.format(row="m.", header="given.header_message_id", response="given.response")} FROM given
 WHERE m.id = given.message_id AND m.status = %s AND m.claim_token = %s RETURNING m.id)
INSERT INTO {{attempts}} (message_id, number, header_message_id, started_at, finished_at, outcome, error_code, error,
 phase, smtp_code, enhanced_code, peer, worker, claim_token)
 SELECT message_id, number, header_message_id, started_at, finished_at, %s, '', '', phase, smtp_code, enhanced_code,
 peer, worker, %s FROM given JOIN changed ON changed.id = given.message_id RETURNING message_id"""

#: Columns of ``DeliveryAttempt`` whose text strangers wrote.
_FOREIGN_TEXT = ("error", "enhanced_code", "peer", "worker")
_ATTEMPT_COLUMNS = (
    "message_id",
    "number",
    "header_message_id",
    "started_at",
    "finished_at",
    "outcome",
    "error_code",
    "error",
    "phase",
    "smtp_code",
    "enhanced_code",
    "peer",
    "worker",
    "claim_token",
)


def record_sent(attempts: Sequence[Attempt], responses: Sequence[str], *, token: uuid.UUID, now: datetime) -> set[int]:
    """Mark the attempts' messages as sent where the claim is still ours; return the ids of the marked messages.

    An attempt is given as its columns; ``responses`` are the server's final replies, in the same order.  Where the
    database does not return the changed ids, no message is marked as soon as one claim of the group is lost.
    """
    if connections[outbox_alias()].vendor == "postgresql":
        return _in_one_statement(attempts, responses, token=token, now=now)
    try:
        with atomic():
            if _mark_sent(attempts, responses, token=token, now=now) != len(attempts):
                raise _NotAllOurs
            _insert_attempts(attempts)
    except _NotAllOurs:
        # The rows do not show which were ours: a lost message may have been confirmed meanwhile, and keeps its token.
        return set()
    return {attempt["message_id"] for attempt in attempts}


class _NotAllOurs(Exception):
    """Rolls the group back; each result is then recorded by itself, under its row's lock."""


def _in_one_statement(
    attempts: Sequence[Attempt], responses: Sequence[str], *, token: uuid.UUID, now: datetime
) -> set[int]:
    connection = connections[outbox_alias()]
    statement = _SENT_WITH_ATTEMPTS.format(
        messages=connection.ops.quote_name(OutboxMessage._meta.db_table),
        attempts=connection.ops.quote_name(DeliveryAttempt._meta.db_table),
    )
    rows = [
        attempt
        | {name: _prepared(DeliveryAttempt, name, attempt[name]) for name in _FOREIGN_TEXT}
        | {"response": _prepared(OutboxMessage, "provider_response", response)}
        for attempt, response in zip(attempts, responses, strict=True)
    ]
    params: list[Any] = [
        json.dumps(rows, default=str),
        Status.SENT.value,
        now,
        now,
        Status.SENDING.value,
        token,
        AttemptOutcome.SENT.value,
        token,
    ]
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return {row[0] for row in cursor.fetchall()}


def _insert_attempts(attempts: Sequence[Attempt]) -> None:
    """Insert the attempts without ``bulk_create``, which took a seventh of a drain's time."""
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    fields = [cast("Field[Any, Any]", DeliveryAttempt._meta.get_field(name)) for name in _ATTEMPT_COLUMNS]
    row = f"({', '.join(['%s'] * len(fields))})"
    names = ", ".join(quote(name) for name in _ATTEMPT_COLUMNS)
    table = quote(DeliveryAttempt._meta.db_table)
    params = [field.get_db_prep_save(attempt[field.attname], connection) for attempt in attempts for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES {', '.join([row] * len(attempts))}", params)


def _mark_sent(attempts: Sequence[Attempt], responses: Sequence[str], *, token: uuid.UUID, now: datetime) -> int:
    connection = connections[outbox_alias()]
    ids = [attempt["message_id"] for attempt in attempts]
    cases = " ".join(["WHEN %s THEN %s"] * len(attempts))
    statement = _SENT.format(
        messages=connection.ops.quote_name(OutboxMessage._meta.db_table),
        cases=cases,
        ids=", ".join(["%s"] * len(ids)),
    )
    instant = _prepared(OutboxMessage, "sent_at", now)
    params: list[Any] = [Status.SENT.value, instant, instant]
    for attempt in attempts:
        params += [attempt["message_id"], attempt["header_message_id"]]
    for attempt, response in zip(attempts, responses, strict=True):
        params += [attempt["message_id"], _prepared(OutboxMessage, "provider_response", response)]
    params += [*ids, Status.SENDING.value, _prepared(OutboxMessage, "claim_token", token)]
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return int(cursor.rowcount)


def _prepared(model: type[Model], column: str, value: Any) -> Any:
    connection = connections[outbox_alias()]
    field = cast("Field[Any, Any]", model._meta.get_field(column))
    return field.get_db_prep_save(value, connection)
