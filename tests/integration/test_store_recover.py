"""recover and expire: the messages of a lost worker are tried again, spread out, and never for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from prx_email_django import store
from prx_email_django.models import DeliveryAttempt, OutboxMessage
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.store import db as base
from tests.support.factories import (
    NOW,
    SECOND,
    account,
    at,
    finish,
    fresh,
    lapse,
    lose,
    make_due,
    message,
    results,
    take,
    take_one,
)

pytestmark = pytest.mark.django_db


def test_a_live_claim_is_left_alone() -> None:
    row = message(account())
    take_one(row)
    assert store.recover.recover(clock=at()) == []
    assert store.recover.recover(clock=at(base.database_now() + timedelta(seconds=170))) == []
    assert fresh(row).status == "sending"


def test_a_lost_claim_waits_with_its_counters_and_recipients_in_doubt() -> None:
    row = message(account(), to=["a@x.org", "b@x.org"])
    claim = take_one(row)
    lapse([claim])
    (recorded,) = store.recover.recover(clock=at())
    now = fresh(row)
    assert (recorded.error_code, recorded.next_attempt_at) == ("lost_claim", now.next_attempt_at)
    assert (now.status, now.last_error_code, now.claim_expires_at) == ("failed", "lost_claim", None)
    assert (now.retries, now.attempts, now.message_number) == (0, 1, 0)
    assert now.next_attempt_at is not None
    assert 10 * SECOND <= now.next_attempt_at - NOW <= 20 * SECOND
    assert results(row) == {"a@x.org": "unknown", "b@x.org": "unknown"}
    attempt = DeliveryAttempt.objects.get()
    assert (attempt.outcome, attempt.number, attempt.claim_token) == ("lost", 1, claim.lease.token)
    assert attempt.started_at == NOW


def test_what_is_known_of_a_recipient_survives_a_loss() -> None:
    row = message(account(), to=["a@x.org", "b@x.org", "c@x.org"])
    finish(take_one(row), Ending.ACCEPTED, {"b@x.org": Answer.REFUSED, "c@x.org": Answer.DEFERRED})
    lose(take_one(make_due(row)))
    assert results(row) == {"a@x.org": "accepted", "b@x.org": "refused", "c@x.org": "unknown"}


def test_messages_claimed_with_one_that_kills_its_worker_part_from_it() -> None:
    owner = account()
    rows = [message(owner) for _ in range(20)]
    lapse(take(owner, limit=20))
    assert len(store.recover.recover(clock=at())) == 20
    due = [fresh(row).next_attempt_at for row in rows]
    assert len(set(due)) == 20


def test_more_than_one_batch_is_recovered() -> None:
    owner = account()
    for _ in range(3):
        row = message(owner)
    OutboxMessage.objects.bulk_create(
        OutboxMessage(account=owner, status="pending", next_attempt_at=NOW, due_since=NOW) for _ in range(150)
    )
    lapse(take(owner, limit=200))
    assert len(store.recover.recover(clock=at())) == 153
    assert not OutboxMessage.objects.filter(status="sending").exists()
    assert DeliveryAttempt.objects.filter(message=row).count() == 1


@pytest.mark.parametrize("by_setting", [True, False])
def test_hold_rests_when_its_worker_is_lost(by_setting: bool, settings: Any) -> None:
    settings.PRX_EMAIL = {"ON_UNKNOWN": "hold"} if by_setting else {}
    row = message(account(), on_unknown=None if by_setting else "hold")
    lose(take_one(row))
    assert fresh(row).is_at_rest
    assert fresh(row).may_have_been_delivered


def test_retry_by_the_message_beats_hold_by_the_setting(settings: Any) -> None:
    settings.PRX_EMAIL = {"ON_UNKNOWN": "hold"}
    row = message(account(), on_unknown="retry")
    lose(take_one(row))
    assert fresh(row).next_attempt_at is not None


def test_a_message_that_keeps_killing_its_worker_comes_to_rest(settings: Any) -> None:
    settings.PRX_EMAIL = {"MAX_UNKNOWN_OUTCOMES": 3}
    row = message(account())
    for _ in range(3):
        assert not fresh(row).is_at_rest
        lose(take_one(make_due(row)))
    assert (fresh(row).attempts, fresh(row).is_at_rest) == (3, True)


def test_a_person_gives_a_message_at_its_limit_one_more_attempt(settings: Any) -> None:
    settings.PRX_EMAIL = {"MAX_UNKNOWN_OUTCOMES": 2}
    row = message(account())
    lose(take_one(row))
    lose(take_one(make_due(row)))
    assert fresh(row).is_at_rest
    assert store.operations.requeue([row.pk], clock=at()).changed == 1
    finish(take_one(row), Ending.UNKNOWN)
    assert (fresh(row).attempts, fresh(row).is_at_rest) == (3, True)


def test_recovery_is_judged_by_the_running_clock_not_by_an_old_due_time() -> None:
    row = message(account())
    take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=NOW - timedelta(days=300))
    assert store.recover.recover(clock=at()) == []


def test_a_status_written_by_hand_is_recovered_too() -> None:
    """``sending`` with a lease that no worker has: no row stays there for ever."""
    row = message(account())
    OutboxMessage.objects.filter(pk=row.pk).update(
        status="sending", claim_token="1" * 32, claim_expires_at=NOW, next_attempt_at=None
    )
    assert len(store.recover.recover(clock=at())) == 1
    assert fresh(row).next_attempt_at is not None


# expire


def test_an_expired_message_rests_and_keeps_what_was_last_heard() -> None:
    row = message(account(), expires_at=NOW + 5 * SECOND)
    finish(take_one(row), Ending.TEMPORARY, error="450 busy")
    later = NOW + 60 * SECOND
    claims = [take_one(row, now=later)]
    fresh_ones, old = store.claimed.split_expired(claims, clock=at(later))
    assert (fresh_ones, [claim.id for claim in old]) == ([], [row.pk])
    (recorded,) = store.recover.expire(old, clock=at(later))
    now = fresh(row)
    assert recorded.error_code == "expired"
    assert (now.is_at_rest, now.last_error_code, now.last_error) == (True, "expired", "450 busy")
    assert (now.retries, now.attempts, now.claim_expires_at) == (1, 1, None)
    assert DeliveryAttempt.objects.count() == 1, "no attempt was made"


def test_a_message_due_for_too_long_is_given_up(settings: Any) -> None:
    settings.PRX_EMAIL = {"GIVE_UP_AFTER": "1h", "MAX_BACKOFF": "1h"}
    row = message(account())
    later = NOW + timedelta(hours=1, seconds=1)
    assert [claim.id for claim in store.claimed.split_expired([take_one(row, now=later)], clock=at(later))[1]] == [
        row.pk
    ]


def test_age_counts_from_when_it_was_due_not_from_when_it_was_queued(settings: Any) -> None:
    settings.PRX_EMAIL = {"GIVE_UP_AFTER": "1h", "MAX_BACKOFF": "1h"}
    row = message(account(), send_at=NOW + timedelta(days=3))
    later = NOW + timedelta(days=3, minutes=59)
    assert [claim.id for claim in store.claimed.split_expired([take_one(row, now=later)], clock=at(later))[0]] == [
        row.pk
    ]


def test_a_stale_worker_expires_nothing() -> None:
    row = message(account(), expires_at=NOW + SECOND)
    stale = take_one(row)
    lose(stale)
    assert store.recover.expire([stale], clock=at()) == []
    assert fresh(row).last_error_code == "lost_claim"
