"""The most frequent write: a group of accepted messages becomes ``sent``, each with its attempt, under their token.

PostgreSQL does it in one statement.  The other databases take two statements in a transaction, written by hand: the ORM
needs three milliseconds to build the first one for 24 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, cast

from django.db import connections
from django.db.models import Field, Model

from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.models.foreign_text import ForeignCharField
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.sent import FIXED_NUMBER_SQL
from prx_email_django.rules.text import MAX_COLUMN, MAX_ENHANCED_CODE, MAX_TEXT
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store import prepared
from prx_email_django.store.attempts import FinishedAttempt, attempt_columns
from prx_email_django.store.db import atomic, worker_name

#: Column -> value of a ``DeliveryAttempt``.
Attempt = dict[str, Any]

#: ``rules.sent.sent_columns`` in SQL, for messages none of whose recipients was refused.
_BECOMES_SENT = f"""status = %s, sent_at = %s, updated_at = %s, next_attempt_at = NULL, claim_expires_at = NULL,
 last_error = '', last_error_code = '', message_number = {FIXED_NUMBER_SQL},
 provider_message_id = COALESCE({{row}}provider_message_id, {{header}}), provider_response = {{response}}"""

_CASES = "CASE id {cases} END"
_SENT = f"""UPDATE {{messages}} SET {_BECOMES_SENT.format(row="", header=_CASES, response=_CASES)}
 WHERE id IN ({{ids}}) AND status = %s AND claim_token = %s"""

# One array a column: a long list of placeholders costs the driver more than the database's whole work.  Of a column
# whose values are all equal, as most are, one value goes (``few``).  Instants are seconds: microseconds of this era are
# exact in a double.
_SENT_WITH_ATTEMPTS = f"""WITH few AS (SELECT %s::text[] AS phase, %s::text[] AS enhanced_code, %s::text[] AS peer),
given AS (SELECT row.*, few.phase[LEAST(place, CARDINALITY(few.phase))] AS phase,
 few.enhanced_code[LEAST(place, CARDINALITY(few.enhanced_code))] AS enhanced_code,
 few.peer[LEAST(place, CARDINALITY(few.peer))] AS peer FROM few, unnest(%s::bigint[], %s::integer[], %s::uuid[],
 %s::float8[], %s::float8[], %s::smallint[], %s::text[], %s::text[]) WITH ORDINALITY AS row (
 message_id, number, claim_token, started_at, finished_at, smtp_code, header_message_id, response, place)),
changed AS (UPDATE {{messages}} AS m
 SET {_BECOMES_SENT.format(row="m.", header="given.header_message_id", response="given.response")} FROM given
 WHERE m.id = given.message_id AND m.status = %s AND m.claim_token = given.claim_token RETURNING m.id)
INSERT INTO {{attempts}} (message_id, number, header_message_id, started_at, finished_at, outcome, error_code, error,
 phase, smtp_code, enhanced_code, peer, worker, claim_token)
 SELECT message_id, number, header_message_id, TO_TIMESTAMP(started_at), TO_TIMESTAMP(finished_at), %s, '', '', phase,
 smtp_code, enhanced_code, peer, %s, claim_token FROM given JOIN changed ON changed.id = given.message_id
 RETURNING message_id"""

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
        return _in_one_statement(group, now=now)
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


class _NotAllOurs(Exception):
    """Rolls the group back; each result is then recorded by itself, under its row's lock."""


def _in_one_statement(group: Sequence[FinishedAttempt], *, now: datetime) -> set[int]:
    connection = connections[outbox_alias()]
    claims = [finished.claim for finished in group]
    said = [finished.outcome for finished in group]
    fitted = {name: _stored(DeliveryAttempt, name) for name in ("peer", "enhanced_code", "worker")}
    response = _stored(OutboxMessage, "provider_response")
    params = [
        _few([str(outcome.phase) for outcome in said]),
        [
            fitted["enhanced_code"](text[:MAX_ENHANCED_CODE], connection)
            for text in _few([outcome.enhanced for outcome in said])
        ],
        [fitted["peer"](text[:MAX_COLUMN], connection) for text in _few([outcome.peer for outcome in said])],
        _literal([claim.message.id for claim in claims]),
        _literal([claim.number for claim in claims]),
        _literal([claim.lease.token.hex for claim in claims]),
        _literal([finished.started_at.timestamp() for finished in group]),
        _literal([finished.finished_at.timestamp() for finished in group]),
        _literal([outcome.smtp_code or "NULL" for outcome in said]),
        [claim.header_message_id for claim in claims],
        [response(outcome.response[:MAX_TEXT], connection) for outcome in said],
        Status.SENT.value,
        now,
        now,
        Status.SENDING.value,
        AttemptOutcome.SENT.value,
        fitted["worker"](worker_name()[:MAX_COLUMN], connection),
    ]
    statement = _statement(outbox_alias())
    return {int(row[0]) for row in prepared.fetch(connection, statement, params, plan_for=prepared.PLAN_FOR)}


def _few(texts: list[str]) -> list[str]:
    """The texts; one of them where all are equal."""
    return texts if texts.count(texts[0]) < len(texts) else texts[:1]


def _literal(values: Iterable[object]) -> str:
    """The values as an array literal; none of them needs quotes."""
    return f"{{{','.join(map(str, values))}}}"


@lru_cache(maxsize=4)
def _statement(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    return _SENT_WITH_ATTEMPTS.format(
        messages=quote(OutboxMessage._meta.db_table), attempts=quote(DeliveryAttempt._meta.db_table)
    )


def _stored(model: type[Model], column: str) -> Callable[[Any, Any], Any]:
    """What makes of strangers' text, and of a Django connection, the text that the column holds."""
    return cast("ForeignCharField", model._meta.get_field(column)).fitted


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
