"""What is due is found whatever the table holds: a database's planner chooses by its statistics, not by the answer."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from prx_email_django import store
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.states import WAITING
from tests.support.factories import NOW, account, at, message

pytestmark = pytest.mark.django_db(transaction=True)


def _heads(owner: Account) -> list[tuple[int, int]]:
    """Rank and number of each rank's first message, by reading all rows."""
    rows = OutboxMessage.objects.filter(account=owner, status__in=WAITING, next_attempt_at__isnull=False)
    found: dict[int, int] = {}
    for row in sorted(rows, key=lambda row: (row.next_attempt_at, row.pk)):
        found.setdefault(row.claim_rank, row.pk)
    return sorted(found.items())


def test_the_last_message_of_a_rank_is_found_when_the_others_are_sent() -> None:
    # MariaDB chose an index of the status, changed to the claim's for the sake of the order, and read each rank within
    # the range of the first one: a due message of low priority was left behind.
    first, second = account(), account("bulk")
    rows = [message(first, priority=priority) for priority in (10, 5, *([0] * 10), -5)]
    other = message(second)
    for row in (*rows[:-1], other):
        OutboxMessage.objects.filter(pk=row.pk).update(status="sent", sent_at=NOW, next_attempt_at=None)
        assert [(head.rank, head.pk) for head in store.due.heads(first.pk)] == _heads(first), row
        assert store.due.first_claimable(first.pk, clock=at()) == _heads(first)[0][1]
        assert first.pk in store.due.accounts_with_due(clock=at())
    assert store.due.accounts_with_due(clock=at()) == {first.pk}


@pytest.mark.parametrize("seed", range(6))
def test_heads_and_accounts_are_those_of_a_full_read(seed: int) -> None:
    chance = random.Random(seed)
    owners = [account(f"a{n}") for n in range(3)]
    for _ in range(30):
        row = message(chance.choice(owners), priority=chance.randint(-10, 10))
        fate = chance.choice(["waits", "sent", "future", "at rest", "retries"])
        rows = OutboxMessage.objects.filter(pk=row.pk)
        if fate == "sent":
            rows.update(status="sent", sent_at=NOW, next_attempt_at=None)
        elif fate == "at rest":
            rows.update(status="failed", next_attempt_at=None)
        elif fate != "waits":
            later = NOW + timedelta(hours=1 if fate == "future" else -1)
            rows.update(status="pending" if fate == "future" else "failed", next_attempt_at=later)
        for owner in owners:
            assert [(head.rank, head.pk) for head in store.due.heads(owner.pk)] == _heads(owner)
            above = chance.randint(-11, 9)
            expected = [head for head in _heads(owner) if head[0] > above]
            assert [(head.rank, head.pk) for head in store.due.heads(owner.pk, above=above)] == expected
    due = OutboxMessage.objects.filter(status__in=WAITING, next_attempt_at__lte=NOW)
    assert store.due.accounts_with_due(clock=at()) == set(due.values_list("account", flat=True))
