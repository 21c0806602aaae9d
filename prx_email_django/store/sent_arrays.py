"""The write of ``sent_group`` on PostgreSQL: one statement, with one array a column.

A long list of placeholders costs the driver more than the database's whole work.  Of a column whose values are all
equal, as most are, one value goes (``few``); the texts of a column go as one text; instants go as microseconds after
the group's first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

from django.db import connections
from django.db.models import Model

from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.models.foreign_text import ForeignCharField, is_plain
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.sent import FIXED_NUMBER_SQL
from prx_email_django.rules.text import MAX_COLUMN, MAX_ENHANCED_CODE, MAX_TEXT
from prx_email_django.states import AttemptOutcome, Status
from prx_email_django.store import prepared
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.begun import begin
from prx_email_django.store.db import worker_name

T = TypeVar("T")

#: ``rules.sent.sent_columns`` in SQL, for messages none of whose recipients was refused.
BECOMES_SENT = f"""status = %s, sent_at = %s, updated_at = %s, next_attempt_at = NULL, claim_expires_at = NULL,
 last_error = '', last_error_code = '', message_number = {FIXED_NUMBER_SQL},
 provider_message_id = COALESCE({{row}}provider_message_id, {{header}}), provider_response = {{response}}"""

#: Columns of ``few``: texts, and others with their types.
_FEW_TEXTS = ("phase", "enhanced_code", "peer")
_FEW = {"claim_token": "uuid", "number": "integer", "smtp_code": "smallint"}
# ``between`` separates texts.  STRING_TO_ARRAY makes no element of an empty text: COALESCE.
_COLUMNS_OF_FEW = ", ".join(
    [f"STRING_TO_ARRAY(%s, between) AS {name}" for name in _FEW_TEXTS]
    + [f"%s::{kind}[] AS {name}" for name, kind in _FEW.items()]
)
_OF_FEW = ", ".join(
    [f"COALESCE(few.{name}[LEAST(place, CARDINALITY(few.{name}))], '') AS {name}" for name in _FEW_TEXTS]
    + [f"few.{name}[LEAST(place, CARDINALITY(few.{name}))] AS {name}" for name in _FEW]
)
# The ids come by a SELECT, so that the planner does not know how many they are.  It would find a plan for a short list
# cheaper than the plan that it keeps for any, and plan every small group anew.
_SENT_WITH_ATTEMPTS = f"""WITH few AS (SELECT between, {_COLUMNS_OF_FEW} FROM (SELECT %s::text AS between) AS s),
given AS (SELECT row.message_id, row.started, row.finished, row.header_message_id, {_OF_FEW},
 COALESCE(row.response, '') AS response FROM few,
 unnest((SELECT %s::bigint[]), %s::bigint[], %s::bigint[], STRING_TO_ARRAY(%s, between), STRING_TO_ARRAY(%s, between))
 WITH ORDINALITY AS row (message_id, started, finished, header_message_id, response, place)),
changed AS (UPDATE {{messages}} AS m
 SET {BECOMES_SENT.format(row="m.", header="given.header_message_id", response="given.response")} FROM given
 WHERE m.id = given.message_id AND m.status = %s AND m.claim_token = given.claim_token RETURNING given.*),
recorded AS (INSERT INTO {{attempts}} (message_id, number, header_message_id, started_at, finished_at, outcome,
 error_code, error, phase, smtp_code, enhanced_code, peer, worker, claim_token)
 SELECT message_id, number, header_message_id, first.at + started * INTERVAL '1 microsecond',
 first.at + finished * INTERVAL '1 microsecond', %s, '', '', phase, smtp_code, enhanced_code, peer, %s, claim_token
 FROM changed CROSS JOIN (SELECT %s::timestamptz AS at) AS first
 RETURNING message_id)
SELECT COUNT(*), STRING_AGG(message_id::text, ',') FROM recorded"""  # noqa: S608  (names of columns only)

#: Between two texts of a column, and what makes it longer where a text holds it: it never overlaps with itself.
_SEPARATOR, _LONGER = "\x1f", "\x1e"


def in_one_statement(group: Sequence[FinishedAttempt], *, now: datetime) -> set[int]:
    """Mark the messages as sent that are still ours, and insert their attempts; return their ids."""
    connection = connections[outbox_alias()]
    params, statement = _parameters(group, connection, now=now), _statement(outbox_alias())
    return _written(group, prepared.fetch(connection, statement, params, plan_for=prepared.PLAN_FOR))


def begin_in_one_statement(group: Sequence[FinishedAttempt], *, now: datetime) -> Callable[[], set[int]] | None:
    """Begin the same: the function waits for it and returns the ids; None: nothing was begun (``begun.begin``)."""
    connection = connections[outbox_alias()]
    params, statement = _parameters(group, connection, now=now), _statement(outbox_alias())
    statement_begun = begin(connection, statement, params, plan_for=prepared.PLAN_FOR)
    return None if statement_begun is None else lambda: _written(group, statement_begun.rows())


def _written(group: Sequence[FinishedAttempt], rows: Sequence[tuple[Any, ...]]) -> set[int]:
    """The ids of the messages that the statement has marked."""
    ((count, written),) = rows
    if int(count) == len(group):
        return {finished.claim.id for finished in group}
    text = written.decode() if isinstance(written, bytes) else written or ""
    # A message that is there twice, because its worker has claimed it once more, is recorded for one of its claims: the
    # caller records each of them by itself, and finds what is recorded already.
    ids = [finished.claim.id for finished in group]
    return {int(pk) for pk in text.split(",") if pk and ids.count(int(pk)) == 1}


def _parameters(group: Sequence[FinishedAttempt], connection: Any, *, now: datetime) -> list[Any]:
    claims = [finished.claim for finished in group]
    said = [finished.outcome for finished in group]
    first = group[0].started_at
    ids = [claim.id for claim in claims]
    enhanced, peers = _few([outcome.enhanced for outcome in said]), _few([outcome.peer for outcome in said])
    codes = _few([outcome.smtp_code for outcome in said])
    texts = [
        [str(phase) for phase in _few([outcome.phase for outcome in said])],
        [_stored(DeliveryAttempt, "enhanced_code")(text[:MAX_ENHANCED_CODE], connection) for text in enhanced],
        [_stored(DeliveryAttempt, "peer")(text[:MAX_COLUMN], connection) for text in peers],
        [claim.header_message_id for claim in claims],
        _responses([outcome.response[:MAX_TEXT] for outcome in said], connection),
    ]
    separator = _separator(texts)
    *few, headers, responses = [separator.join(column) for column in texts]
    return [
        *few,
        _literal([lease.token.hex for lease in _few([claim.lease for claim in claims])]),
        _literal(_few([claim.number for claim in claims])),
        _literal([code or "NULL" for code in codes]),
        separator,
        _literal(ids),
        _literal(_microseconds([finished.started_at for finished in group], since=first)),
        _literal(_microseconds([finished.finished_at for finished in group], since=first)),
        headers,
        responses,
        Status.SENT.value,
        now,
        now,
        Status.SENDING.value,
        AttemptOutcome.SENT.value,
        _stored(DeliveryAttempt, "worker")(worker_name()[:MAX_COLUMN], connection),
        first,
    ]


def _few(values: list[T]) -> list[T]:
    """The values; one of them where all are equal."""
    return values if values.count(values[0]) < len(values) else values[:1]


def _literal(values: Iterable[object]) -> str:
    """The values as an array literal; none of them needs quotes."""
    return f"{{{','.join(map(str, values))}}}"


def _microseconds(instants: Iterable[datetime], *, since: datetime) -> list[int]:
    spans = [instant - since for instant in instants]
    return [(span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds for span in spans]


def _separator(columns: Iterable[Sequence[str]]) -> str:
    """What none of the texts holds."""
    everything, separator = "".join(["".join(texts) for texts in columns]), _SEPARATOR
    while separator in everything:
        separator += _LONGER
    return separator


def _responses(texts: list[str], connection: Any) -> list[str]:
    """The server's words as the column holds them."""
    if is_plain("".join(texts)):
        return texts  # nearly always
    return [_stored(OutboxMessage, "provider_response")(text, connection) for text in texts]


@lru_cache(maxsize=4)
def _statement(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    return _SENT_WITH_ATTEMPTS.format(
        messages=quote(OutboxMessage._meta.db_table), attempts=quote(DeliveryAttempt._meta.db_table)
    )


def _stored(model: type[Model], column: str) -> Callable[[Any, Any], Any]:
    """What makes of strangers' text, and of a Django connection, the text that the column holds."""
    return cast("ForeignCharField", model._meta.get_field(column)).fitted
