"""A commit takes effect and its answer is lost: the worker tries again, and nothing is counted twice or left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import Error, OperationalError, connection

from prx_email_django import signals, store
from prx_email_django.limits.pauses import account_state, note_failure
from prx_email_django.limits.refusals import note_refusals
from prx_email_django.limits.slots import Slot, acquire_slots, release_slots
from prx_email_django.models import (
    Account,
    AccountState,
    ConnectionSlot,
    DeliveryAttempt,
    OutboxMessage,
    RefusedMessage,
)
from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.store.absence import SLOW_TRIES, is_away, waiting_for_database
from prx_email_django.store.db import retried
from prx_email_django.store.reinstate import reinstate
from prx_email_django.worker.recorder import Recorder
from tests.support.factories import NOW, account, at, finish, fresh, lapse, lose, message, take, take_one

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def losing_answer(*words: str) -> Iterator[list[str]]:
    """As a worker: the answer of the first statement with these words is lost, or that of its transaction's commit.

    Yields the statements of which it was lost.
    """
    lost: list[str] = []
    met: list[str] = []

    def gone(what: str) -> None:
        lost.append(what)
        raise OperationalError("server closed the connection unexpectedly")

    def statement(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        done = execute(sql, params, many, context)
        if not met and all(word in sql for word in words):
            met.append(sql)
            if not connection.in_atomic_block:
                gone(sql)
        return done

    real = connection._commit

    def commit() -> None:
        real()
        if met and not lost:
            gone("COMMIT")

    connection._commit = commit  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(statement), waiting_for_database(lambda error, absent: True):
            yield lost
    finally:
        connection._commit = real  # type: ignore[method-assign]


def test_recoveries_are_reported_and_announced_once() -> None:
    owner = account()
    rows = [message(owner) for _ in range(3)]
    lapse(take(owner))
    recorder, heard = Recorder(at()), []
    signals.message_deferred.connect(receiver := lambda message, **_: heard.append(message.pk))
    try:
        with losing_answer("INSERT", "deliveryattempt") as lost:
            recorder.recover()
    finally:
        signals.message_deferred.disconnect(receiver)
    assert lost == ["COMMIT"]
    assert recorder.counts["recovered"] == 3
    assert sorted(heard) == [row.pk for row in rows]
    assert [fresh(row).attempts for row in rows] == [1, 1, 1]
    assert DeliveryAttempt.objects.count() == 3


def test_what_another_drain_recovered_meanwhile_is_its_own() -> None:
    lapse([take_one(message(account()))])
    (token,) = store.recover._run_out(at()).items()
    later = NOW + timedelta(seconds=1)
    assert len(store.recover.recover(clock=at())) == 1
    assert store.recover._recover(dict([token]), now=later, running=later, tries=[1]) == []


def test_a_late_result_is_late_also_at_the_second_try() -> None:
    """Found by the simulation: it was counted as if its claim had not been lost."""
    claim = take_one(message(account()))
    lose(claim)
    attempts = connection.ops.quote_name(DeliveryAttempt._meta.db_table)
    with losing_answer(f"UPDATE {attempts} SET") as lost:
        recorded = finish(claim, Ending.ACCEPTED)
    assert lost == ["COMMIT"]
    assert (recorded.status, recorded.late) == ("sent", True)
    assert list(DeliveryAttempt.objects.values_list("outcome", flat=True)) == ["sent"]


def test_a_failed_connection_counts_once() -> None:
    owner = account()
    with losing_answer("UPDATE", "SET", "connection_failures") as lost:
        note_failure(owner, Trouble.CONNECTION, "refused", clock=at())
    assert len(lost) == 1
    assert account_state(owner).connection_failures == 1


def test_a_pause_is_known_to_who_set_it() -> None:
    owner = account()
    with losing_answer("UPDATE", "paused_until") as lost:
        until = note_failure(owner, Trouble.AUTH, "535 no", clock=at())
    assert len(lost) == 1
    state = account_state(owner)
    assert until == state.paused_until
    assert state.pause_count == 1


def refusal(row: OutboxMessage, **fields: Any) -> RefusedMessage:
    return RefusedMessage(account_id=row.account_id, message=row, key="554", refused_at=NOW, **fields)


def refused_in_a_row(owner: Account) -> int:
    return AccountState.objects.get(account_id=owner.pk).refused_in_a_row


def test_a_refusal_counts_once() -> None:
    owner = account()
    refused = [refusal(message(owner)), refusal(message(owner))]
    with losing_answer("INSERT", "refusedmessage") as lost:
        note_refusals(owner, refused, after_success=False)
    assert len(lost) == 1
    assert refused_in_a_row(owner) == RefusedMessage.objects.count() == 2


def test_a_reinstated_message_is_counted() -> None:
    row = message(account())
    finish(take_one(row), Ending.PERMANENT)
    assert fresh(row).next_attempt_at is None
    noted = refusal(row)
    noted.save()
    with losing_answer("UPDATE", "refusedmessage") as lost:
        found = reinstate([noted], clock=at())
    assert len(lost) == 1
    assert [(done.pk, done.retries, done.next_attempt_at) for done in found] == [(row.pk, 0, NOW)]


def test_a_statement_that_takes_too_long_is_no_absent_database() -> None:
    """It is tried a few times; then a worker ends as it does after ten minutes with a database that is away."""
    if connection.vendor == "sqlite":
        return  # it has no limit for a statement
    if connection.vendor == "postgresql":
        limit, nothing, slow = "SET statement_timeout = '50ms'", "SET statement_timeout = 0", "SELECT pg_sleep(5)"
    else:
        limit, nothing, slow = "SET max_statement_time = 0.05", "SET max_statement_time = 0", "SELECT SLEEP(5)"
    tries: list[int] = []
    waited: list[float] = []

    @retried
    def statement() -> None:
        tries.append(1)
        with connection.cursor() as cursor:
            cursor.execute(limit)
            cursor.execute(slow)

    def wait(error: Exception, absent: float) -> bool:
        waited.append(absent)
        return absent < 600

    try:
        with pytest.raises(OperationalError) as raised, waiting_for_database(wait):
            statement()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(nothing)
    assert (len(tries), waited) == (SLOW_TRIES, [math.inf])
    assert is_away(raised.value), "a loop goes on, and results stay in memory"


def test_a_transaction_that_takes_too_long_is_no_absent_database() -> None:
    """PostgreSQL 17 ends the session too: the statement then finds its connection closed once more."""
    if connection.vendor != "postgresql":
        return
    tries: list[int] = []
    waited: list[float] = []

    @retried
    def statement() -> None:
        tries.append(1)
        with connection.cursor() as cursor:
            if len(tries) == 2:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'transaction timeout' USING ERRCODE = '25P04'; END $$")

    def wait(error: Exception, absent: float) -> bool:
        waited.append(absent)
        return absent < 600 and len(waited) < 9

    with pytest.raises(Error), waiting_for_database(wait):
        statement()
    assert len(tries) == SLOW_TRIES + 1
    assert waited[1:] == [math.inf]


def test_a_slot_that_was_taken_in_doubt_is_free_for_others_once_another_is_taken() -> None:
    """It was blocked until its lease ended: its worker had the first slot, and knew alone that the second was free."""
    owner = account(max_connections=2)
    others, second = acquire_slots(owner, 2, noted=set(), clock=at())
    release_slots([second])

    def first_becomes_free(error: Exception, absent: float) -> bool:
        release_slots([others])
        return True

    noted: set[Slot] = set()
    with losing_answer("UPDATE", "connectionslot") as lost, waiting_for_database(first_becomes_free):
        (taken,) = acquire_slots(owner, 1, noted=noted, clock=at())
    assert lost
    assert noted == {taken}
    assert [row.token for row in ConnectionSlot.objects.exclude(token=None)] == [taken.token]
