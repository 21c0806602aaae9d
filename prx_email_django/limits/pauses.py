"""Pauses, failures in a row, and other runtime state of an account."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Q, QuerySet

from prx_email_django.models import Account, AccountState, PauseRecord, RefusedMessage
from prx_email_django.models.activity import BY_WORKER
from prx_email_django.models.runtime_state import NOT_PAUSED, PausedBy
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.rules.pauses import in_force, pause_length, pauses_account
from prx_email_django.rules.text import MAX_COLUMN
from prx_email_django.store.db import atomic, retried
from prx_email_django.transports.found import Ahead

#: How long an account does without what its server did not bear, and the column that says so; then it is tried again,
#: and no message pays for that (but for a window: more than one outcome may be unknown).
WITHOUT: dict[Ahead, tuple[str, timedelta]] = {
    Ahead.ENVELOPE: ("stepwise_until", timedelta(days=7)),
    Ahead.OVERLAP: ("envelope_until", timedelta(days=7)),
    Ahead.CHUNKING: ("no_chunking_until", timedelta(days=7)),
    Ahead.WINDOW: ("window_until", timedelta(days=1)),
}


@retried
def account_state(account: Account) -> AccountState:
    """The runtime state of the account; the row is made if it is missing."""
    state, _ = AccountState.objects.get_or_create(account_id=account.pk)
    return state


def with_state() -> QuerySet[Account]:
    """Accounts with their runtime state, in one query."""
    accounts: QuerySet[Account] = Account.objects.select_related("runtime_state")
    return accounts


@retried
def read_account(account_id: int) -> Account:
    """The account with its runtime state, as they are now."""
    return with_state().get(pk=account_id)


@retried
def is_deleted(account: Account) -> bool:
    """Whether a person has deleted the account since it was read."""
    return not Account.objects.filter(pk=account.pk).exists()


def known_state(account: Account) -> AccountState:
    """The runtime state that was read with the account (see ``with_state``); an empty one if there is no row yet."""
    try:
        return account.runtime_state
    except AccountState.DoesNotExist:
        return AccountState(account=account)


@retried
def end_expired_pause(state: AccountState, *, now: datetime) -> None:
    """Clear a person's pause whose end has passed, so that it is not shown any more."""
    if state.paused_by == PausedBy.PERSON and state.paused_until is not None and state.paused_until <= now:
        over = AccountState.objects.filter(pk=state.pk, paused_by=PausedBy.PERSON, paused_until__lte=now)
        with atomic():
            if over.update(**NOT_PAUSED):
                PauseRecord.objects.end(state.pk, by="", at=state.paused_until)


def note_failure(
    account: Account, trouble: Trouble, reason: str, *, clock: Clock, at_least: timedelta | None = None
) -> datetime | None:
    """Count trouble that a worker met with the account; return the end of the pause if this sets one.

    A pause that a person set stays as it is.  ``at_least``: a server asked for a pause of this length.
    """
    state = account_state(account)
    failures = state.connection_failures
    if trouble is Trouble.CONNECTION:
        failures = _count_failure(account, tries=[])
    if reason:
        _note_reason(account, reason)
    if not pauses_account(trouble, failures):
        return None
    now = clock.now
    until = now + max(pause_length(state.pause_count), at_least or timedelta(0))
    pause = {
        "paused_by": PausedBy.WORKER,
        "paused_at": now,
        "paused_until": until,
        "pause_reason": reason[:MAX_COLUMN],
        "pause_code": trouble.value,
    }
    return until if _pause(account, pause, now=now, tries=[]) else None


@retried
def _count_failure(account: Account, *, tries: list[int]) -> int:
    """Count one failed connection, by compare and set; return the failures in a row.

    ``tries``: what earlier tries wanted to write.  After a lost answer a count that has moved is taken for our own, so
    that no failure counts twice.
    """
    rows = AccountState.objects.filter(account_id=account.pk)
    if tries:
        seen = rows.values_list("connection_failures", flat=True).get()
        if seen != tries[-1] - 1:
            return tries[-1]
    while True:
        tries.append(rows.values_list("connection_failures", flat=True).get() + 1)
        if rows.filter(connection_failures=tries[-1] - 1).update(connection_failures=tries[-1]):
            return tries[-1]


@retried
def _note_reason(account: Account, reason: str) -> None:
    AccountState.objects.filter(account_id=account.pk).update(last_trouble=reason[:MAX_COLUMN])


@retried
def _pause(account: Account, pause: dict[str, Any], *, now: datetime, tries: list[int]) -> bool:
    """Set a worker's pause; False: there is one already."""
    tries.append(1)
    rows = AccountState.objects.filter(account_id=account.pk)
    # An older pause that is still in force was set for the same episode by another worker: it counts once.
    with atomic():
        paused = rows.exclude(in_force(now)).update(**pause, pause_count=F("pause_count") + 1, connection_failures=0)
        if paused:
            PauseRecord.objects.begin(
                account.pk,
                code=pause["pause_code"],
                reason=pause["pause_reason"],
                by=BY_WORKER,
                at=now,
                until=pause["paused_until"],
            )
    # An earlier try may have set it, and only its answer was lost.
    return bool(paused) or (len(tries) > 1 and rows.filter(paused_by=PausedBy.WORKER, paused_at=now).exists())


@retried
def note_success(account: Account, *, begun_at: datetime) -> None:
    """Clear failures in a row and a worker's pause after a completed transaction; a person's pause stays.

    ``begun_at`` is the time of its MAIL.  A pause that was set later stays: what another connection met is newer.
    """
    older = AccountState.objects.filter(Q(paused_at__isnull=True) | Q(paused_at__lte=begun_at), account_id=account.pk)
    troubled = Q(connection_failures__gt=0) | Q(pause_count__gt=0) | ~Q(last_trouble="")
    older.filter(troubled).update(connection_failures=0, pause_count=0, last_trouble="")
    paused = older.filter(paused_by=PausedBy.WORKER)
    if paused.exists():
        with atomic():
            if paused.update(**NOT_PAUSED):
                PauseRecord.objects.end(account.pk, by=BY_WORKER, at=begun_at)


@retried
def note_ahead_broken(account: Account, broken: Ahead, *, clock: Clock) -> bool:
    """Do without what the server did not bear, for a week (a window: for a day); whether this was news."""
    account_state(account)
    column, length = WITHOUT[broken]
    rows = AccountState.objects.filter(account_id=account.pk)
    is_news = not rows.filter(**{f"{column}__gt": clock.now}).exists()
    rows.update(**{column: clock.now + length})
    if broken is Ahead.WINDOW:
        rows.filter(window__gt=1).update(window=1)
    return is_news


@retried
def note_window(account: Account, size: int, *, clock: Clock) -> None:
    """Store how many messages of one connection may be unanswered, where that is more than was known."""
    account_state(account)
    may_grow = Q(window_until__isnull=True) | Q(window_until__lte=clock.now)
    AccountState.objects.filter(may_grow, account_id=account.pk, window__lt=size).update(window=size)


@retried
def note_size(account: Account, size: int) -> None:
    """Store the SIZE that the server announced."""
    account_state(account)
    AccountState.objects.filter(account_id=account.pk).exclude(size_limit=size).update(size_limit=size)


@retried
def pause_by_person(account: Account, *, reason: str, until: datetime | None, by: str, clock: Clock) -> None:
    """Pause the account for a person, in place of a worker's pause."""
    account_state(account)
    with atomic():
        AccountState.objects.filter(account_id=account.pk).update(
            paused_by=PausedBy.PERSON,
            paused_at=clock.now,
            paused_until=until,
            pause_reason=reason[:MAX_COLUMN],
            pause_code=PausedBy.PERSON,
        )
        PauseRecord.objects.begin(account.pk, code=PausedBy.PERSON, reason=reason, by=by, at=clock.now, until=until)


@retried
def resume_by_person(account: Account, *, by: str, clock: Clock) -> bool:
    """End any pause of the account for a person, and count failures and refusals from 0."""
    rows = AccountState.objects.filter(account_id=account.pk)
    with atomic():
        was_paused = bool(rows.exclude(pause_reason="").update(**NOT_PAUSED))
        rows.update(connection_failures=0, pause_count=0, slow_until=None, slow_seconds=0)
        if was_paused:  # else its refused messages may have to be reinstated yet
            PauseRecord.objects.end(account.pk, by=by, at=clock.now)
            rows.update(refused_in_a_row=0)
            RefusedMessage.objects.filter(account_id=account.pk).delete()
    return was_paused
