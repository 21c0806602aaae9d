"""The claim on PostgreSQL: one statement over all ranks that locks, claims and returns the messages.

``claims`` does the same by the ORM on the other databases; a test holds the two against each other.  What the statement
returns of a message, and how it becomes an instance: ``claimed_columns``.

The recipients of a message that has not changed since it was queued come along: nobody can have written a result of
theirs, or erased one.  Those of others are read by a statement of their own after the claim (``claimed.claims_of``): a
late result may have been committed after this statement took its snapshot and before it locked the row.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

from django.db import connections

from prx_email_django.models import OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.states import WAITING, Status
from prx_email_django.store import prepared, prepared_sessions
from prx_email_django.store.begun import begin
from prx_email_django.store.claimed import ClaimedRecipient, Taken
from prx_email_django.store.claimed_columns import ALWAYS, decoded_all, instances_of, microseconds, returning
from prx_email_django.store.cursor import Bounds

#: Ranks are priorities with the opposite sign.
RANKS = range(-10, 11)
# The lateral query runs rank by rank in the order of the ranks, and ends at the outer LIMIT.  The ids go to the UPDATE
# as an array: with a join the planner might read the whole table.  ``first`` is the place of the first message that
# must not be sent twice; NULL: there is none.  ``text_before``: bytes of the texts of the messages in front, whose
# lengths PostgreSQL knows without reading them.  The first column is the same in all rows: the server process, that
# place or 0, whether messages were left since the texts are large, and when the lease ends.  What was claimed is not
# joined with ``due``: the planner, who expects one row of each, would compare each with each.  What is given comes by a
# SELECT where the planner could judge by it: it would find a plan for these values cheaper than the plan that it keeps
# for all, and plan each claim anew.
_CLAIM = """WITH due AS MATERIALIZED (
 SELECT start.claim_rank, row.* FROM unnest((SELECT %s::smallint[]), %s::timestamptz[], %s::bigint[])
 AS start(claim_rank, next_attempt_at, id) CROSS JOIN LATERAL (
  SELECT m.id, m.next_attempt_at, m.on_unknown = 'hold' OR m.on_unknown = '' AND %s AS is_hold,
  OCTET_LENGTH(m.body_text) + OCTET_LENGTH(m.body_html) AS text_size,
  m.claim_token IS NULL AND m.updated_at = m.created_at AS is_new FROM {messages} AS m
  WHERE m.account_id = (SELECT %s::bigint) AND m.next_attempt_at IS NOT NULL AND m.claim_rank = start.claim_rank
  AND (m.next_attempt_at, m.id) > (start.next_attempt_at, start.id) AND m.next_attempt_at <= (SELECT %s::timestamptz)
  AND m.status IN ({waiting}) ORDER BY m.next_attempt_at, m.id LIMIT (SELECT %s::bigint)
  FOR UPDATE SKIP LOCKED) AS row LIMIT (SELECT %s::bigint)),
placed AS (SELECT id, is_hold, row_number() OVER so_far AS place, sum(text_size) OVER so_far - text_size AS text_before
 FROM due WINDOW so_far AS (ROWS UNBOUNDED PRECEDING)),
hold AS (SELECT min(place) FILTER (WHERE is_hold AND text_before < %s) AS first,
 COALESCE(max(text_before) >= %s, false)::int AS is_cut FROM placed),
claimed AS (UPDATE {messages} AS m SET status = %s, claim_token = %s, dismissed_at = NULL, updated_at = %s,
 claim_expires_at = GREATEST(%s, STATEMENT_TIMESTAMP()) + %s
 WHERE m.id = ANY(ARRAY(SELECT id FROM placed, hold
 WHERE text_before < %s AND COALESCE(place < first OR first = 1 AND place <= %s, true)))
 AND m.status IN ({waiting}) AND m.next_attempt_at <= (SELECT %s::timestamptz) RETURNING {lease} AS lease, {columns})
SELECT CONCAT_WS(' ', PG_BACKEND_PID(), COALESCE(hold.first, 0), hold.is_cut, claimed.lease),
 CASE WHEN claimed.id <> ALL(ARRAY(SELECT id FROM due WHERE NOT is_new)) THEN
 (SELECT JSON_AGG(JSON_BUILD_ARRAY({recipient}))::text FROM {recipients} AS r
 WHERE r.message_id = claimed.id) END, {names} FROM hold LEFT JOIN claimed ON true"""
#: The places of what sorts the messages, behind the first two columns.
_ORDER = [2 + ALWAYS.index(name) for name in ("claim_rank", "next_attempt_at", "id")]


@dataclass(frozen=True, slots=True)
class ClaimStatement:
    """A claim of due messages behind ``bounds`` (by rank)."""

    account_id: int
    limit: int
    hold_limit: int
    text_limit: int
    hold_by_default: bool
    token: uuid.UUID
    length: timedelta
    bounds: Bounds
    clock: Clock

    def execute(self) -> Taken:
        """Claim, and return what was claimed."""
        connection, now = connections[outbox_alias()], self.clock.now
        statement, params = _statement(outbox_alias()), self._parameters(now)
        rows = prepared.fetch(connection, statement, params, plan_for=prepared.PLAN_FOR, loads=True)
        return self._taken(connection, rows, now)

    def begin(self) -> Callable[[], Taken] | None:
        """Begin to claim: the function waits for it; None: nothing was begun (``begun.begin``)."""
        connection, now = connections[outbox_alias()], self.clock.now
        statement, params = _statement(outbox_alias()), self._parameters(now)
        begun = begin(connection, statement, params, plan_for=prepared.PLAN_FOR, loads=True)
        return None if begun is None else lambda: self._taken(connection, list(begun.rows()), now)

    def _parameters(self, now: datetime) -> list[Any]:
        params: list[Any] = [*_starts(self.bounds), self.hold_by_default, self.account_id, now]
        params += [self.limit, self.limit, self.text_limit, self.text_limit]
        params += [Status.SENDING.value, str(self.token), now, self.clock.running, self.length]
        return [*params, self.text_limit, self.hold_limit, now]

    def _taken(self, connection: Any, rows: list[tuple[Any, ...]], now: datetime) -> Taken:
        process, first, is_cut, *lease = map(int, rows[0][0].split())
        prepared_sessions.note_process(connection, process)
        taken = Taken(stopped_at_hold=first > 0, has_more=bool(first or is_cut))
        if not lease:  # nothing was claimed
            return taken
        rows.sort(key=itemgetter(*_ORDER))
        known = {"status": Status.SENDING.value, "claim_token": self.token, "dismissed_at": None, "updated_at": now}
        _, recipients, *columns = zip(*rows, strict=True)
        known["account_id"] = self.account_id
        taken.messages, taken.usual = instances_of(columns, known=known, lease=lease[0])
        for message, found in zip(taken.messages, decoded_all(recipients), strict=True):
            if found is not None:
                found.sort()  # by their ids, in which they were given; PostgreSQL's sort costs more for each message
                pk = message.id
                taken.recipients[pk] = [ClaimedRecipient(pk, *read) for read in found]
        return taken


@lru_cache(maxsize=4)
def _statement(alias: str) -> str:
    quote = connections[alias].ops.quote_name
    return _CLAIM.format(
        messages=quote(OutboxMessage._meta.db_table),
        recipients=quote(Recipient._meta.db_table),
        waiting=", ".join(f"'{status.value}'" for status in WAITING),
        lease=microseconds("m.claim_expires_at"),
        columns=", ".join(f"{sql} AS {quote(name)}" for name, sql in returning(quote).items()),
        names=", ".join(f"claimed.{quote(name)}" for name in returning(quote)),
        recipient=", ".join(f"r.{quote(name)}" for name in ("id", *ClaimedRecipient._fields[2:])),
    )


def _starts(bounds: Bounds) -> tuple[str, str, str]:
    """Rank, instant and id behind which to begin, as array literals: psycopg takes long over an array's elements."""
    found = [bounds.get(rank) for rank in RANKS]
    instants = ("-infinity" if bound is None else bound.next_attempt_at.isoformat() for bound in found)
    ids = ("0" if bound is None else str(bound.pk) for bound in found)
    return f"{{{','.join(map(str, RANKS))}}}", f"{{{','.join(instants)}}}", f"{{{','.join(ids)}}}"
