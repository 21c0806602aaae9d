"""What is due: found rank by rank by the claim's index; nothing is claimed here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from django.db import connections
from django.db.models import F, Q, QuerySet
from django.db.models.fields.tuple_lookups import Tuple, TupleGreaterThan

from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.recipients import OPEN_RESULTS
from prx_email_django.states import WAITING
from prx_email_django.store.cursor import Bound, ClaimCursor
from prx_email_django.store.db import retried

#: The highest priority is 10, so the lowest rank is -10; the lowest priority is -10.
BELOW_ALL_RANKS, LAST_RANK = -11, 10


#: Due messages of each rank that are compared with refused ones, from either end of the queue.
COMPARED = 100


class RankHead(NamedTuple):
    """The message of one rank that is due first."""

    rank: int
    next_attempt_at: datetime
    pk: int


def heads(account_id: int, *, above: int = BELOW_ALL_RANKS) -> list[RankHead]:
    """The head of every rank in use, lowest rank first, in one statement: no index serves a sorted read of all ranks.

    One index row each, due or not: MariaDB would read all rows of a rank to find none that is due.
    """
    if above >= LAST_RANK:
        return []
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    message = quote(OutboxMessage._meta.db_table)
    # Only Django's own names and numbers are put into the text.
    sql = f"""
        SELECT m.claim_rank, m.next_attempt_at, m.id FROM {message} m JOIN (
          SELECT (SELECT n.id FROM {message} n {_by_claim_index()}
            WHERE n.account_id = %s AND n.claim_rank = r.claim_rank AND n.next_attempt_at IS NOT NULL
              AND n.status IN (%s, %s) ORDER BY n.next_attempt_at, n.id LIMIT 1) AS id
          FROM ({_ranks(above)}) r) h ON h.id = m.id WHERE m.next_attempt_at IS NOT NULL"""  # noqa: S608
    column = OutboxMessage._meta.get_field("next_attempt_at").cached_col
    converters = connection.ops.get_db_converters(column)
    # Not by ``raw()``: what a signal interrupts would leave its cursor open, and SQLite locked.
    with connection.cursor() as cursor:
        cursor.execute(sql, [account_id, *(str(status) for status in WAITING)])
        rows = cursor.fetchall()

    def instant(value: Any) -> datetime:
        for convert in converters:
            value = convert(value, column, connection)
        return cast(datetime, value)

    return sorted(RankHead(rank, instant(moment), pk) for rank, moment, pk in rows)


def _by_claim_index() -> str:
    """The claim's index by name, for MariaDB and MySQL; the other databases choose right by themselves.

    MariaDB 10.11 may choose an index of the status first and then, for the sake of the order, the claim's.  It reads
    all ranks within the range of the first one then: due messages were not found, and stayed (a wrong answer, not only
    a slow one).  With one index to choose from there is no such change.
    """
    return "FORCE INDEX (prx_message_claim)" if connections[outbox_alias()].vendor == "mysql" else ""


def _ranks(above: int = BELOW_ALL_RANKS) -> str:
    return " UNION ALL ".join(f"SELECT {rank} AS claim_rank" for rank in range(above + 1, LAST_RANK + 1))


def _queued(account_id: int) -> QuerySet[OutboxMessage]:
    # The second condition is the partial index's own: without it the index is not used.
    return OutboxMessage.objects.filter(account_id=account_id, next_attempt_at__isnull=False)


def due_rows(account_id: int, rank: int, clock: Clock, *, behind: Bound | None = None) -> QuerySet[OutboxMessage]:
    """The due messages of one rank, in order, behind a place in it."""
    rows = _queued(account_id).filter(claim_rank=rank, next_attempt_at__lte=clock.now, status__in=WAITING)
    return (rows.filter(_is_behind(behind)) if behind else rows).order_by("next_attempt_at", "id")


def _is_behind(place: Bound) -> Any:
    """The condition in the form that bounds the read of the claim's index."""
    if connections[outbox_alias()].vendor == "mysql":  # which reads the whole rank for the other form
        return Q(next_attempt_at__gt=place.next_attempt_at) | Q(next_attempt_at=place.next_attempt_at, pk__gt=place.pk)
    key = Tuple(F("next_attempt_at"), F("id"))
    return TupleGreaterThan(key, tuple(place))


def due_by_rank(account_id: int, *, cursor: ClaimCursor, clock: Clock) -> Iterator[QuerySet[OutboxMessage]]:
    """The due messages of each rank that has some, behind the cursor: from the highest rank that it has come to.

    Ranks in front of it were empty at the last look from the start, and asking each of them would cost a statement.
    """
    bounds = cursor.bounds
    last = max(bounds, default=BELOW_ALL_RANKS)
    if last in bounds:
        yield due_rows(account_id, last, clock, behind=bounds[last])
    ranks = _due_ranks(heads(account_id, above=last), clock) if cursor.ranks is None else cursor.ranks
    for rank in ranks:
        if rank > last:
            yield due_rows(account_id, rank, clock)


def _due_ranks(found: Sequence[RankHead], clock: Clock) -> tuple[int, ...]:
    return tuple(head.rank for head in found if head.next_attempt_at <= clock.now)


@retried
def accounts_with_due(*, clock: Clock) -> set[int]:
    """Accounts that have a due message, in one statement for any number of accounts; others may hold it.

    One probe of the claim's index for each account and rank; its own LIMIT keeps MariaDB from reading whole tables.
    """
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    account, message = quote(Account._meta.db_table), quote(OutboxMessage._meta.db_table)
    # Only Django's own names and numbers are put into the text.
    sql = f"""
        SELECT DISTINCT a.id FROM {account} a, ({_ranks()}) r
        WHERE (SELECT m.id FROM {message} m {_by_claim_index()}
          WHERE m.account_id = a.id AND m.claim_rank = r.claim_rank AND m.next_attempt_at IS NOT NULL
            AND m.next_attempt_at <= %s AND m.status IN (%s, %s) LIMIT 1) IS NOT NULL"""  # noqa: S608
    now = connection.ops.adapt_datetimefield_value(clock.now)
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, *(str(status) for status in WAITING)])
        return {int(pk) for (pk,) in cursor.fetchall()}


class Claimable(NamedTuple):
    """What a claim of an account would find."""

    #: The primary key of the first message.
    first: int
    #: The ranks in which something is due.
    ranks: tuple[int, ...]


@retried
def claimable(account_id: int, *, clock: Clock) -> Claimable | None:
    """What a claim of this account would get; None: nothing is due, or others hold it.

    Asked before a connection is opened: a due row in somebody's open transaction would cost a login a second otherwise.
    """
    found = heads(account_id)
    ranks = _due_ranks(found, clock)
    connection = connections[outbox_alias()]
    if not connection.features.has_select_for_update_skip_locked:
        return next((Claimable(head.pk, ranks) for head in found if head.rank in ranks), None)
    for rank in ranks:
        # The claim's own lock, which ends with the statement; the ORM would need a transaction for it.
        query, params = due_rows(account_id, rank, clock).values_list("pk")[:1].query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute(f"{query} {connection.ops.for_update_sql(skip_locked=True)}", params)
            if row := cursor.fetchone():
                return Claimable(int(row[0]), ranks)
    return None


@retried
def open_recipients(message_id: int) -> int:
    """How many recipients the message has left."""
    return Recipient.objects.filter(message_id=message_id, result__in=OPEN_RESULTS).count()


@retried
def next_due(account_ids: Sequence[int]) -> datetime | None:
    """The earliest instant at which a waiting message of these accounts is due."""
    return min((head.next_attempt_at for pk in account_ids for head in heads(pk)), default=None)


def due_unlike(
    account_id: int,
    refused: Collection[OutboxMessage],
    *,
    columns: Collection[str],
    clock: Clock,
    since: datetime | None = None,
) -> list[OutboxMessage]:
    """Due messages, among them some with another tag, sender or subject than the refused ones, where there are such.

    ``since``: only messages that became due since then, when they were queued or because a person asked.
    """
    due = _queued(account_id).filter(next_attempt_at__lte=clock.now, status__in=WAITING).only("pk", *columns)
    if since is not None:
        due = due.filter(next_attempt_at__gte=since, due_since__gte=since)
    found: dict[int, OutboxMessage] = {}
    for head in heads(account_id):
        if head.next_attempt_at > clock.now:
            continue
        rows = due.filter(claim_rank=head.rank)
        for other in (
            rows.exclude(tag__in={message.tag for message in refused}),
            rows.exclude(from_email__in={message.from_email for message in refused}),
            rows.exclude(subject__in={message.subject for message in refused}),
            rows,
        ):
            found |= {message.pk: message for message in other.order_by("next_attempt_at", "id")[:COMPARED]}
        found |= {message.pk: message for message in rows.order_by("-next_attempt_at", "-id")[:COMPARED]}
    return list(found.values())
