"""The most frequent write: a group of accepted messages becomes ``sent``, each with its attempt, under their token.

PostgreSQL does it in one statement (``sent_arrays``).  The other databases take two statements in a transaction,
written by hand: the ORM needs three milliseconds to build the first one for 24 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

from django.db import connections
from django.db.models import Field, Model

from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.text import MAX_TEXT
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store.attempts import FinishedAttempt, attempt_columns
from prx_email_django.store.db import atomic
from prx_email_django.store.sent_arrays import BECOMES_SENT, begin_in_one_statement, in_one_statement

#: Column -> value of a ``DeliveryAttempt``.
Attempt = dict[str, Any]

_CASES = "CASE id {cases} END"
_SENT = f"""UPDATE {{messages}} SET {BECOMES_SENT.format(row="", header=_CASES, response=_CASES)}
 WHERE id IN ({{ids}}) AND status = %s AND claim_token = %s"""

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


def takes_all_claims() -> bool:
    """Whether one statement records the messages of several claims, as far as these are still ours."""
    return connections[outbox_alias()].vendor == "postgresql"


def record_sent(group: Sequence[FinishedAttempt], *, now: datetime) -> set[int]:
    """Mark the messages of these accepted attempts as sent where the claim is still ours; return their ids.

    Unless ``takes_all_claims``, all are of one claim: where the database does not return the changed ids, no message is
    marked as soon as one of the group is lost.
    """
    if takes_all_claims():
        return in_one_statement(group, now=now)
    attempts = [attempt_columns(finished, AttemptOutcome.SENT) for finished in group]
    responses = [finished.outcome.response[:MAX_TEXT] for finished in group]
    try:
        with atomic():
            if _mark_sent(attempts, responses, now=now) != len(attempts):
                raise _NotAllOurs
            _insert_attempts(attempts)
    except _NotAllOurs:
        # The rows do not show which were ours: a lost message may have been confirmed meanwhile, and keeps its token.
        return set()
    return {attempt["message_id"] for attempt in attempts}


def begin_to_record(group: Sequence[FinishedAttempt], *, now: datetime) -> Callable[[], set[int]] | None:
    """Begin the same in one statement: the function waits for it and returns the ids; None: nothing was begun."""
    return begin_in_one_statement(group, now=now) if takes_all_claims() else None


class _NotAllOurs(Exception):
    """Rolls the group back; each result is then recorded by itself, under its row's lock."""


def _insert_attempts(attempts: Sequence[Attempt]) -> None:
    """Insert the attempts without ``bulk_create``, which took a seventh of a drain's time."""
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    prepare = [_fitting(DeliveryAttempt, name) for name in _ATTEMPT_COLUMNS]
    row = f"({', '.join(['%s'] * len(prepare))})"
    names = ", ".join(quote(name) for name in _ATTEMPT_COLUMNS)
    table = quote(DeliveryAttempt._meta.db_table)
    params = [
        prepared(attempt[name])
        for attempt in attempts
        for name, prepared in zip(_ATTEMPT_COLUMNS, prepare, strict=True)
    ]
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES {', '.join([row] * len(attempts))}", params)


def _mark_sent(attempts: Sequence[Attempt], responses: Sequence[str], *, now: datetime) -> int:
    connection = connections[outbox_alias()]
    ids = [attempt["message_id"] for attempt in attempts]
    cases = " ".join(["WHEN %s THEN %s"] * len(attempts))
    statement = _SENT.format(
        messages=connection.ops.quote_name(OutboxMessage._meta.db_table),
        cases=cases,
        ids=", ".join(["%s"] * len(ids)),
    )
    instant = _fitting(OutboxMessage, "sent_at")(now)
    fitted_response = _fitting(OutboxMessage, "provider_response")
    params: list[Any] = [Status.SENT.value, instant, instant]
    for attempt in attempts:
        params += [attempt["message_id"], attempt["header_message_id"]]
    for attempt, response in zip(attempts, responses, strict=True):
        params += [attempt["message_id"], fitted_response(response)]
    params += [*ids, Status.SENDING.value, _fitting(OutboxMessage, "claim_token")(attempts[0]["claim_token"])]
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return int(cursor.rowcount)


def _fitting(model: type[Model], column: str) -> Callable[[Any], Any]:
    """What prepares a value for the column; looked up once a statement, since each look-up costs as much as the work.

    Strangers' text becomes what the database can hold.
    """
    field = cast("Field[Any, Any]", model._meta.get_field(column))
    return partial(field.get_db_prep_save, connection=connections[outbox_alias()])
