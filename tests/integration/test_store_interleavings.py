"""Two or three connections at once, statement by statement: whatever the order, each message has one owner.

Every order is tried in which one session stops after its n-th statement, the others run to their end, and it goes on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from prx_email_django import store
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.results import ChangeReport
from prx_email_django.rules.outcomes import Ending
from prx_email_django.store.attempts import FinishedAttempt, RecordedAttempt
from prx_email_django.store.claimed import Claim
from tests.support.factories import NOW, account, at, fresh, lapse, message, outcome, take
from tests.support.sessions import interleave

pytestmark = pytest.mark.django_db(transaction=True)

#: A session stops after at most so many statements: by then each verb has committed what it changes.
STATEMENTS = 6
Call = Callable[[], Any]


def orders(sessions: int) -> Iterator[list[int]]:
    """One session begins and stops, the others run to their end, and it goes on."""
    for first in range(sessions):
        others = [number for number in range(sessions) if number != first]
        for count in range(0 if first == 0 else 1, STATEMENTS + 1):
            yield [first] * count + [number for number in others for _ in range(3 * STATEMENTS)]


def claim(owner: Account) -> list[Claim]:
    return store.claims.claim(owner.pk, limit=10, hold_limit=10, clock=at()).claims


def recover() -> list[RecordedAttempt]:
    return store.recover.recover(clock=at())


def finish(claims: list[Claim]) -> list[RecordedAttempt]:
    said = [outcome(Ending.ACCEPTED, claim) for claim in claims]
    group = [
        FinishedAttempt(claim, words, words.recipients, started_at=NOW, finished_at=NOW)
        for claim, words in zip(claims, said, strict=True)
    ]
    return store.finalize.finalize(group, clock=at())


def ids(status: str) -> set[int]:
    return set(OutboxMessage.objects.filter(status=status).values_list("pk", flat=True))


def assert_each_has_one_owner(*claimed: list[Claim]) -> None:
    """Who is told of a claim has it, and nobody else; no row is claimed that nobody was told of."""
    owners = Counter(claim.id for claims in claimed for claim in claims)
    assert set(owners.values()) <= {1}
    assert set(owners) == ids("sending")
    for claims in claimed:
        for claim in claims:
            assert fresh(claim).claim_token == claim.lease.token


def assert_history_fits() -> None:
    for row in OutboxMessage.objects.all():
        attempts = list(DeliveryAttempt.objects.filter(message=row).order_by("number"))
        by = Counter(str(attempt.outcome) for attempt in attempts)
        assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert len({attempt.claim_token for attempt in attempts}) == len(attempts)
        assert row.attempts >= by["failed"] + by["unknown"] + by["lost"]


def clear() -> None:
    DeliveryAttempt.objects.all().delete()
    Recipient.objects.all().delete()
    OutboxMessage.objects.all().delete()


def each_order(prepare: Callable[[], list[Call]]) -> Iterator[list[Any]]:
    """The results of the calls, once for each order, from a fresh backlog."""
    for order in orders(len(prepare())):
        clear()
        yield interleave(prepare(), order)


def test_claim_against_claim() -> None:
    owner = account()

    def prepare() -> list[Call]:
        for _ in range(3):
            message(owner)
        return [lambda: claim(owner), lambda: claim(owner)]

    for first, second in each_order(prepare):
        assert_each_has_one_owner(first, second)
        assert len(first) + len(second) == 3


def test_three_claims_at_once() -> None:
    owner = account()

    def prepare() -> list[Call]:
        for priority in (1, 1, 0, 0):
            message(owner, priority=priority)
        return [lambda: claim(owner) for _ in range(3)]

    for claimed in each_order(prepare):
        assert_each_has_one_owner(*claimed)


def test_claim_against_recover() -> None:
    owner = account()

    def prepare() -> list[Call]:
        lost = [message(owner), message(owner)]
        take(owner)
        lapse(lost)
        message(owner)
        return [lambda: claim(owner), recover]

    for claimed, recovered in each_order(prepare):
        assert_each_has_one_owner(claimed)
        assert_history_fits()
        assert (len(claimed), len(recovered)) == (1, 2)


def test_two_recoveries_at_once() -> None:
    owner = account()

    def prepare() -> list[Call]:
        lost = [message(owner), message(owner)]
        take(owner)
        lapse(lost)
        return [recover, recover]

    for first, second in each_order(prepare):
        assert len(first) + len(second) == 2
        assert_history_fits()
        assert not ids("sending")


def test_claim_against_requeue() -> None:
    owner = account()

    def prepare() -> list[Call]:
        rows = [message(owner), message(owner), message(owner)]
        later = [rows[0].pk, rows[1].pk]
        OutboxMessage.objects.filter(pk__in=later).update(
            status="failed", next_attempt_at=NOW + timedelta(seconds=9), last_error_code="provider"
        )
        every = [row.pk for row in rows]
        return [lambda: claim(owner), lambda: store.operations.requeue(every, clock=at())]

    for claimed, report in each_order(prepare):
        assert_each_has_one_owner(claimed)
        assert report.changed == 2
        assert report.refused in ({"waiting": 1}, {"sending": 1})
        assert OutboxMessage.objects.filter(next_attempt_at__gt=NOW).count() == 0, "what was requeued is due"


def test_claim_against_cancel() -> None:
    owner = account()

    def prepare() -> list[Call]:
        rows = [message(owner).pk for _ in range(3)]
        return [lambda: claim(owner), lambda: store.operations.cancel(rows, clock=at())]

    for claimed, report in each_order(prepare):
        assert_each_has_one_owner(claimed)
        cancelled = OutboxMessage.objects.filter(last_error_code="cancelled", status="failed", next_attempt_at=None)
        assert report == ChangeReport(changed=cancelled.count(), refused={"sending": len(claimed)} if claimed else {})
        assert len(claimed) + cancelled.count() == 3


def test_claim_against_adopt() -> None:
    owner = account()

    def prepare() -> list[Call]:
        for _ in range(3):
            message(owner)
        return [lambda: claim(owner), lambda: store.adopt.adopt("other", clock=at())]

    for _, changed in each_order(prepare):
        assert changed == 3
        rows = OutboxMessage.objects.filter(status="failed", next_attempt_at=None, last_error_code="adopted")
        assert rows.count() == 3, "a claim between two steps of the adoption would be sent"
        assert_history_fits()


@pytest.mark.parametrize("has_run_out", [True, False])
def test_renew_against_recover(has_run_out: bool) -> None:
    """Whoever comes first has the row, and the other knows it."""
    owner = account()
    claims: list[Claim] = []

    def prepare() -> list[Call]:
        rows = [message(owner), message(owner)]
        claims[:] = take(owner)
        lapse(rows[: 2 if has_run_out else 1])
        return [lambda: store.claims.renew(claims, clock=at()), recover]

    for _, recovered in each_order(prepare):
        lost = {attempt.message.pk for attempt in recovered}
        assert {claim.id for claim in claims if not claim.is_lost} >= ids("sending")
        assert lost.isdisjoint(ids("sending"))
        assert lost | ids("sending") == {claim.id for claim in claims}
        assert_history_fits()


def test_finalize_against_recover() -> None:
    owner = account()

    def prepare() -> list[Call]:
        rows = [message(owner), message(owner)]
        claims = take(owner)
        lapse(rows)
        return [lambda: finish(claims), recover]

    for finished, _ in each_order(prepare):
        assert len(finished) == 2
        assert len(ids("sent")) == 2, "an acceptance counts, whoever came first"
        outcomes = DeliveryAttempt.objects.values_list("outcome", flat=True)
        assert list(outcomes) == ["sent", "sent"]
        assert_history_fits()


def test_claim_and_release_against_adopt() -> None:
    """A message that a worker claims and gives back between the steps of an adoption rests too."""
    owner = account()
    claims: list[Claim] = []

    def release() -> None:
        assert OutboxMessage.objects.exists()  # it stands before this statement until it is its turn
        store.claims.release(claims)

    def give() -> None:
        claims[:] = claim(owner)

    for before, between in itertools.product(range(STATEMENTS), range(STATEMENTS)):
        clear()
        message(owner)
        adopt = [0] * 6 * STATEMENTS
        order = adopt[:before] + [1] * 3 * STATEMENTS + adopt[:between] + [2] * 3 * STATEMENTS + adopt
        claims.clear()
        interleave([lambda: store.adopt.adopt("other", clock=at()), give, release], order)
        assert not OutboxMessage.objects.filter(next_attempt_at__isnull=False).exists()
        assert_history_fits()


def test_expire_against_a_late_acceptance() -> None:
    """What has arrived is sent, not expired, whoever comes first."""
    owner = account()
    claims: list[Claim] = []

    def prepare() -> list[Call]:
        row = message(owner, expires_at=NOW + timedelta(days=1))
        claims[:] = take(owner)
        lapse([row])
        recover()
        OutboxMessage.objects.filter(pk=row.pk).update(next_attempt_at=NOW, expires_at=NOW)

        def expire() -> list[RecordedAttempt]:
            _, old = store.claimed.split_expired(claim(owner), clock=at())
            return store.recover.expire(old, clock=at())

        return [expire, lambda: finish(claims)]

    for _ in each_order(prepare):
        row = OutboxMessage.objects.get()
        assert row.status == "sent", "it has arrived"
        assert_history_fits()
