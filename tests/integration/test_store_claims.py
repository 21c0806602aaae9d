"""claim, renew and release: nothing is taken twice, nothing out of turn, and what is given back is as it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from prx_email_django import store
from prx_email_django.models import OutboxMessage
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store import claims as claims_module
from prx_email_django.store import db as base
from prx_email_django.store import lease as lease_module
from prx_email_django.store.absence import waiting_for_database
from tests.support.factories import (
    NOW,
    SECOND,
    account,
    at,
    finish,
    fresh,
    lapse,
    make_due,
    message,
    take,
    take_one,
)

pytestmark = pytest.mark.django_db


def test_a_claim_writes_token_and_lease_and_leaves_the_rest() -> None:
    row = message(account())
    finish(take_one(row), Ending.TEMPORARY)
    before = make_due(row)
    claim = take_one(row)
    now = fresh(row)
    assert (now.status, now.claim_token) == ("sending", claim.lease.token)
    assert now.claim_expires_at is not None
    assert (now.next_attempt_at, now.last_error, now.last_error_code) == (
        before.next_attempt_at,
        before.last_error,
        before.last_error_code,
    )


def test_what_is_not_due_is_not_claimed() -> None:
    owner = account()
    row = message(owner, send_at=NOW + SECOND)
    assert take(owner) == []
    assert [claim.id for claim in take(owner, now=NOW + SECOND)] == [row.pk]
    assert take(owner, now=NOW + SECOND) == [], "it is being sent"


@pytest.mark.parametrize("status", ["sent", "sending"])
def test_a_row_whose_status_somebody_wrote_is_judged_by_the_columns(status: str) -> None:
    owner = account()
    row = message(owner)
    fields: dict[str, Any] = {"status": status, "claim_expires_at": NOW, "claim_token": "0" * 32}
    if status == "sent":
        fields |= {"sent_at": NOW, "next_attempt_at": None}
    OutboxMessage.objects.filter(pk=row.pk).update(**fields)
    assert take(owner) == []
    OutboxMessage.objects.filter(pk=row.pk).update(status="pending", next_attempt_at=NOW)
    assert [claim.id for claim in take(owner)] == [row.pk]


def test_a_row_at_rest_is_never_claimed() -> None:
    owner = account()
    row = message(owner)
    OutboxMessage.objects.filter(pk=row.pk).update(status="failed", next_attempt_at=None)
    assert take(owner, now=NOW + timedelta(days=400)) == []
    assert not store.due.first_claimable(owner.pk, clock=at(NOW + timedelta(days=400)))


def test_priority_goes_first_then_due_time_then_age() -> None:
    owner = account()
    late = message(owner, priority=3)
    make_due(late, now=NOW - SECOND)
    later = message(owner, priority=3)
    low = message(owner, priority=-10)
    make_due(low, now=NOW - timedelta(days=1))
    normal = [message(owner), message(owner)]
    high = message(owner, priority=10)
    claimed = [claim.id for claim in take(owner)]
    assert claimed == [high.pk, late.pk, later.pk, normal[0].pk, normal[1].pk, low.pk]


def test_a_priority_changed_behind_the_apps_back_counts() -> None:
    owner = account()
    first, second = message(owner), message(owner)
    OutboxMessage.objects.filter(pk=second.pk).update(priority=5)
    assert [claim.id for claim in take(owner, limit=1)] == [second.pk]
    assert [claim.id for claim in take(owner, limit=1)] == [first.pk]


def test_one_account_never_takes_the_mail_of_another() -> None:
    first, second = account("first"), account("second")
    row = message(second)
    assert take(first) == []
    assert not store.due.first_claimable(first.pk, clock=at())
    assert [claim.id for claim in take(second)] == [row.pk]


def test_no_more_is_claimed_than_was_asked_for() -> None:
    owner = account()
    for priority in (0, 1, 2, 0, 1, 2):
        message(owner, priority=priority)
    assert len(take(owner, limit=4)) == 4
    assert len(take(owner, limit=4)) == 2


def test_each_claim_has_a_token_of_its_own() -> None:
    owner = account()
    message(owner), message(owner)
    first, second = take(owner, limit=1), take(owner, limit=1)
    assert first[0].lease.token != second[0].lease.token


def test_a_claim_stops_at_the_first_message_that_must_not_be_copied() -> None:
    owner = account()
    usual, hold, _ = message(owner), message(owner, on_unknown="hold"), message(owner)
    taken = store.claims.claim(owner.pk, limit=10, hold_limit=3, clock=at())
    assert ([claim.id for claim in taken.claims], taken.stopped_at_hold) == ([usual.pk], True)
    assert fresh(hold).status == "pending"


def test_messages_that_must_not_be_copied_are_claimed_only_for_free_connections() -> None:
    owner = account()
    on_hold = [message(owner, on_unknown="hold") for _ in range(4)]
    assert store.claims.claim(owner.pk, limit=10, hold_limit=0, clock=at()) == store.claims.ClaimBatch(
        [], stopped_at_hold=True, has_more=True
    )
    taken = store.claims.claim(owner.pk, limit=10, hold_limit=2, clock=at())
    assert ([claim.id for claim in taken.claims], taken.stopped_at_hold) == ([row.pk for row in on_hold[:2]], True)


def test_the_setting_holds_where_the_message_says_nothing(settings: Any) -> None:
    settings.PRX_EMAIL = {"ON_UNKNOWN": "hold"}
    owner = account()
    message(owner, on_unknown="retry")
    message(owner)
    taken = store.claims.claim(owner.pk, limit=10, hold_limit=3, clock=at())
    assert (len(taken.claims), taken.stopped_at_hold) == (1, True)


def test_the_earliest_due_instant_is_found_over_all_ranks_and_accounts() -> None:
    first, second = account("first"), account("second")
    assert store.due.next_due([first.pk, second.pk]) is None
    message(first, send_at=NOW + 9 * SECOND, priority=10)
    message(second, send_at=NOW + 7 * SECOND, priority=-3)
    message(second, send_at=NOW + 8 * SECOND)
    assert store.due.next_due([first.pk, second.pk]) == NOW + 7 * SECOND
    assert store.due.next_due([first.pk]) == NOW + 9 * SECOND


# Leases


def test_a_lease_is_written_from_the_later_of_the_given_now_and_the_databases_clock() -> None:
    owner = account()
    row = message(owner)
    take(owner)
    lease = timedelta(seconds=180)
    expires = fresh(row).claim_expires_at
    assert expires is not None
    assert abs(expires - base.database_now() - lease) < timedelta(seconds=30), "a now in the past ends no lease early"
    ahead = base.database_now() + timedelta(days=2)
    other = message(owner)
    take(owner, now=ahead)
    expires = fresh(other).claim_expires_at
    assert expires is not None
    assert timedelta(0) <= expires - ahead - lease < timedelta(seconds=30)


def test_a_renewal_moves_every_live_lease_on_in_one_statement(django_assert_num_queries: Any) -> None:
    owner = account()
    message(owner), message(owner)
    claims = [*take(owner, limit=1), *take(owner, limit=1)]
    soon = base.database_now() + timedelta(seconds=5)
    OutboxMessage.objects.update(claim_expires_at=soon)
    with django_assert_num_queries(1):
        store.claims.renew(claims, clock=at())
    for claim in claims:
        expires = fresh(claim).claim_expires_at
        assert expires is not None
        assert expires > soon + timedelta(seconds=100)


def test_a_renewal_marks_the_claims_that_it_does_not_find() -> None:
    owner = account()
    message(owner), message(owner)
    kept, taken_away = take(owner)
    OutboxMessage.objects.filter(pk=taken_away.id).update(status="pending")
    (again,) = take(owner)
    store.claims.renew([kept, taken_away], clock=at())
    assert kept.has_time_left() and not taken_away.has_time_left()
    store.claims.renew([kept, again], clock=at())
    assert kept.has_time_left() and again.has_time_left()


@pytest.mark.django_db(transaction=True)
def test_a_claim_whose_answer_was_lost_is_released_by_the_next_try() -> None:
    """The commit took effect, and the worker never heard of it: the rows must not wait for the lease's end."""
    owner = account()
    for _ in range(4):
        message(owner)
    tries = 0

    def lose_first_commit(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal tries
        result = execute(sql, params, many, context)
        if sql.startswith("UPDATE") or "UPDATE" in sql and "MATERIALIZED" in sql:  # PostgreSQL claims in one statement
            tries += 1
            if tries == 1:
                raise OperationalError("server closed the connection unexpectedly")
        return result

    waits: list[float] = []
    waiting = waiting_for_database(lambda error, absent: waits.append(absent) is None)
    with waiting, connection.execute_wrapper(lose_first_commit):
        claims = take(owner, limit=2)
    assert len(claims) == 2 and len(waits) == 1
    assert OutboxMessage.objects.filter(status="sending").count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_single_claim_whose_commit_was_not_answered_is_still_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe: claimed again under another token, it would wait for the end of its first lease and count as lost."""
    row = message(account())
    commit, losses = connection._commit, [OperationalError("server closed the connection unexpectedly")]

    def commit_and_lose_the_answer() -> None:
        commit()
        if losses:
            raise losses.pop()

    monkeypatch.setattr(connection, "_commit", commit_and_lose_the_answer)
    with waiting_for_database(lambda error, absent: True):
        claimed = store.claims.claim_message(row.pk, account_id=row.account_id, clock=at())
    assert not losses
    assert claimed and fresh(row).claim_token == claimed.lease.token


def test_a_renewal_does_not_bring_back_what_was_recovered() -> None:
    row = message(account())
    claim = take_one(row)
    lapse([claim])
    store.recover.recover(clock=at())
    store.claims.renew([claim], clock=at())
    assert (fresh(row).status, fresh(row).claim_expires_at) == ("failed", None)


def test_a_lease_that_ran_out_is_not_revived_by_a_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept: others may have the message by now, and a body written then is a copy."""
    claim = take_one(message(account()))
    assert claim.lease.has_time_left()
    awake = lease_module.uptime
    for module in (claims_module, lease_module):
        monkeypatch.setattr(module, "uptime", lambda: awake() + 181)
    assert not claim.lease.has_time_left()
    store.claims.renew([claim], clock=at())
    assert not claim.lease.has_time_left()


def test_a_lease_does_not_hold_in_its_last_third(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = take_one(message(account())).lease
    start = lease.deadline - 180
    monkeypatch.setattr(lease_module, "uptime", lambda: start + 119)
    assert lease.has_time_left()
    monkeypatch.setattr(lease_module, "uptime", lambda: start + 121)
    assert not lease.has_time_left()


# release


def test_an_untouched_message_is_exactly_as_it_was() -> None:
    owner = account()
    new, tried, requeued = message(owner), message(owner, priority=1), message(owner, priority=2)
    finish(take(owner, limit=1)[0], Ending.PERMANENT)
    store.operations.requeue([requeued.pk], clock=at())
    finish(take(owner, limit=2)[1], Ending.TEMPORARY)
    lapse([requeued])
    store.recover.recover(clock=at())
    for row in (tried, requeued):
        make_due(row)
    ignored = {"claim_token", "updated_at"}
    rows = OutboxMessage.objects.order_by("pk")
    before = [{key: value for key, value in row.items() if key not in ignored} for row in rows.values()]
    claims = take(owner)
    assert len(claims) == 3
    assert store.claims.release(claims) == 3
    assert before == [{key: value for key, value in row.items() if key not in ignored} for row in rows.values()]
    assert [row.status for row in (fresh(new), fresh(tried), fresh(requeued))] == ["pending", "failed", "failed"]


def test_a_cancelled_and_requeued_message_goes_back_to_failed() -> None:
    row = message(account())
    store.operations.cancel([row.pk], clock=at())
    store.operations.requeue([row.pk], clock=at())
    assert store.claims.release([take_one(row)]) == 1
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("failed", NOW)


def test_a_message_at_rest_that_a_person_retried_goes_back_to_rest() -> None:
    row = message(account())
    finish(take_one(row), Ending.PERMANENT)
    claim = store.operations.claim_one(row.pk, clock=at(), force=False)
    assert store.claims.release([claim]) == 1
    assert fresh(row).is_at_rest


def test_a_stale_worker_releases_nothing() -> None:
    owner = account()
    row = message(owner)
    stale = take_one(row)
    lapse([stale])
    store.recover.recover(clock=at())
    assert store.claims.release([stale]) == 0
    make_due(row)
    current = take_one(row)
    assert store.claims.release([stale]) == 0
    assert fresh(row).claim_token == current.lease.token
    assert fresh(row).status == "sending"
