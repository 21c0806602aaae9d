"""claim, renew, release: each is one conditional UPDATE, fenced by the token of the lease."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from django.db import Error, connections
from django.db.models import Q

from prx_email_django.conf import outbox_settings
from prx_email_django.models import OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock, uptime
from prx_email_django.states import WAITING, Status
from prx_email_django.store.claim_statement import ClaimStatement
from prx_email_django.store.claimed import Claim, Taken, claimed_messages, claims_of, is_hold, load_claims
from prx_email_django.store.cursor import Bounds, ClaimCursor
from prx_email_django.store.db import atomic, lease_until, retried
from prx_email_django.store.due import due_by_rank
from prx_email_django.store.lease import Lease, begin_again, release_rows, released_on_absence

#: A claim takes no further message once the texts of those that it takes have so many bytes: until they are rendered,
#: they are all in memory.  Only PostgreSQL knows how long a text is without reading it: on the others ``size`` counts,
#: in which the files are too.
TEXT_LIMIT = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """What one claim took."""

    claims: list[Claim]
    #: The claim stopped at a message with ``on_unknown`` ``hold``, which needs a free connection.
    stopped_at_hold: bool = False
    #: It may have left due messages although it took fewer than were asked for: it stopped there, or texts are large.
    has_more: bool = False
    #: There is nothing more, although it took all that was asked for.
    is_last: bool = False


def claim(  # noqa: PLR0913  (what a claim needs, and who must know of it)
    account_id: int,
    *,
    limit: int,
    hold_limit: int,
    clock: Clock,
    cursor: ClaimCursor | None = None,
    noted: set[Lease] | None = None,
) -> ClaimBatch:
    """Claim up to ``limit`` due messages of an account, best rank first.

    A message that must not be sent twice (``hold``) is claimed only when a connection is free for it: the claim stops
    at the first such message, or takes at most ``hold_limit`` of them if they come first.  It takes fewer where texts
    are large (``TEXT_LIMIT``), but at least one.  The rows of other workers are skipped, so zero rows do not mean that
    nothing is due.  With the ``cursor`` of a drain, the claim begins behind the last one; where nothing is left there,
    it looks from the start.  ``noted`` gets the lease before the statement: a caller that is ended before it has the
    answer knows by it what it may have claimed.
    """
    cursor, noted = cursor or ClaimCursor(), set() if noted is None else noted
    cursor.begin()
    behind = partial(_claim_behind, cursor, account_id, limit=limit, hold_limit=hold_limit, clock=clock, noted=noted)
    return _passed(cursor, behind(), limit=limit, again=behind)


def begin_claim(  # noqa: PLR0913  (as ``claim``)
    account_id: int, *, limit: int, hold_limit: int, clock: Clock, cursor: ClaimCursor, noted: set[Lease]
) -> Callable[[], ClaimBatch] | None:
    """Begin what ``claim`` does: the function waits for it, and returns what was claimed.

    None: nothing was begun; ``claim`` does it.
    """
    cursor.begin()
    lease = Lease(outbox_settings().lease)
    noted.add(lease)
    options: dict[str, Any] = {"limit": limit, "hold_limit": hold_limit, "clock": clock}
    begun = _begin_to_take(account_id, lease=lease, bounds=cursor.bounds, **options)
    if begun is None:
        noted.remove(lease)
        return None
    lease.was_asked = True
    again = partial(_claim_behind, cursor, account_id, noted=noted, **options)
    waited_for = partial(_wait_for_claim, begun, account_id, lease=lease, bounds=cursor.bounds, **options)
    return lambda: _passed(cursor, waited_for(), limit=limit, again=again)


def _wait_for_claim(
    begun: Callable[[], Taken], account_id: int, *, lease: Lease, bounds: Bounds, **options: Any
) -> ClaimBatch:
    with released_on_absence(lease):
        try:
            taken = begun()
        except Error:  # it may have been granted, and its answer lost
            taken = _taking()(account_id, lease=lease, bounds=bounds, **options)
        return _batch(taken, lease)


def _passed(cursor: ClaimCursor, batch: ClaimBatch, *, limit: int, again: Callable[[], ClaimBatch]) -> ClaimBatch:
    """The batch, or where it is empty what a look from the start finds; the cursor has passed it."""
    if cursor.bounds and len(batch.claims) < limit and not batch.has_more:
        cursor.restart()
        if not batch.claims:
            batch = again()
    cursor.passed(claim.message for claim in batch.claims)
    return batch


def _claim_behind(  # noqa: PLR0913  (as ``claim``)
    cursor: ClaimCursor, account_id: int, *, limit: int, hold_limit: int, clock: Clock, noted: set[Lease]
) -> ClaimBatch:
    noted.add(lease := Lease(outbox_settings().lease))
    with released_on_absence(lease):
        taken = _taking()(
            account_id, limit=limit, hold_limit=hold_limit, lease=lease, clock=clock, bounds=cursor.bounds
        )
        return _batch(taken, lease)


def is_one_statement() -> bool:
    """Whether a claim is one statement, which may be under way; elsewhere it is five or more."""
    return connections[outbox_alias()].vendor == "postgresql"


def _taking() -> Callable[..., Taken]:
    return _take_in_one_statement if is_one_statement() else _take_by_orm


def _batch(taken: Taken, lease: Lease) -> ClaimBatch:
    claims = claims_of(taken, lease=lease) if taken.messages else []
    return ClaimBatch(claims, taken.stopped_at_hold, taken.has_more)


def claim_message(message_id: int, *, account_id: int, clock: Clock, noted: set[Lease] | None = None) -> Claim | None:
    """Claim one due message of the account; None: it is not due or not the account's, or somebody else has it.

    ``noted`` as for ``claim``.
    """
    lease = Lease(outbox_settings().lease)
    if noted is not None:
        noted.add(lease)
    with released_on_absence(lease):
        _take_one(message_id, account_id=account_id, lease=lease, clock=clock)
        # Read by the token: the claim may have been granted although its answer was lost.
        return next(iter(load_claims([message_id], lease=lease)), None)


@retried
def _take_one(message_id: int, *, account_id: int, lease: Lease, clock: Clock) -> None:
    due = Q(account_id=account_id, next_attempt_at__isnull=False, next_attempt_at__lte=clock.now)
    rows = OutboxMessage.objects.filter(due, pk=message_id, status__in=WAITING)
    with atomic():
        if connections[outbox_alias()].features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        if rows.values_list("pk").first() is not None:
            claim_ids([message_id], guard=due, lease=lease, clock=clock)


def claim_ids(ids: Sequence[int], *, guard: Q, lease: Lease, clock: Clock) -> int:
    """The claim itself: waiting rows among ``ids`` that pass ``guard``; the number taken is the answer."""
    return OutboxMessage.objects.filter(guard, pk__in=ids, status__in=WAITING).update(
        status=Status.SENDING,
        claim_token=lease.token,
        claim_expires_at=lease_until(clock, outbox_settings().lease),
        dismissed_at=None,
        updated_at=clock.now,
    )


@retried
def _take_in_one_statement(account_id: int, *, lease: Lease, **options: Any) -> Taken:
    begin_again(lease)
    return _claim_statement(account_id, lease=lease, **options).execute()


def _begin_to_take(account_id: int, *, lease: Lease, **options: Any) -> Callable[[], Taken] | None:
    if not is_one_statement():
        return None
    return _claim_statement(account_id, lease=lease, **options).begin()


def _claim_statement(account_id: int, *, lease: Lease, **options: Any) -> ClaimStatement:
    options |= {"hold_by_default": is_hold(""), "text_limit": TEXT_LIMIT}
    return ClaimStatement(account_id, token=lease.token, length=outbox_settings().lease, **options)


def _take_by_orm(account_id: int, *, lease: Lease, **options: Any) -> Taken:
    found = _take(account_id, lease=lease, **options)
    messages = claimed_messages(found.ids, lease=lease) if found.ids else []
    return Taken(messages, found.stopped_at_hold, found.has_more)


@retried
def _take(account_id: int, *, lease: Lease, clock: Clock, **options: Any) -> Candidates:
    """What was taken; some of it another worker may have taken instead."""
    begin_again(lease)
    due = Q(next_attempt_at__isnull=False, next_attempt_at__lte=clock.now)
    locked = connections[outbox_alias()].features.has_select_for_update_skip_locked
    # Without locks each statement stands alone: rows that another worker takes between the two fall out of the UPDATE.
    with atomic() if locked else nullcontext():
        found = candidates(account_id, clock=clock, locked=locked, **options)
        if found.ids:
            claim_ids(found.ids, guard=due, lease=lease, clock=clock)
    return found


class Candidates(NamedTuple):
    """Ids of due rows, in the order of the claim; the rest as in ``Taken``."""

    ids: list[int]
    stopped_at_hold: bool
    has_more: bool


def candidates(  # noqa: PLR0913  (what a claim needs)
    account_id: int, *, limit: int, hold_limit: int, clock: Clock, locked: bool, bounds: Bounds
) -> Candidates:
    """The due rows that a claim takes."""
    found: list[int] = []
    holding, size_before = False, 0
    for rows in due_by_rank(account_id, bounds=bounds, clock=clock):
        ordered = rows.select_for_update(skip_locked=True) if locked else rows
        read = ordered.values_list("pk", "on_unknown", "size")[: limit - len(found)]
        # Few at a time where it is SQLite, which reads through a row's texts to get at what stands behind them.
        for pk, on_unknown, size in read if locked else read.iterator(chunk_size=8):
            if size_before >= TEXT_LIMIT:
                return Candidates(found, holding, has_more=True)
            if is_hold(on_unknown):
                if (found and not holding) or len(found) >= hold_limit:
                    return Candidates(found, stopped_at_hold=True, has_more=True)
                holding = True
            elif holding and len(found) >= hold_limit:
                return Candidates(found, stopped_at_hold=True, has_more=True)
            found.append(pk)
            size_before += size
        if len(found) >= limit:
            break
    return Candidates(found, holding, has_more=holding)


@retried
def renew(claims: Iterable[Claim], *, clock: Clock) -> None:
    """Renew the leases of all claims in one statement, and mark the claims whose rows are not ours any more.

    A lease that has ended here is renewed only in the database: its messages may have been recovered meanwhile.
    """
    live = list(claims)
    if not live:
        return
    begun = uptime()
    leases = {claim.lease for claim in live}
    # By their ids: there is no index of the tokens.
    ours = OutboxMessage.objects.filter(
        pk__in=[claim.id for claim in live],
        status=Status.SENDING,
        claim_token__in=[lease.token for lease in leases],
    )
    renewed = ours.update(claim_expires_at=lease_until(clock, outbox_settings().lease))
    done = uptime()
    for lease in leases:
        if done < lease.deadline:
            lease.deadline = begun + lease.length
    if renewed < len(live):
        held = set(ours.values_list("pk", "claim_token"))
        for claim in live:
            claim.is_lost = claim.is_lost or (claim.id, claim.lease.token) not in held


def release(claims: Iterable[Claim]) -> int:
    """Release messages untouched: they become as they were before the claim.  Returns how many were ours."""
    ids_by_token: dict[uuid.UUID, list[int]] = {}
    for claim in claims:
        ids_by_token.setdefault(claim.lease.token, []).append(claim.id)
    return sum(_release_claimed(ids, token, tries=[]) for token, ids in ids_by_token.items())


@retried
def _release_claimed(ids: Sequence[int], token: uuid.UUID, *, tries: list[int]) -> int:
    tries.append(1)
    ours = OutboxMessage.objects.filter(pk__in=ids, claim_token=token)
    released = release_rows(ours)
    # An earlier try may have released them, and only its answer was lost: they are waiting under our token.
    return released if len(tries) == 1 else max(released, ours.filter(status__in=WAITING).count())
