"""Finding work must not cost more with every message ever sent: the plans that the databases choose for it.

A plan that sorts makes MariaDB's first worker lock the whole backlog, and leaves nothing to the second.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from prx_email_django import store
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store import claims
from tests.support.factories import NOW, account, at, double_messages
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

#: In the way: 16 384 sent rows, and as many future ones of the highest priority.
DOUBLINGS = 14
DUE = 200


def row(owner: Account, **fields: Any) -> OutboxMessage:
    values = {"account": owner, "subject": "s", "created_at": NOW, "updated_at": NOW, "due_since": NOW, **fields}
    return OutboxMessage(**values)


@pytest.fixture
def crowded() -> Account:
    """An account with due messages behind everything that is not due."""
    owner = account()
    row(owner, status="sent", sent_at=NOW, next_attempt_at=None).save(force_insert=True)
    row(owner, status="pending", priority=10, next_attempt_at=NOW + timedelta(days=1)).save(force_insert=True)
    double_messages(DOUBLINGS)
    connection = connections[outbox_alias()]
    table = connection.ops.quote_name(OutboxMessage._meta.db_table)
    OutboxMessage.objects.bulk_create(
        row(owner, status="pending", next_attempt_at=NOW - timedelta(seconds=number)) for number in range(DUE)
    )
    analyze = {"mysql": f"ANALYZE TABLE {table}", "postgresql": f"VACUUM ANALYZE {table}"}
    with connection.cursor() as cursor:
        cursor.execute(analyze.get(connection.vendor, "ANALYZE"))
        if connection.vendor == "mysql":
            cursor.fetchall()
    return owner


def vendor() -> str:
    return connections[outbox_alias()].vendor


def statements(call: Callable[[], object]) -> list[str]:
    """The SELECTs that a call makes on messages."""
    with CaptureQueriesContext(connections[outbox_alias()]) as queries:
        call()
    table = connections[outbox_alias()].ops.quote_name(OutboxMessage._meta.db_table)
    texts = [query["sql"].strip() for query in queries]
    return [text for text in texts if text.startswith("SELECT") and f"FROM {table}" in text]


def plan(statement: str) -> str:
    prefix = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}.get(vendor(), "EXPLAIN ")
    with connections[outbox_alias()].cursor() as cursor:
        cursor.execute(prefix + statement)
        return "\n".join(" ".join(str(value) for value in line) for line in cursor.fetchall())


def rows_read(call: Callable[[], object]) -> int:
    """Index and table rows that MariaDB reads for a call."""

    def handler() -> int:
        with connections[outbox_alias()].cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    before = handler()
    call()
    return handler() - before


def assert_cheap(statement: str, *, index: str) -> None:
    said = plan(statement)
    assert index in said, f"{statement}\n{said}"
    if "UNION ALL" in statement:  # of the 21 ranks, which stand in no table
        assert not re.search(r"Seq Scan on prx|SCAN [mn]\b", said), said
        return
    for word in ("Seq Scan", "Sort", "filesort", "Using temporary", "SCAN prx", "USE TEMP B-TREE"):
        assert word not in said, f"{statement}\n{said}"


def test_work_is_found_by_its_index_behind_everything_that_is_not_due(crowded: Account) -> None:
    def find() -> None:
        with transaction.atomic():
            locked = vendor() != "sqlite"
            taken = claims.candidates(crowded.pk, limit=20, hold_limit=3, clock=at(), locked=locked, bounds={})
            assert len(taken.ids) == 20

    found = statements(find)
    assert len(found) == 2, "one for the heads of all ranks, and each rank is read only where something is due"
    for statement in [*found, *statements(lambda: store.due.first_claimable(crowded.pk, clock=at()))]:
        assert_cheap(statement, index="prx_message_claim")
    if vendor() == "mysql":
        # A plan that names the index may still walk all of it.
        assert rows_read(find) < 100
        assert rows_read(lambda: store.due.first_claimable(crowded.pk, clock=at())) < 50
        assert rows_read(lambda: store.due.next_due([crowded.pk])) < 50


def test_future_messages_of_all_priorities_cost_a_look_one_statement() -> None:
    """Tried: 22 statements for each look and each claim, one for each priority that is in use."""
    owner = account()
    for priority in range(-10, 11):
        row(owner, status="pending", priority=priority, next_attempt_at=NOW + timedelta(days=1)).save(force_insert=True)
    assert len(statements(lambda: store.due.first_claimable(owner.pk, clock=at()))) == 1
    ranks = [head.rank for head in store.due.heads(owner.pk, above=3)]
    assert ranks == list(range(4, 11))
    assert store.due.heads(owner.pk, above=10) == []


def test_the_next_due_instant_is_found_by_the_index(crowded: Account) -> None:
    moments: list[Any] = []
    for statement in statements(lambda: moments.append(store.due.next_due([crowded.pk]))):
        said = plan(statement)
        assert "prx_message_claim" in said or "optimized away" in said, f"{statement}\n{said}"
        assert "Seq Scan on prx" not in said
    assert moments == [NOW - timedelta(seconds=DUE - 1)]


def test_lost_claims_are_found_by_their_index(crowded: Account) -> None:
    """Without it every drain would read the whole table."""
    lost = store.claims.claim(crowded.pk, limit=5, hold_limit=3, clock=at()).claims
    OutboxMessage.objects.filter(pk__in=[claim.id for claim in lost]).update(claim_expires_at=NOW)
    recovered: list[Any] = []

    def recover() -> None:
        recovered.extend(store.recover.recover(clock=at()))

    if vendor() == "mysql":
        # It may take the index of the status as well, where nothing is partial.
        assert rows_read(recover) < 200
    else:
        assert_cheap(statements(recover)[0], index="prx_message_lease")
    assert len(recovered) == 5


@pytest.mark.parametrize("end", ["renew", "release", "release_lease"])
def test_a_lease_is_renewed_and_released_without_reading_the_table(crowded: Account, end: str) -> None:
    """Every 20 seconds a worker read every row behind a million sent ones, and recorded nothing meanwhile."""
    taken = store.claims.claim(crowded.pk, limit=5, hold_limit=3, clock=at()).claims
    ends: dict[str, Callable[[], object]] = {
        "renew": lambda: store.claims.renew(taken, clock=at()),
        "release": lambda: store.claims.release(taken),
        "release_lease": lambda: store.lease.release_lease(taken[0].lease),
    }
    if vendor() == "mysql":
        assert rows_read(ends[end]) < 200
    else:
        with CaptureQueriesContext(connections[outbox_alias()]) as queries:
            ends[end]()
        texts = [query["sql"].strip() for query in queries]
        plans = [plan(text) for text in texts if text.startswith(("SELECT", "UPDATE"))]
        # Of messages: attempts are none here, and a planner may remember those of other tests.
        whole = re.compile(rf"(Seq Scan on|SCAN) {OutboxMessage._meta.db_table}\b")
        assert plans and not whole.search("\n".join(plans)), "\n".join(plans)
    still = OutboxMessage.objects.filter(status="sending").count()
    assert still == (5 if end == "renew" else 0)


def test_each_of_two_workers_gets_rows_of_its_own(crowded: Account) -> None:
    """The first claim keeps its locks while the second one runs."""
    taken: dict[str, list[int]] = {}
    holding, done = threading.Event(), threading.Event()

    def first() -> None:
        try:
            with transaction.atomic(using=outbox_alias()):
                taken["first"] = [
                    claim.id for claim in store.claims.claim(crowded.pk, limit=100, hold_limit=3, clock=at()).claims
                ]
                holding.set()
                done.wait(PATIENCE)
        finally:
            holding.set()
            connections[outbox_alias()].close()

    worker = threading.Thread(target=first)
    worker.start()
    assert holding.wait(PATIENCE)
    if vendor() == "sqlite":  # one writer at a time: the second waits for the first
        done.set()
        worker.join(PATIENCE)
    taken["second"] = [claim.id for claim in store.claims.claim(crowded.pk, limit=100, hold_limit=3, clock=at()).claims]
    done.set()
    worker.join(PATIENCE)
    assert (len(taken["first"]), len(taken["second"])) == (100, 100)
    assert not set(taken["first"]) & set(taken["second"])


def test_an_open_enqueue_and_a_claim_do_not_wait_for_each_other(crowded: Account) -> None:
    """READ COMMITTED: a gap lock of the claim would stop every caller's INSERT, and theirs the claim."""
    if vendor() == "sqlite":
        return
    open_, done = threading.Event(), threading.Event()
    kept = store.claims.claim(crowded.pk, limit=10, hold_limit=3, clock=at()).claims

    def caller() -> None:
        try:
            with transaction.atomic(using=outbox_alias()):
                row(crowded, status="pending", next_attempt_at=NOW).save(force_insert=True)
                open_.set()
                done.wait(PATIENCE)
        finally:
            connections[outbox_alias()].close()

    worker = threading.Thread(target=caller)
    worker.start()
    assert open_.wait(PATIENCE)
    taken = store.claims.claim(crowded.pk, limit=DUE, hold_limit=3, clock=at()).claims
    assert not done.is_set()
    done.set()
    worker.join(PATIENCE)
    assert len(taken) == DUE - len(kept)
