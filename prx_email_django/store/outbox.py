"""The row about the whole outbox: its instance, its pause, and whether a drain was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from django.db import Error, connections
from django.db.models import Q

from prx_email_django.conf import outbox_settings
from prx_email_django.errors import WrongInstance
from prx_email_django.models import OutboxState, PauseRecord
from prx_email_django.models.managers import outbox_alias
from prx_email_django.models.runtime_state import PausedBy
from prx_email_django.rules.clock import Clock
from prx_email_django.store import prepared
from prx_email_django.store.absence import end_all_sessions, is_away
from prx_email_django.store.db import (
    StatementTime,
    atomic,
    clock_for,
    database_now,
    in_transaction,
    instant_as_read,
    retried,
)

#: A wake-up that no drain has answered for so long is sent again.
WAKE_AGAIN = timedelta(seconds=60)
#: Seconds after its beginning until which a drain looks at the queue: a message that was written while another one's
#: wake-up was noted already, and was not committed when the drain began, is committed by then, or asks again.
LOOKS_FOR = 0.05
PURGE_EVERY = timedelta(hours=1)
#: A loop notes a drain that nobody asked for if the one before was noted so long ago.
NOTED_FOR = timedelta(seconds=5)
#: The columns of the outbox without a pause.
_NOT_PAUSED: dict[str, Any] = {"pause_reason": "", "paused_until": None, "paused_at": None}


@retried
def outbox_state() -> OutboxState:
    """The row, made where it is missing."""
    state, _ = OutboxState.objects.get_or_create(pk=1)
    return state


def outbox_and_clock(now: datetime | None) -> tuple[OutboxState, Clock]:
    """The row, and the time of one call, read in one statement; raises as ``check_instance``.

    The database may have ended the session of a process that rested since its last call: that process gets a new
    session, once.  Otherwise a program that calls ``drain`` every minute would fail for ever after one restart.
    """
    try:
        return _outbox_and_clock(now)
    except Error as error:
        if in_transaction() or not is_away(error):
            raise
    end_all_sessions(connections[outbox_alias()])
    return _outbox_and_clock(now)


def _outbox_and_clock(now: datetime | None) -> tuple[OutboxState, Clock]:
    rows = OutboxState.objects.filter(pk=1)
    if now is not None or connections[outbox_alias()].vendor == "sqlite":
        state = rows.first()
        clock = clock_for(now)
    else:
        state = rows.annotate(database_now=StatementTime()).first()
        clock = clock_for(None) if state is None else Clock(given=None, database_now=state.database_now)
    return check_instance(state or outbox_state()), clock


@retried
def check_instance(state: OutboxState) -> OutboxState:
    """Refuse to send from a copied database; the first value that is not empty is stored.

    Raises:
        WrongInstance: the database belongs to another ``INSTANCE``.
    """
    ours = outbox_settings().instance
    if not state.instance and ours:
        OutboxState.objects.filter(pk=1, instance="").update(instance=ours)
        state.refresh_from_db()
    if is_copy(state):
        raise WrongInstance(
            f"this database belongs to the instance “{state.instance}”, not to “{ours}”: if it is a copy, "
            "run “manage.py outbox_adopt”, which puts everything unsent at rest",
            code="wrong_instance",
        )
    return state


def is_copy(state: OutboxState) -> bool:
    """Whether the database belongs to another ``INSTANCE``; an empty one belongs to the first that sends."""
    return bool(state.instance) and state.instance != outbox_settings().instance


@retried
def pause_everything(*, reason: str, until: datetime | None, by: str, clock: Clock) -> None:
    """Pause the whole outbox."""
    outbox_state()
    with atomic():
        OutboxState.objects.filter(pk=1).update(pause_reason=reason, paused_until=until, paused_at=clock.now)
        PauseRecord.objects.begin(None, code=PausedBy.PERSON, reason=reason, by=by, at=clock.now, until=until)


@retried
def resume_everything(*, by: str, clock: Clock) -> int:
    """End the pause of the whole outbox; 0: there was none."""
    paused = OutboxState.objects.filter(pk=1).exclude(pause_reason="")
    with atomic():
        if ended := paused.update(**_NOT_PAUSED):
            PauseRecord.objects.end(None, by=by, at=clock.now)
    return ended


@retried
def end_expired_pause_of_everything(state: OutboxState, *, now: datetime) -> None:
    """Clear a pause of the whole outbox whose end has passed."""
    if state.paused_until is not None and state.paused_until <= now:
        with atomic():
            if OutboxState.objects.filter(pk=1, paused_until__lte=now).update(**_NOT_PAUSED):
                PauseRecord.objects.end(None, by="", at=state.paused_until)
        state.paused_until = None


@retried
def request_wake() -> bool:
    """Ask for a drain; True for the one caller that must send the wake-up.  One statement where others have asked.

    Waits for no lock of the row: whoever holds it asks for a drain too, begins one, or changes the pause of everything
    in a transaction that may stay open.
    """
    was_asked = _was_asked()
    if was_asked is None:
        outbox_state()
        return request_wake()
    if was_asked:
        return False
    rows, now = OutboxState.objects.filter(pk=1), database_now()
    since = now - WAKE_AGAIN
    silent = rows.filter(Q(wake_requested_at__isnull=True) | Q(wake_requested_at__lt=since))
    can_skip = connections[outbox_alias()].features.has_select_for_update_skip_locked
    with atomic():
        if can_skip and not silent.select_for_update(skip_locked=True).values_list("pk", flat=True):
            return False
        return bool(silent.update(wake_requested_at=now))


def _was_asked() -> bool | None:
    """Whether a drain was asked for within ``WAKE_AGAIN``; None: there is no row.

    Written by hand: after each transaction that queues the ORM took half of the processor time of that transaction.
    """
    connection = connections[outbox_alias()]
    if connection.vendor == "postgresql":
        found = prepared.fetch(connection, _asked_sql(connection.alias), (), plan_for=prepared.PLAN_FOR)
        return bool(int(found[0][0])) if found else None
    with connection.cursor() as cursor:
        cursor.execute(_asked_sql(connection.alias))
        row = cursor.fetchone()
    if row is None:
        return None
    asked_at, moment = row
    now = database_now() if moment is None else moment.replace(tzinfo=UTC)
    asked = instant_as_read(asked_at, connection)
    return asked is not None and asked >= now - WAKE_AGAIN


@lru_cache(maxsize=4)
def _asked_sql(alias: str) -> str:
    connection = connections[alias]
    table = connection.ops.quote_name(OutboxState._meta.db_table)
    if connection.vendor == "postgresql":
        late = f"wake_requested_at >= STATEMENT_TIMESTAMP() - INTERVAL '{WAKE_AGAIN.total_seconds():g} seconds'"
        return f"SELECT COALESCE({late}, FALSE)::int FROM {table} WHERE id = 1"  # noqa: S608  (names)
    clock = "NULL" if connection.vendor == "sqlite" else "UTC_TIMESTAMP(6)"
    return f"SELECT wake_requested_at, {clock} FROM {table} WHERE id = 1"  # noqa: S608  (names)


def wake_requested() -> bool:
    """Whether a drain has been asked for and has not begun; one cheap statement.

    Written by hand: a loop asks up to fifty times a second, and the ORM took longer to write the statement than the
    database to answer it.
    """
    connection = connections[outbox_alias()]
    table = connection.ops.quote_name(OutboxState._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {table} WHERE id = 1 AND wake_requested_at IS NOT NULL")  # noqa: S608
        return cursor.fetchone() is not None


@retried
def begin_drain(*, clock: Clock, noted_at: datetime | None = None, asked: bool = True) -> bool:
    """Note that a drain has begun; True: it was asked for.

    Messages that are enqueued from now on ask for another one.  ``noted_at``: when the drain before was noted, by a
    loop, whose drains that nobody asked for are noted once in a while.  ``asked`` False: nobody had asked a moment ago,
    and whoever asks now is answered by another drain soon, since a loop watches.
    """
    # In this order: a request that is not committed yet stays for the next drain.
    state = OutboxState.objects.filter(pk=1)
    if asked and state.filter(wake_requested_at__isnull=False).update(wake_requested_at=None, last_drain_at=clock.now):
        return True
    if noted_at is None or not timedelta(0) <= clock.now - noted_at < NOTED_FOR:
        state.update(last_drain_at=clock.now)
    return False


@retried
def claim_purge(*, clock: Clock) -> bool:
    """Return True for one caller at most once an hour: that caller purges a batch."""
    rested = Q(last_purge_at__isnull=True) | Q(last_purge_at__lte=clock.running - PURGE_EVERY)
    return bool(OutboxState.objects.filter(rested, pk=1).update(last_purge_at=clock.running))
