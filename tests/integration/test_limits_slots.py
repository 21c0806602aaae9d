"""A provider that allows three connections gets at most three, with any number of workers."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from prx_email_django.limits import slots
from prx_email_django.limits.slots import acquire_slots, release_slots, renew_slots, with_state_and_slots
from prx_email_django.models import Account, ConnectionSlot
from prx_email_django.store import db as base
from prx_email_django.store.db import worker_name
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.held_slots import HeldSlots
from tests.support.factories import NOW, account, at, in_threads
from tests.support.slots import acquire_slot

MINUTE = timedelta(seconds=60)


def lapse() -> None:
    ConnectionSlot.objects.update(expires_at=NOW)


@pytest.mark.django_db
def test_an_account_has_as_many_slots_as_connections() -> None:
    owner = account(max_connections=2)
    first, second = acquire_slot(owner, noted=set(), clock=at()), acquire_slot(owner, noted=set(), clock=at())
    assert first and second
    assert first.number != second.number
    assert acquire_slot(owner, noted=set(), clock=at()) is None
    release_slots([first])
    third = acquire_slot(owner, noted=set(), clock=at())
    assert third and third.number == first.number
    assert acquire_slot(account("other"), noted=set(), clock=at()), "another account has slots of its own"


@pytest.mark.django_db
def test_a_slot_names_its_holder_and_its_end() -> None:
    slot = acquire_slot(account(), noted=set(), clock=at(None))
    assert slot
    row = ConnectionSlot.objects.get()
    assert (row.holder, row.token) == (worker_name(), slot.token)
    assert row.expires_at is not None
    assert abs(row.expires_at - base.database_now() - MINUTE) < timedelta(seconds=20)
    release_slots([slot])
    row.refresh_from_db()
    assert (row.holder, row.token, row.expires_at) == ("", None, None)


@pytest.mark.django_db
def test_the_slot_of_a_lost_worker_is_taken_by_another() -> None:
    owner = account(max_connections=1)
    lost = acquire_slot(owner, noted=set(), clock=at())
    assert acquire_slot(owner, noted=set(), clock=at()) is None
    lapse()
    taken = acquire_slot(owner, noted=set(), clock=at())
    assert lost and taken and taken.token != lost.token
    renew_slots([lost], clock=at())
    release_slots([lost])
    assert ConnectionSlot.objects.get().token == taken.token, "the lost worker releases no slot of another worker"


@pytest.mark.django_db
def test_two_workers_that_saw_the_same_free_slot_do_not_both_get_it() -> None:
    owner = account(max_connections=1)
    first = acquire_slot(owner, noted=set(), clock=at())
    assert first
    release_slots([first])
    seen, also = with_state_and_slots(at()).get(), with_state_and_slots(at()).get()
    assert acquire_slot(seen, noted=set(), clock=at())
    assert acquire_slot(also, noted=set(), clock=at()) is None


@pytest.mark.django_db
def test_a_free_slot_that_was_read_with_the_account_is_not_taken_while_too_many_are_held() -> None:
    owner = account(max_connections=3)
    held = [acquire_slot(owner, noted=set(), clock=at()) for _ in range(3)]
    release_slots([slot for slot in held[:1] if slot])
    Account.objects.update(max_connections=2)
    lowered = with_state_and_slots(at()).get()
    assert acquire_slot(lowered, noted=set(), clock=at()) is None, "two slots are still held"
    declared = with_state_and_slots(at()).get()
    declared.max_connections = 1  # as the settings say, whatever the row says
    release_slots([slot for slot in held[2:] if slot])
    assert acquire_slot(declared, noted=set(), clock=at()) is None, "one slot is still held"


@pytest.mark.django_db
def test_a_free_slot_that_was_read_with_the_account_is_no_second_probe() -> None:
    owner = account(max_connections=2)
    held = [acquire_slot(owner, noted=set(), clock=at()) for _ in range(2)]
    release_slots([slot for slot in held[1:] if slot])
    read = with_state_and_slots(at()).get()
    assert acquire_slot(read, noted=set(), clock=at(), first_only=True) is None


@pytest.mark.django_db
def test_a_slot_that_ran_out_is_not_revived_by_a_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = acquire_slot(account(), noted=set(), clock=at())
    assert slot and slot.has_time_left()
    uptime = slots.uptime
    monkeypatch.setattr(slots, "uptime", lambda: uptime() + 41)
    assert not slot.has_time_left(), "twenty seconds must remain"
    renew_slots([slot], clock=at())
    assert slot.has_time_left()
    monkeypatch.setattr(slots, "uptime", lambda: uptime() + 200)
    renew_slots([slot], clock=at())
    assert not slot.has_time_left()


@pytest.mark.django_db
def test_a_slot_that_a_renewal_does_not_find_has_run_out() -> None:
    owner = account(max_connections=2)
    kept, lost = (acquire_slot(owner, noted=set(), clock=at()) for _ in range(2))
    assert kept and lost
    ConnectionSlot.objects.filter(number=2).update(token=uuid.uuid4())
    renew_slots([kept, lost], clock=at())
    assert kept.has_time_left() and not lost.has_time_left()


@pytest.mark.django_db(transaction=True)
def test_a_slot_that_could_not_be_given_back_is_taken_again_at_once() -> None:
    """The database was away when the connection closed: nobody waits a minute for our own slot."""
    owner = account(max_connections=1)
    slot = acquire_slot(owner, noted=set(), clock=at())
    assert slot
    assert acquire_slot(owner, noted=set(), clock=at()) is None

    def away(*_: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with connection.execute_wrapper(away), pytest.raises(OperationalError):
        release_slots([slot])
    again = acquire_slot(owner, noted=set(), clock=at())
    assert again and again.number == 1
    release_slots([slot])  # written later: it is not ours any more
    assert acquire_slot(owner, noted=set(), clock=at()) is None


@pytest.mark.django_db
def test_all_slots_are_renewed_in_one_statement(django_assert_num_queries: object) -> None:
    owner = account(max_connections=3)
    slots_taken = [acquire_slot(owner, noted=set(), clock=at()) for _ in range(3)]
    ConnectionSlot.objects.update(expires_at=base.database_now() + timedelta(seconds=5))
    with django_assert_num_queries(1):  # type: ignore[operator]
        renew_slots([slot for slot in slots_taken if slot], clock=at())
    soonest = min(row.expires_at for row in ConnectionSlot.objects.all() if row.expires_at)
    assert soonest > base.database_now() + timedelta(seconds=30)


@pytest.mark.django_db
def test_a_lowered_number_of_connections_applies_at_once() -> None:
    owner = account(max_connections=3)
    slots_taken = [acquire_slot(owner, noted=set(), clock=at()) for _ in range(3)]
    owner.max_connections = 1
    release_slots([slot for slot in slots_taken[:1] if slot])
    assert acquire_slot(owner, noted=set(), clock=at()) is None, "two slots are still taken"
    release_slots([slot for slot in slots_taken if slot])
    assert acquire_slot(owner, noted=set(), clock=at())
    assert acquire_slot(owner, noted=set(), clock=at()) is None


@pytest.mark.django_db
def test_several_slots_are_taken_together(django_assert_num_queries: Any) -> None:
    owner = account(max_connections=8)
    made = acquire_slots(owner, 5, noted=set(), clock=at())
    assert [slot.number for slot in made] == [1, 2, 3, 4, 5]
    release_slots(made)
    noted: set[slots.Slot] = set()
    with django_assert_num_queries(2):
        taken = acquire_slots(owner, 5, noted=noted, clock=at())
    assert set(taken) == noted
    rows = ConnectionSlot.objects.filter(token__isnull=False)
    assert dict(rows.values_list("number", "token")) == {slot.number: slot.token for slot in taken}
    assert {row.holder for row in rows} == {worker_name()}
    rest = acquire_slots(owner, 5, noted=set(), clock=at())
    assert [slot.number for slot in rest] == [6, 7, 8], "others hold five of the eight"
    assert acquire_slots(owner, 5, noted=set(), clock=at()) == []


@pytest.mark.django_db
def test_a_slot_that_another_worker_takes_first_is_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account(max_connections=5)
    release_slots(acquire_slots(owner, 5, noted=set(), clock=at()))
    counted = slots._slots

    def then_others_take_two(*args: Any) -> Any:
        found = counted(*args)
        ConnectionSlot.objects.filter(number__in=[1, 3]).update(token=uuid.uuid4(), expires_at=MINUTE + NOW)
        return found

    monkeypatch.setattr(slots, "_slots", then_others_take_two)
    noted: set[slots.Slot] = set()
    taken = acquire_slots(owner, 3, noted=noted, clock=at(NOW))
    assert [slot.number for slot in taken] == [2, 4, 5]
    assert noted == set(taken)


@pytest.mark.django_db
@pytest.mark.parametrize("step", ["_take", "_surplus", "_give_back"])
def test_what_one_statement_took_is_free_again_where_a_later_one_fails(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker counted it as held by others, and nobody used it until its lease ended."""
    owner = account(max_connections=5)
    release_slots(acquire_slots(owner, 5, noted=set(), clock=at()))
    counted, real = slots._slots, getattr(slots, step)
    calls: list[str] = []

    def then_another_takes_one(*args: Any) -> Any:
        found = counted(*args)
        ConnectionSlot.objects.filter(number=2).update(token=uuid.uuid4(), expires_at=MINUTE + NOW)
        return found

    def fails(*args: Any) -> Any:
        calls.append(step)
        if len(calls) == (2 if step == "_take" else 1):
            raise OperationalError("the database is away")
        return real(*args)

    noted: set[slots.Slot] = set()
    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        patch.setattr(slots, "_slots", then_another_takes_one)
        patch.setattr(slots, step, fails)
        acquire_slots(owner, 3, noted=noted, clock=at(NOW))
    assert ConnectionSlot.objects.filter(token__isnull=False).count() > 1
    assert [slot.number for slot in acquire_slots(owner, 5, noted=noted, clock=at(NOW))] == [1, 3, 4, 5]


@pytest.mark.django_db
def test_no_more_than_a_lowered_number_of_slots_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 5 was taken between the count and the taking, when the account had five connections."""
    owner = account(max_connections=5)
    release_slots(acquire_slots(owner, 5, noted=set(), clock=at()))
    owner.max_connections = 3
    counted = slots._slots

    def then_another_takes_one(*args: Any) -> Any:
        found = counted(*args)
        ConnectionSlot.objects.filter(number=5).update(token=uuid.uuid4(), expires_at=MINUTE + NOW)
        return found

    monkeypatch.setattr(slots, "_slots", then_another_takes_one)
    noted: set[slots.Slot] = set()
    taken = acquire_slots(owner, 3, noted=noted, clock=at(NOW))
    assert [slot.number for slot in taken] == [1, 2]
    assert noted == set(taken)
    assert ConnectionSlot.objects.filter(token__isnull=False).count() == 3


@pytest.mark.django_db(transaction=True)
def test_slots_of_a_deleted_account_are_not_there() -> None:
    owner = account(max_connections=3)
    Account.objects.filter(pk=owner.pk).delete()
    assert acquire_slots(owner, 3, noted=set(), clock=at()) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_many_workers_at_once_never_hold_more_than_the_limit(at_once: int) -> None:
    owner = account(max_connections=3)
    lock = threading.Lock()
    holding: set[uuid.UUID] = set()
    most = [0]

    def work() -> None:
        for _ in range(8):
            taken = acquire_slots(owner, at_once, noted=set(), clock=at(None))
            tokens = {slot.token for slot in taken}
            assert len(taken) <= at_once
            with lock:
                holding.update(tokens)
                most[0] = max(most[0], len(holding))
            with lock:
                holding.difference_update(tokens)
            release_slots(taken)

    assert in_threads(*[work] * 6) == [None] * 6
    assert 1 <= most[0] <= 3
    assert ConnectionSlot.objects.filter(token__isnull=False).count() == 0
    assert Account.objects.get().slots.count() <= 3


@pytest.mark.django_db(transaction=True)
def test_a_slot_whose_taking_was_in_doubt_is_released_without_a_further_connection() -> None:
    """The commit succeeded and its answer was lost: other workers waited a minute for a slot that nobody used."""
    owner = account(max_connections=1)
    current = CurrentAccount(owner, outbox=None)
    held = HeldSlots(current, clock=at())

    def answer_lost(execute: Any, sql: str, *arguments: Any) -> None:
        execute(sql, *arguments)
        if sql.startswith("UPDATE"):
            raise OperationalError("server closed the connection unexpectedly")

    acquire_slot(owner, noted=set(), clock=at())
    lapse()
    with connection.execute_wrapper(answer_lost), pytest.raises(OperationalError):
        acquire_slot(owner, noted=held._noted, clock=at())
    assert ConnectionSlot.objects.get().token
    held.release_spare(used=())
    assert ConnectionSlot.objects.get().token is None
