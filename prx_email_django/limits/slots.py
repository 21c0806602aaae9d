"""Connection slots: at most ``max_connections`` of an account at once, over all workers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from django.db import Error, IntegrityError
from django.db.models import BooleanField, Case, ExpressionWrapper, OuterRef, Q, QuerySet, UUIDField, Value, When

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
    """Accounts with their runtime state and what ``acquire_slots`` must know of their slots, in one query."""
    slots = ConnectionSlot.objects.filter(account=OuterRef("pk")).values("number")
    return with_state().annotate(
        free_slot=slots.filter(_is_free(clock)).order_by("number")[:1], highest_slot=slots.order_by("-number")[:1]
    )


def slot_or_obstacle(
    account: Account, *, noted: set[Slot], clock: Clock, heeding: AccountState | None
) -> Slot | Obstacle:
    """Take one slot as ``slots_or_obstacle`` does."""
    found = slots_or_obstacle(account, 1, noted=noted, clock=clock, heeding=heeding)
    return found if isinstance(found, Obstacle) else found[0]


def slots_or_obstacle(
    account: Account, most: int, *, noted: set[Slot], clock: Clock, heeding: AccountState | None
) -> list[Slot] | Obstacle:
    """Take up to ``most`` slots that are free, or whose holder was lost; an ``Obstacle`` if there is none.

    ``heeding`` is the account's state as it was read last, and is read again once slots are taken.  From a worker's
    pause until the next success only the first slot can be taken, so one connection at a time probes, over all workers;
    a lost prober delays the next one for no longer than the lease of its slot.  None: pauses are ignored.
    """
    probing = heeding is not None and heeding.pause_count > 0
    slots = acquire_slots(account, most, noted=noted, clock=clock, first_only=probing)
    if not slots:
        kind = ObstacleKind.PROBE if probing else ObstacleKind.CONNECTIONS
        return Obstacle(kind, max_connections=account.max_connections)
    if heeding is not None:
        # Another worker may have paused the account meanwhile: it wrote the pause before it released its slot.
        state = account_state(account)
        if is_paused(state, now=clock.now) or (state.pause_count > 0 and slots[-1].number > 1):
            _give_back(slots, noted)
            return Obstacle(ObstacleKind.PROBE)
    return slots


@retried
def acquire_slots(
    account: Account, most: int, *, noted: set[Slot], clock: Clock, first_only: bool = False
) -> list[Slot]:
    """Take up to ``most`` slots that are free, or whose holder was lost (``first_only``: number 1); by number.

    Each try is one compare-and-set of one or more rows.

    The slots stand in ``noted`` before the statement that takes them, and stay there whatever goes wrong with it: a
    caller that is ended at any moment releases what stands there (a commit may have succeeded although it raised).
    """
    release_doubtful(noted)
    found = _free_as_read(account)
    if most == 1 and found and (found == 1 or not first_only) and (read := _take(account, [found], noted, clock)):
        return read
    is_free = _slots(account, clock)
    wanted = min(most, account.max_connections - _held_slots(is_free))
    free = [number for number in range(1, account.max_connections + 1) if is_free.get(number, True)]
    if first_only:
        free = [number for number in free if number == 1]
    slots: list[Slot] = []
    # What one statement took is not lost where a later one fails: the next try releases it first.
    with _abandoned_on_error(slot.token for slot in slots):
        while free and len(slots) < wanted:
            tried, free = free[: wanted - len(slots)], free[wanted - len(slots) :]
            if new := [number for number in tried if number not in is_free]:
                _make(account, new)
            slots += _take(account, tried, noted, clock)
        surplus = _surplus(account, is_free, clock) if slots else 0
        kept = max(0, len(slots) - surplus)
        _give_back(slots[kept:], noted)
    return slots[:kept]


def _free_as_read(account: Account) -> int | None:
    """The free slot that ``with_state_and_slots`` found, once; None: it read none, or others must be counted first."""
    read: dict[str, int | None] = vars(account)
    number = read.pop("free_slot", None)
    return number if number and (read["highest_slot"] or 0) <= account.max_connections else None


def _take(account: Account, numbers: Sequence[int], noted: set[Slot], clock: Clock) -> list[Slot]:
    """Take those of these slots that are free, by one statement."""
    begun = uptime()
    slots = [Slot(account.pk, number, uuid.uuid4(), begun=begun) for number in numbers]
    noted.update(slots)
    rows = ConnectionSlot.objects.filter(account=account, number__in=numbers)
    token = Case(*[When(number=slot.number, then=Value(slot.token, output_field=UUIDField())) for slot in slots])
    with _abandoned_on_error([slot.token for slot in slots]):
        taken = rows.filter(_is_free(clock)).update(
            token=token, expires_at=lease_until(clock, SLOT_LEASE), holder=worker_name()
        )
        if taken == len(slots):
            return slots
        ours = set(rows.values_list("token", flat=True)) if taken else set()
    noted.difference_update([slot for slot in slots if slot.token not in ours])
    return [slot for slot in slots if slot.token in ours]


def _make(account: Account, numbers: Iterable[int]) -> None:
    """Make slots that nobody holds; another worker may have made them meanwhile."""
    with suppress(IntegrityError), atomic():  # the account was deleted
        ConnectionSlot.objects.bulk_create(
            [ConnectionSlot(account=account, number=number) for number in numbers], ignore_conflicts=True
        )


def _give_back(slots: Sequence[Slot], noted: set[Slot]) -> None:
    release_slots(slots)
    noted.difference_update(slots)


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


def _surplus(account: Account, numbers: Collection[int], clock: Clock) -> int:
    """How many slots too many are held, where the account may have fewer than before: two takers may count at once."""
    limit = account.max_connections
    return max(0, _held_slots(_slots(account, clock)) - limit) if max(numbers, default=0) > limit else 0


def _slots(account: Account, clock: Clock) -> dict[int, bool]:
    """By number of each slot that was made: whether it is free."""
    rows = ConnectionSlot.objects.filter(account=account)
    return dict(rows.values_list("number", ExpressionWrapper(_is_free(clock), BooleanField())))


def _held_slots(is_free: Mapping[int, bool]) -> int:
    return sum(not free for free in is_free.values())


def _is_free(clock: Clock) -> Q:
    return Q(token__isnull=True) | Q(expires_at__lte=clock.running) | Q(token__in=list(_abandoned))


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
