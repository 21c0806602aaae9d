"""What is due: found rank by rank by the claim's index; nothing is claimed here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connections
from django.db.models import QuerySet

from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.recipients import OPEN_RESULTS
from prx_email_django.states import WAITING
from prx_email_django.store.db import retried

#: The highest priority is 10, so the lowest rank is -10.
BELOW_ALL_RANKS = -11


#: Due messages of each rank that are compared with refused ones, from either end of the queue.
COMPARED = 100


class RankHead(NamedTuple):
    """The message of one rank that is due first."""

    rank: int
    next_attempt_at: datetime
    pk: int


def heads(account_id: int) -> Iterator[RankHead]:
    """The head of every rank in use, lowest rank first: a skip scan, since no index serves a sorted read of all ranks.

    One index row each.  (MariaDB reads every row of the account for MIN, and those of sent rows without a lower bound.)
    """
    waiting = _queued(account_id).filter(status__in=WAITING).order_by("claim_rank", "next_attempt_at", "id")
    rank = BELOW_ALL_RANKS
    columns = ("claim_rank", "next_attempt_at", "pk")
    while head := waiting.filter(claim_rank__gt=rank).values_list(*columns).first():
        yield RankHead(*head)
        rank = head[0]


def _queued(account_id: int) -> QuerySet[OutboxMessage]:
    # The second condition is the partial index's own: without it the index is not used.
    return OutboxMessage.objects.filter(account_id=account_id, next_attempt_at__isnull=False)


def due_rows(account_id: int, rank: int, clock: Clock) -> QuerySet[OutboxMessage]:
    """The due messages of one rank, in order."""
    rows = _queued(account_id).filter(claim_rank=rank, next_attempt_at__lte=clock.now, status__in=WAITING)
    return rows.order_by("next_attempt_at", "id")


@retried
def accounts_with_due(*, clock: Clock) -> set[int]:
    """Accounts that have a due message, in one statement for any number of accounts; others may hold it.

    One probe of the claim's index for each account and rank; its own LIMIT keeps MariaDB from reading whole tables.
    """
    connection = connections[outbox_alias()]
    quote = connection.ops.quote_name
    account, message = quote(Account._meta.db_table), quote(OutboxMessage._meta.db_table)
    ranks = " UNION ALL ".join(f"SELECT {rank} AS claim_rank" for rank in range(BELOW_ALL_RANKS + 1, 11))
    # Only Django's own names and numbers are put into the text.
    sql = f"""
        SELECT DISTINCT a.id FROM {account} a, ({ranks}) r
        WHERE (SELECT m.id FROM {message} m
          WHERE m.account_id = a.id AND m.claim_rank = r.claim_rank AND m.next_attempt_at IS NOT NULL
            AND m.next_attempt_at <= %s AND m.status IN (%s, %s) LIMIT 1) IS NOT NULL"""  # noqa: S608
    now = connection.ops.adapt_datetimefield_value(clock.now)
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, *(str(status) for status in WAITING)])
        return {int(pk) for (pk,) in cursor.fetchall()}


@retried
def first_claimable(account_id: int, *, clock: Clock) -> int | None:
    """The message that a claim of this account would get first; None: nothing is due, or others hold it.

    Asked before a connection is opened: a due row in somebody's open transaction would cost a login a second otherwise.
    """
    due_heads = (head for head in heads(account_id) if head.next_attempt_at <= clock.now)
    connection = connections[outbox_alias()]
    if not connection.features.has_select_for_update_skip_locked:
        return next((head.pk for head in due_heads), None)
    for head in due_heads:
        # The claim's own lock, which ends with the statement; the ORM would need a transaction for it.
        query, params = due_rows(account_id, head.rank, clock).values_list("pk")[:1].query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute(f"{query} {connection.ops.for_update_sql(skip_locked=True)}", params)
            if row := cursor.fetchone():
                return int(row[0])
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
    """Due messages, among them such as have another tag, sender or subject than the refused ones if there are any.

    ``since``: only those that have been due from then on, by a first request or by a person's.
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
