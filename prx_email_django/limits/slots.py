"""Connection slots: at most ``max_connections`` of an account at once, over all workers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import Error, IntegrityError
from django.db.models import BooleanField, ExpressionWrapper, OuterRef, Q, QuerySet

from prx_email_django.limits.pauses import account_state, with_state
from prx_email_django.models import Account, AccountState, ConnectionSlot
from prx_email_django.rules.clock import Clock, uptime
from prx_email_django.rules.obstacles import Obstacle, ObstacleKind
from prx_email_django.rules.pauses import is_paused
from prx_email_django.store.db import atomic, lease_until, retried, worker_name

SLOT_LEASE = timedelta(seconds=60)
#: No MAIL and no body is written with less than this left, in seconds.
SLOT_MARGIN = 20.0
#: Tokens of this process's slots that it may hold although it uses them no more: the database was away when they were
#: taken or released.  Such a slot is taken again at once, not waited for.
_abandoned: set[uuid.UUID] = set()


class Slot:
    """The right to hold one connection, until ``deadline`` on the clock of ``uptime()``."""

    def __init__(self, account_id: int, number: int, token: uuid.UUID, *, begun: float) -> None:
        self.account_id = account_id
        self.number = number
        self.token = token
        self.deadline = begun + SLOT_LEASE.total_seconds()

    def remaining(self) -> float:
        """Seconds until the slot runs out."""
        return self.deadline - uptime()

    def has_time_left(self, now: float | None = None) -> bool:
        """Whether enough of the lease remains to write something.

        ``now``: this moment of ``uptime()``, where the caller has read it.
        """
        return self.deadline - (uptime() if now is None else now) >= SLOT_MARGIN


def with_state_and_slots(clock: Clock) -> QuerySet[Account]:
    """Accounts with their runtime state and what ``acquire_slot`` must know of their slots, in one query."""
    slots = ConnectionSlot.objects.filter(account=OuterRef("pk")).values("number")
    return with_state().annotate(
        free_slot=slots.filter(_is_free(clock)).order_by("number")[:1], highest_slot=slots.order_by("-number")[:1]
    )


def slot_or_obstacle(
    account: Account, *, noted: set[Slot], clock: Clock, heeding: AccountState | None
) -> Slot | Obstacle:
    """Take a free slot, or the slot of a lost holder; returns an ``Obstacle`` if there is none.

    ``heeding`` is the account's state as it was read last, and is read again once a slot is taken.  From a worker's
    pause until the next success only the first slot can be taken, so one connection at a time probes, over all workers;
    a lost prober delays the next one for no longer than the lease of its slot.  None: pauses are ignored.
    """
    probing = heeding is not None and heeding.pause_count > 0
    slot = acquire_slot(account, noted=noted, clock=clock, first_only=probing)
    if slot is None:
        kind = ObstacleKind.PROBE if probing else ObstacleKind.CONNECTIONS
        return Obstacle(kind, max_connections=account.max_connections)
    if heeding is not None:
        # Another worker may have paused the account meanwhile: it wrote the pause before it released its slot.
        state = account_state(account)
        if is_paused(state, now=clock.now) or (state.pause_count > 0 and slot.number > 1):
            release_slots([slot])
            noted.discard(slot)
            return Obstacle(ObstacleKind.PROBE)
    return slot


@retried
def acquire_slot(account: Account, *, noted: set[Slot], clock: Clock, first_only: bool = False) -> Slot | None:
    """Take a free slot, or the slot of a lost holder; None: all are taken (``first_only``: number 1 is).

    Each try is one compare-and-set on a row, or one insert that a unique constraint guards.

    The slot stands in ``noted`` before the statement that takes it, and stays there whatever goes wrong with it: a
    caller that is ended at any moment releases what stands there (a commit may have succeeded although it raised).
    """
    release_doubtful(noted)
    found = _free_as_read(account)
    if found and (found == 1 or not first_only) and (slot := _try(_take, account, found, noted=noted, clock=clock)):
        return slot
    is_free = _slots(account, clock)
    if _held_slots(is_free) >= account.max_connections:
        return None
    for number in range(1, 2 if first_only else account.max_connections + 1):
        if not is_free.get(number, True):
            continue
        slot = _try(_take if number in is_free else _make, account, number, noted=noted, clock=clock)
        if slot is not None and _is_one_too_many(account, is_free, clock):
            release_slots([slot])
            noted.discard(slot)
            return None
        if slot is not None:
            return slot
    return None


def _free_as_read(account: Account) -> int | None:
    """The free slot that ``with_state_and_slots`` found, once; None: it read none, or others must be counted first."""
    read: dict[str, int | None] = vars(account)
    number = read.pop("free_slot", None)
    return number if number and (read["highest_slot"] or 0) <= account.max_connections else None


def _try(take: Callable[..., bool], account: Account, number: int, *, noted: set[Slot], clock: Clock) -> Slot | None:
    slot = Slot(account.pk, number, uuid.uuid4(), begun=uptime())
    noted.add(slot)
    with _abandoned_on_error([slot.token]):
        taken = take(account, number, slot.token, clock=clock)
    if not taken:
        noted.discard(slot)
    return slot if taken else None


def release_doubtful(noted: set[Slot]) -> None:
    """Release what may have been taken although it raised: this process alone knows that nobody uses it."""
    if doubtful := [slot for slot in noted if slot.token in _abandoned]:
        release_slots(doubtful)
        noted.difference_update(doubtful)


@contextmanager
def _abandoned_on_error(tokens: Iterable[uuid.UUID]) -> Iterator[None]:
    try:
        yield
    except Error:
        _abandoned.update(tokens)
        raise


def _is_one_too_many(account: Account, numbers: Collection[int], clock: Clock) -> bool:
    """Whether the account may have fewer slots than before, and others hold too many: two takers may count at once."""
    limit = account.max_connections
    return max(numbers, default=0) > limit and _held_slots(_slots(account, clock)) > limit


def _slots(account: Account, clock: Clock) -> dict[int, bool]:
    """By number of each slot that was made: whether it is free."""
    rows = ConnectionSlot.objects.filter(account=account)
    return dict(rows.values_list("number", ExpressionWrapper(_is_free(clock), BooleanField())))


def _held_slots(is_free: Mapping[int, bool]) -> int:
    return sum(not free for free in is_free.values())


def _is_free(clock: Clock) -> Q:
    return Q(token__isnull=True) | Q(expires_at__lte=clock.running) | Q(token__in=list(_abandoned))


def _take(account: Account, number: int, token: uuid.UUID, *, clock: Clock) -> bool:
    rows = ConnectionSlot.objects.filter(_is_free(clock), account=account, number=number)
    return bool(rows.update(**_held(token, clock)))


def _make(account: Account, number: int, token: uuid.UUID, *, clock: Clock) -> bool:
    try:
        with atomic():
            ConnectionSlot.objects.create(account=account, number=number, **_held(token, clock))
    except IntegrityError:  # another worker has made it
        return False
    return True


def _held(token: uuid.UUID, clock: Clock) -> dict[str, Any]:
    return {"token": token, "expires_at": lease_until(clock, SLOT_LEASE), "holder": worker_name()}


@retried
def accounts_with_free_slot(accounts: Iterable[Account], *, clock: Clock, closing: int = 0) -> set[int]:
    """The accounts of which a slot is free, by primary key.  ``closing``: so many live slots are about to be free."""
    most = {account.pk: account.max_connections for account in accounts}
    rows = ConnectionSlot.objects.filter(account_id__in=most).exclude(_is_free(clock))
    held = Counter(rows.values_list("account_id", flat=True))
    return {pk for pk, limit in most.items() if held[pk] - closing < limit}


@retried
def renew_slots(slots: Iterable[Slot], *, clock: Clock) -> None:
    """Renew all slots in one statement; a slot that is not ours any more has run out at once.

    A slot whose lease has ended here is renewed only in the database: another worker may have counted without it.
    """
    live = list(slots)
    if not live:
        return
    begun = uptime()
    rows = ConnectionSlot.objects.filter(token__in=[slot.token for slot in live])
    renewed = rows.update(expires_at=lease_until(clock, SLOT_LEASE))
    done = uptime()
    for slot in live:
        if done < slot.deadline:
            slot.deadline = begun + SLOT_LEASE.total_seconds()
    if renewed < len(live):
        held = set(rows.values_list("token", flat=True))
        for slot in live:
            if slot.token not in held:
                slot.deadline = begun


@retried
def release_slots(slots: Iterable[Slot]) -> None:
    """Release slots, once their connections are closed."""
    tokens = [slot.token for slot in slots]
    if tokens:
        with _abandoned_on_error(tokens):
            ConnectionSlot.objects.filter(token__in=tokens).update(token=None, expires_at=None, holder="")
        _abandoned.difference_update(tokens)
