"""claim, renew, release: a claim is a lease, fenced by a token that is new with every claim statement."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from django.db import connections
from django.db.models import Case, Q, QuerySet, Value, When, prefetch_related_objects

from prx_email_django.conf import outbox_settings
from prx_email_django.models import Attachment, OutboxMessage, Recipient
from prx_email_django.models.history import next_numbers
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock, uptime
from prx_email_django.rules.policy import MessageCounters, gave_up
from prx_email_django.rules.recipients import is_open
from prx_email_django.states import WAITING, Status
from prx_email_django.store.absence import is_away, unwritten
from prx_email_django.store.claim_statement import claim_in_one_statement
from prx_email_django.store.cursor import Bounds, ClaimCursor
from prx_email_django.store.db import atomic, fresh_connection, lease_until, retried
from prx_email_django.store.due import due_by_rank


class Lease:
    """The right to send the messages of one claim, until ``deadline`` on the clock of ``uptime()``."""

    def __init__(self, length: timedelta) -> None:
        self.token = uuid.uuid4()
        self.length = length.total_seconds()
        # Read before the statement, so that it ends here no later than in the database.
        self.deadline = uptime() + self.length
        #: A claim was asked for under this token; it may have been granted and the answer lost.
        self.was_asked = False

    def has_time_left(self) -> bool:
        """Whether at least a third of the lease remains; with less, no work may start."""
        return self.deadline - uptime() >= self.length / 3


class ClaimedRecipient(NamedTuple):
    """A ``Recipient`` as the claim found it; an instance of the model costs more than reading its row."""

    message_id: int
    pk: int
    address: str
    result: str
    code: int | None
    text: str


@dataclass(slots=True)
class Claim:
    """One claimed message with all that its transmission needs."""

    message: OutboxMessage
    lease: Lease
    recipients: list[ClaimedRecipient]
    attachments: list[Attachment] = field(default_factory=list)
    number: int = 1
    #: A renewal did not find the row under our token: somebody else has it, and nothing more may be written.
    is_lost: bool = False
    #: Addresses that are still open or unknown.
    open_addresses: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.open_addresses = tuple(recipient.address for recipient in self.recipients if is_open(recipient.result))

    @property
    def id(self) -> int:
        """The message's primary key."""
        return self.message.pk

    def has_time_left(self) -> bool:
        """Whether the message is still ours, for long enough to begin something."""
        return not self.is_lost and self.lease.has_time_left()

    @property
    def counters(self) -> MessageCounters:
        """The message as the claim found it, for ``policy``."""
        return counters_of(self.message)


def is_hold(on_unknown: str) -> bool:
    """Whether the message goes to rest after an unknown outcome: its own ``on_unknown``, else the setting."""
    return (on_unknown or outbox_settings().on_unknown) == "hold"


def counters_of(message: OutboxMessage) -> MessageCounters:
    """What a verdict needs of a row."""
    return MessageCounters(
        id=message.pk,
        retries=message.retries,
        attempts=message.attempts,
        message_number=message.message_number,
        hold=is_hold(message.on_unknown),
    )


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """What one claim took."""

    claims: list[Claim]
    #: The claim stopped at a message with ``on_unknown`` ``hold``, which needs a free connection.
    stopped_at_hold: bool = False
    #: There is nothing more, although it took all that was asked for.
    is_last: bool = False


def claim(
    account_id: int, *, limit: int, hold_limit: int, clock: Clock, cursor: ClaimCursor | None = None
) -> ClaimBatch:
    """Claim up to ``limit`` due messages of an account, best rank first.

    A message that must not be sent twice (``hold``) is claimed only when a connection is free for it: the claim stops
    at the first such message, or takes at most ``hold_limit`` of them if they come first.  The rows of other workers
    are skipped, so zero rows do not mean that nothing is due.  With the ``cursor`` of a drain, the claim begins behind
    the last one; where nothing is left there, it looks from the start.
    """
    cursor = cursor or ClaimCursor()
    cursor.begin()
    batch = _claim_behind(cursor, account_id, limit=limit, hold_limit=hold_limit, clock=clock)
    if cursor.bounds and len(batch.claims) < limit and not batch.stopped_at_hold:
        cursor.restart()
        if not batch.claims:
            batch = _claim_behind(cursor, account_id, limit=limit, hold_limit=hold_limit, clock=clock)
    cursor.passed(claim.message for claim in batch.claims)
    return batch


def _claim_behind(cursor: ClaimCursor, account_id: int, *, limit: int, hold_limit: int, clock: Clock) -> ClaimBatch:
    lease = Lease(outbox_settings().lease)
    take = _take_in_one_statement if connections[outbox_alias()].vendor == "postgresql" else _take_by_orm
    with released_on_absence(lease):
        messages, stopped_at_hold = take(
            account_id, limit=limit, hold_limit=hold_limit, lease=lease, clock=clock, bounds=cursor.bounds
        )
        return ClaimBatch(_claims_of(messages, lease=lease) if messages else [], stopped_at_hold)


def claim_message(message_id: int, *, clock: Clock) -> Claim | None:
    """Claim one message if it is due; None: it is not, or somebody else has it."""
    lease = Lease(outbox_settings().lease)
    with released_on_absence(lease):
        _take_one(message_id, lease=lease, clock=clock)
        # Read by the token: the claim may have been granted although its answer was lost.
        return next(iter(load_claims([message_id], lease=lease)), None)


@retried
def _take_one(message_id: int, *, lease: Lease, clock: Clock) -> None:
    due = Q(next_attempt_at__isnull=False, next_attempt_at__lte=clock.now)
    rows = OutboxMessage.objects.filter(due, pk=message_id, status__in=WAITING)
    with atomic():
        if connections[outbox_alias()].features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        if rows.values_list("pk").first() is not None:
            claim_ids([message_id], guard=due, lease=lease, clock=clock)


@contextmanager
def released_on_absence(lease: Lease) -> Iterator[None]:
    """Release what was claimed under the lease if the claim breaks off: nobody would know that it was claimed.

    The database went away, or a ``SystemExit`` ended the call.
    """
    try:
        yield
    except BaseException as error:
        is_ended = not isinstance(error, Exception)
        if is_ended:
            fresh_connection()
        if is_ended or is_away(error):
            unwritten.write([partial(release_lease, lease)])
        raise


def claim_ids(ids: Sequence[int], *, guard: Q, lease: Lease, clock: Clock) -> int:
    """The claim itself: waiting rows among ``ids`` that pass ``guard``; the number taken is the answer."""
    return OutboxMessage.objects.filter(guard, pk__in=ids, status__in=WAITING).update(
        status=Status.SENDING,
        claim_token=lease.token,
        claim_expires_at=lease_until(clock, outbox_settings().lease),
        dismissed_at=None,
        updated_at=clock.now,
    )


def _begin_again(lease: Lease) -> None:
    """Release what an earlier try of the same claim took: its answer was lost."""
    if lease.was_asked:
        release_lease(lease)
    lease.was_asked = True


@retried
def _take_in_one_statement(  # noqa: PLR0913  (what a claim needs)
    account_id: int, *, limit: int, hold_limit: int, lease: Lease, clock: Clock, bounds: Bounds
) -> tuple[list[OutboxMessage], bool]:
    _begin_again(lease)
    settings = outbox_settings()
    return claim_in_one_statement(
        account_id,
        limit=limit,
        hold_limit=hold_limit,
        hold_by_default=is_hold(""),
        token=lease.token,
        length=settings.lease,
        bounds=bounds,
        clock=clock,
    )


def _take_by_orm(  # noqa: PLR0913  (what a claim needs)
    account_id: int, *, limit: int, hold_limit: int, lease: Lease, clock: Clock, bounds: Bounds
) -> tuple[list[OutboxMessage], bool]:
    ids, stopped_at_hold = _take(
        account_id, limit=limit, hold_limit=hold_limit, lease=lease, clock=clock, bounds=bounds
    )
    return _claimed(ids, lease=lease) if ids else [], stopped_at_hold


@retried
def _take(  # noqa: PLR0913  (what a claim needs)
    account_id: int, *, limit: int, hold_limit: int, lease: Lease, clock: Clock, bounds: Bounds
) -> tuple[list[int], bool]:
    _begin_again(lease)
    due = Q(next_attempt_at__isnull=False, next_attempt_at__lte=clock.now)
    if not connections[outbox_alias()].features.has_select_for_update_skip_locked:
        # Compare and set: each statement stands alone, another worker's rows fall out of the UPDATE.
        ids, stopped_at_hold = candidates(
            account_id, limit=limit, hold_limit=hold_limit, clock=clock, locked=False, bounds=bounds
        )
        if ids and claim_ids(ids, guard=due, lease=lease, clock=clock) != len(ids):
            ours = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENDING, claim_token=lease.token)
            taken = set(ours.values_list("pk", flat=True))
            ids = [pk for pk in ids if pk in taken]
        return ids, stopped_at_hold
    with atomic():
        ids, stopped_at_hold = candidates(
            account_id, limit=limit, hold_limit=hold_limit, clock=clock, locked=True, bounds=bounds
        )
        if ids:
            claim_ids(ids, guard=due, lease=lease, clock=clock)
    return ids, stopped_at_hold


def candidates(  # noqa: PLR0913  (what a claim needs)
    account_id: int, *, limit: int, hold_limit: int, clock: Clock, locked: bool, bounds: Bounds
) -> tuple[list[int], bool]:
    """Ids of due rows in order, and whether it stopped at one that must not be sent twice."""
    found: list[int] = []
    holding = False
    for rows in due_by_rank(account_id, bounds=bounds, clock=clock):
        ordered = (rows.select_for_update(skip_locked=True) if locked else rows).values_list("pk", "on_unknown")
        for pk, on_unknown in ordered[: limit - len(found)]:
            if is_hold(on_unknown):
                if (found and not holding) or len(found) >= hold_limit:
                    return found, True
                holding = True
            elif holding and len(found) >= hold_limit:
                return found, True
            found.append(pk)
        if len(found) >= limit:
            break
    return found, holding


@retried
def _claimed(ids: Sequence[int], *, lease: Lease) -> list[OutboxMessage]:
    """The messages that are claimed under the lease, in the order of ``ids``."""
    rows = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENDING, claim_token=lease.token)
    messages = {message.pk: message for message in rows}
    return [messages[pk] for pk in ids if pk in messages]


def load_claims(ids: Sequence[int], *, lease: Lease) -> list[Claim]:
    """Read what was claimed, in the order of ``ids``."""
    return _claims_of(_claimed(ids, lease=lease), lease=lease)


@retried
def _claims_of(messages: Sequence[OutboxMessage], *, lease: Lease) -> list[Claim]:
    """The claims of claimed messages: recipients are read now, so that a late result of before the claim is seen."""
    recipients: dict[int, list[ClaimedRecipient]] = {message.pk: [] for message in messages}
    found = Recipient.objects.filter(message_id__in=list(recipients)).order_by("id")
    for row in found.values_list(*ClaimedRecipient._fields):
        recipients[row[0]].append(ClaimedRecipient(*row))
    claims = {
        message.pk: Claim(message=message, lease=lease, recipients=recipients[message.pk]) for message in messages
    }
    if rendered := [message for message in messages if message.raw_id]:
        prefetch_related_objects(rendered, "raw")
    with_parts = [pk for pk, claim in claims.items() if claim.message.size != _text_size(claim.message)]
    if with_parts:
        for part in Attachment.objects.filter(message_id__in=with_parts).order_by("position"):
            claims[part.message_id].attachments.append(part)
    _number(claims)
    return list(claims.values())


def _text_size(message: OutboxMessage) -> int:
    return 0 if message.raw_id else len(message.body_text) + len(message.body_html)


def _number(claims: dict[int, Claim]) -> None:
    """Set the number of the next attempt: 1 without a query for messages that cannot have had an attempt."""
    tried = [
        pk
        for pk, claim in claims.items()
        if claim.message.attempts or claim.message.last_error_code or claim.message.provider_message_id
    ]
    for pk, number in (next_numbers(tried) if tried else {}).items():
        claims[pk].number = number


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
    ours = OutboxMessage.objects.filter(status=Status.SENDING, claim_token__in=[lease.token for lease in leases])
    renewed = ours.update(claim_expires_at=lease_until(clock, outbox_settings().lease))
    done = uptime()
    for lease in leases:
        if done < lease.deadline:
            lease.deadline = begun + lease.length
    if renewed < len(live):
        held = set(ours.filter(pk__in=[claim.id for claim in live]).values_list("pk", "claim_token"))
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
    released = _release(ours)
    # An earlier try may have released them, and only its answer was lost: they are waiting under our token.
    return released if len(tries) == 1 else max(released, ours.filter(status__in=WAITING).count())


@retried
def release_lease(lease: Lease) -> int:
    """Release every message that is claimed under the lease, untouched."""
    return _release(OutboxMessage.objects.filter(claim_token=lease.token))


def _release(rows: QuerySet[OutboxMessage]) -> int:
    was_failed = Q(next_attempt_at__isnull=True) | ~Q(last_error_code="") | Q(attempts__gt=0)
    status = Case(When(was_failed, then=Value(Status.FAILED.value)), default=Value(Status.PENDING.value))
    return rows.filter(status=Status.SENDING).update(status=status, claim_expires_at=None)


def split_expired(claims: Sequence[Claim], *, clock: Clock) -> tuple[list[Claim], list[Claim]]:
    """Claims that may be sent, and those that are too old."""
    settings = outbox_settings()
    fresh: list[Claim] = []
    old: list[Claim] = []
    for claim in claims:
        message = claim.message
        is_old = gave_up(
            now=clock.now,
            due_since=message.due_since,
            due=message.next_attempt_at,
            expires_at=message.expires_at,
            give_up_after=settings.give_up_after,
            max_backoff=settings.max_backoff,
        )
        (old if is_old else fresh).append(claim)
    return fresh, old
