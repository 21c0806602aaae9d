"""The claim takes what its rule says, whichever database writes it; within a drain, it never reads a row again."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.db.models.signals import post_init
from django.test.utils import CaptureQueriesContext

from prx_email_django import store
from prx_email_django.conf import outbox_settings
from prx_email_django.models import Account, Content, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.policy import gave_up
from prx_email_django.store import claims, cursor
from prx_email_django.store.claimed import split_expired
from prx_email_django.store.claims import TEXT_LIMIT
from prx_email_django.store.cursor import ClaimCursor
from tests.support.factories import NOW, SECOND, account, at, message

pytestmark = pytest.mark.django_db

MICROSECOND = timedelta(microseconds=1)
#: The instants between which Python has dates.
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
RANKS = 21


def queue(owner: Account, chance: random.Random) -> list[OutboxMessage]:
    """Messages of few ranks, instants and sizes; some are not due, and some must not be sent twice."""
    texts = ["", "a" * (TEXT_LIMIT // 4), "a" * (TEXT_LIMIT // 2), "a" * TEXT_LIMIT]
    rows = [
        OutboxMessage(
            account=owner,
            subject="s",
            size=len(text := chance.choice(texts)),
            body_text=text[:99],
            body_html=text[99:],
            status=chance.choice(["pending", "failed"]),
            priority=chance.choice([-10, 0, 0, 10]),
            next_attempt_at=chance.choice([None, NOW - SECOND, NOW - MICROSECOND, NOW, NOW + MICROSECOND]),
            on_unknown=chance.choice(["", "", "", "retry", "hold"]),
        )
        for _ in range(chance.randint(0, 12))
    ]
    for row in rows:
        if row.next_attempt_at is None:
            row.status = "failed"
    return OutboxMessage.objects.bulk_create(rows)


def by_the_rule(rows: list[OutboxMessage], *, limit: int, hold_limit: int) -> tuple[list[int], bool, bool]:
    """Best rank first; at the first message that must not be sent twice it stops, or takes few if they come first.

    It takes no further message once the texts are large enough.
    """
    due = [row for row in rows if row.next_attempt_at and row.next_attempt_at <= NOW]
    due.sort(key=lambda row: (-row.priority, row.next_attempt_at, row.pk))
    fitting = [row for place, row in enumerate(due) if sum(other.size for other in due[:place]) < TEXT_LIMIT]
    holds = [place for place, row in enumerate(fitting[:limit]) if row.on_unknown == "hold"]
    if not holds:
        return [row.pk for row in fitting[:limit]], False, len(fitting) < min(limit, len(due))
    return [row.pk for row in fitting[: holds[0] or min(limit, hold_limit)]], True, True


def test_every_form_of_the_claim_takes_what_the_rule_says() -> None:
    owner, chance = account(), random.Random(20261129)
    locked = connections[outbox_alias()].features.has_select_for_update_skip_locked
    for _ in range(25):
        OutboxMessage.objects.all().delete()
        rows = queue(owner, chance)
        limits = {"limit": chance.randint(1, 8), "hold_limit": chance.randint(0, 3)}
        expected = by_the_rule(rows, **limits)
        with transaction.atomic():
            assert claims.candidates(owner.pk, **limits, clock=at(), locked=locked, bounds={}) == expected
        batch = store.claims.claim(owner.pk, **limits, clock=at())
        assert ([claim.id for claim in batch.claims], batch.stopped_at_hold, batch.has_more) == expected
        assert set(OutboxMessage.objects.filter(status="sending").values_list("pk", flat=True)) == set(expected[0])


@pytest.mark.parametrize("listens", [False, True])
def test_a_claimed_message_is_the_one_that_the_orm_reads(listens: bool) -> None:
    """A receiver of a signal gets it: each field must have the value and the type that the ORM gives."""
    instant = NOW.replace(year=2041, microsecond=123457)
    row = message(account(), cc=["é@x.org"], headers={"X-A": "ü"}, metadata={"a": [1, None]}, tag="t", priority=3)
    OutboxMessage.objects.filter(pk=row.pk).update(due_since=instant, created_at=instant, expires_at=instant)
    heard: list[Any] = []

    def listener(instance: OutboxMessage, **_: object) -> None:
        heard.append(instance)

    if listens:
        post_init.connect(listener, sender=OutboxMessage)
    try:
        [claim] = store.claims.claim(row.account_id, limit=1, hold_limit=1, clock=at()).claims
    finally:
        post_init.disconnect(listener, sender=OutboxMessage)
    read = OutboxMessage.objects.get(pk=row.pk)
    names = [field.attname for field in OutboxMessage._meta.concrete_fields]
    assert [getattr(claim.message, name) for name in names] == [getattr(read, name) for name in names]
    assert claim.message == read and not claim.message._state.adding and claim.message.get_deferred_fields() == set()
    assert bool(heard) is listens


#: By type of field: what few messages have.
UNUSUAL: dict[type[models.Field[Any, Any]], Any] = {
    models.CharField: '\x1fé"\\',
    models.TextField: "null",
    models.IntegerField: 3,
    models.BooleanField: True,
    models.DateTimeField: NOW.replace(year=2041, microsecond=123457),
}
GIVEN = {"id", "account", "status", "claim_token", "claim_expires_at", "next_attempt_at", "claim_rank"}


def unusual(field: models.Field[Any, Any]) -> Any:
    if field.name == "on_unknown":
        return "retry"
    if field.name == "raw":
        return Content.objects.create(sha256="0" * 64, size=0, stored_at=NOW)
    if isinstance(field, models.JSONField):
        return {"a": [1, None, "é", 0.1]} if field.default is dict else ["a@x.org", "é"]
    return next(value for kind, value in UNUSUAL.items() if isinstance(field, kind))


def test_each_column_of_a_claimed_message_is_as_the_orm_reads_it() -> None:
    """Most columns are not read where they have their default: one that is forgotten would have it always."""
    owner = account()
    fields = [field for field in OutboxMessage._meta.concrete_fields if field.name not in GIVEN]
    rows = [message(owner) for _ in range(len(fields) + 2)]
    for row, field in zip(rows, fields, strict=False):
        OutboxMessage.objects.filter(pk=row.pk).update(**{field.name: unusual(field)})
    claims_now = store.claims.claim(owner.pk, limit=100, hold_limit=100, clock=at()).claims
    assert {claim.id for claim in claims_now} == {row.pk for row in rows}
    names = [field.attname for field in OutboxMessage._meta.concrete_fields]
    for claim in claims_now:
        read = OutboxMessage.objects.get(pk=claim.id)
        for name in names:
            found, expected = getattr(claim.message, name), getattr(read, name)
            assert (found, type(found)) == (expected, type(expected)), name
    kept = [value for claim in claims_now for value in vars(claim.message).values() if isinstance(value, list | dict)]
    assert len({id(value) for value in kept}) == len(kept), "each message has its own"


def test_a_message_is_too_old_by_the_rule_alone() -> None:
    """Most messages are known to be young without the rule."""
    owner, chance = account(), random.Random(7)
    settings = outbox_settings()
    row = message(owner)
    (claim,) = store.claims.claim(owner.pk, limit=1, hold_limit=1, clock=at()).claims
    ages = [timedelta(), MICROSECOND, settings.give_up_after, settings.give_up_after + MICROSECOND, timedelta(days=99)]
    for _ in range(300):
        claim.message.due_since = NOW - chance.choice(ages)
        claim.message.next_attempt_at = claim.message.due_since + chance.choice(ages)
        claim.message.expires_at = chance.choice([None, None, NOW, NOW + MICROSECOND])
        is_old = gave_up(
            now=NOW,
            due_since=claim.message.due_since,
            due=claim.message.next_attempt_at,
            expires_at=claim.message.expires_at,
            give_up_after=settings.give_up_after,
            max_backoff=settings.max_backoff,
        )
        assert split_expired([claim], clock=at()) == (([], [claim]) if is_old else ([claim], [])), row


@pytest.mark.parametrize("give_up_after", ["1000000d", "900000000d"])
def test_a_message_may_wait_longer_than_there_are_dates(settings: Any, give_up_after: str) -> None:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "GIVE_UP_AFTER": give_up_after}
    owner = account()
    message(owner)
    OutboxMessage.objects.update(due_since=NOW - timedelta(days=3650))
    (claim,) = store.claims.claim(owner.pk, limit=1, hold_limit=1, clock=at()).claims
    assert split_expired([claim], clock=at()) == ([claim], [])


@pytest.mark.parametrize(
    "instant",
    [
        LAST,
        datetime(2300, 1, 1, 0, 0, 0, 123457, tzinfo=UTC),
        datetime(1850, 3, 1, 12, 30, 0, 999999, tzinfo=UTC),
        datetime(2199, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_an_odd_instant_is_read_as_it_is(instant: datetime) -> None:
    owner = account()
    rows = [message(owner), message(owner)]
    OutboxMessage.objects.filter(pk=rows[0].pk).update(expires_at=instant)
    found = store.claims.claim(owner.pk, limit=2, hold_limit=1, clock=at()).claims
    assert [claim.id for claim in found] == [row.pk for row in rows]
    assert [claim.message.expires_at for claim in found] == [instant, None]


@pytest.mark.parametrize(("written", "read"), [("infinity", LAST), ("-infinity", FIRST)])
def test_an_instant_that_python_cannot_hold_stops_no_account(written: str, read: datetime) -> None:
    if connections[outbox_alias()].vendor != "postgresql":
        pytest.skip("only PostgreSQL has such instants")
    owner = account()
    row = message(owner)
    message(owner)
    with connections[outbox_alias()].cursor() as sql:
        sql.execute(f"UPDATE {OutboxMessage._meta.db_table} SET expires_at = %s WHERE id = %s", [written, row.pk])
    found = store.claims.claim(owner.pk, limit=2, hold_limit=1, clock=at()).claims
    assert [claim.message.expires_at for claim in found] == [read, None]


def test_a_claim_begins_behind_the_last_one_and_looks_from_the_start_before_the_end() -> None:
    owner, place = account(), ClaimCursor()

    def claimed(limit: int) -> list[int]:
        batch = store.claims.claim(owner.pk, limit=limit, hold_limit=1, clock=at(), cursor=place)
        return [claim.id for claim in batch.claims]

    first = [message(owner).pk for _ in range(4)]
    assert claimed(2) == first[:2]
    # Two of another transaction, which began earlier and commits now.
    late = [message(owner, now=NOW - SECOND).pk for _ in range(2)]
    assert claimed(2) == first[2:], "what lies in front is not read again"
    assert claimed(1) == late[:1], "nothing was left behind the last claim"
    urgent = message(owner, priority=10).pk
    place.restart()
    assert claimed(2) == [urgent, late[1]]


def test_a_claim_looks_from_the_start_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, place = account(), ClaimCursor()
    first = [message(owner).pk for _ in range(3)]
    seconds = [100.0]
    monkeypatch.setattr(cursor, "monotonic", lambda: seconds[0])
    assert len(store.claims.claim(owner.pk, limit=1, hold_limit=1, clock=at(), cursor=place).claims) == 1
    late = message(owner, now=NOW - SECOND).pk
    found: list[int] = []
    for seconds[0] in (100.9, 101.0):
        found += [c.id for c in store.claims.claim(owner.pk, limit=1, hold_limit=1, clock=at(), cursor=place).claims]
    assert found == [first[1], late]


@pytest.mark.django_db(transaction=True)
def test_claims_of_a_drain_stay_flat_while_a_transaction_is_open_elsewhere() -> None:
    """No database may forget the old versions of what was sent, so a claim from the start would read all of them."""
    owner, place = account(), ClaimCursor()
    OutboxMessage.objects.bulk_create(
        OutboxMessage(account=owner, subject="s", next_attempt_at=NOW - SECOND, priority=n % 3) for n in range(400)
    )
    is_postgresql = connections[outbox_alias()].vendor == "postgresql"
    if is_postgresql:
        with connections[outbox_alias()].cursor() as statistics:
            statistics.execute(f"ANALYZE {OutboxMessage._meta.db_table}")
    reader = connections.create_connection(outbox_alias())
    try:
        reader.set_autocommit(False)
        with reader.cursor() as old:
            if is_postgresql:  # READ COMMITTED keeps no snapshot between two statements
                old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute(f"SELECT COUNT(*) FROM {OutboxMessage._meta.db_table}")
            reads = [_claim_and_send(owner, place) for _ in range(20)]
    finally:
        reader.rollback()
        reader.close()
    assert not OutboxMessage.objects.exclude(status="sent").exists()
    # A claim from the start would read hundreds more.  MariaDB may gather statistics meanwhile: its next plan reads one
    # row more for each rank.
    assert max(reads[-5:]) <= 1.2 * max(reads[1:6]) + RANKS, reads


def _claim_and_send(owner: Account, place: ClaimCursor) -> int:
    """Claim 20 messages and finalize them; returns what the search read: buffers, rows (MariaDB); 0 in SQLite."""
    alias = outbox_alias()
    place._started_at = float("inf")  # no look from the start, however slow the machine is
    before = _rows_read()
    with CaptureQueriesContext(connections[alias]) as queries, transaction.atomic():
        batch = store.claims.claim(owner.pk, limit=20, hold_limit=1, clock=at(), cursor=place)
    read = _rows_read() - before
    assert len(batch.claims) == 20
    OutboxMessage.objects.filter(pk__in=[claim.id for claim in batch.claims]).update(
        status="sent", sent_at=NOW, next_attempt_at=None, claim_expires_at=None
    )
    if connections[alias].vendor == "postgresql":
        return _buffers(next(query["sql"] for query in queries if "MATERIALIZED" in query["sql"]))
    return read


def test_a_claim_does_not_compare_each_message_with_each() -> None:
    """PostgreSQL expects one row of each part of the statement: joined parts took a tenth of the claim's time."""
    owner, count = account(), 100
    OutboxMessage.objects.bulk_create(
        OutboxMessage(account=owner, subject="s", next_attempt_at=NOW - SECOND) for _ in range(count)
    )
    if connections[outbox_alias()].vendor != "postgresql":
        return
    with transaction.atomic(), connections[outbox_alias()].cursor() as planner:
        planner.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
        with CaptureQueriesContext(connections[outbox_alias()]) as queries, transaction.atomic():
            store.claims.claim(owner.pk, limit=count, hold_limit=1, clock=at())
            transaction.set_rollback(True)
        top = _plan(next(query["sql"] for query in queries if "MATERIALIZED" in query["sql"]))
    assert top["Actual Rows"] == count
    assert max(_rows_of(top)) <= 5 * count, "the planner chooses how it reads each once; each with each is the square"


def _rows_of(node: dict[str, Any]) -> list[int]:
    """The rows that each node of a plan gives or removes, all its executions together."""
    removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    if "Relation Name" in node:
        removed = 0  # by an index or a table: which one is read depends on statistics of earlier tests
    rows = [(node["Actual Rows"] + removed) * node["Actual Loops"]]
    return rows + [count for part in node.get("Plans", ()) for count in _rows_of(part)]


def _buffers(statement: str) -> int:
    """Buffers that the same claim reads now; nothing is left to claim behind its place."""
    top = _plan(statement)
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


def _plan(statement: str) -> dict[str, Any]:
    """What PostgreSQL does for the statement, which is rolled back."""
    with transaction.atomic(), connections[outbox_alias()].cursor() as explain:
        explain.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
        said = explain.fetchone()[0]
        transaction.set_rollback(True)
    plan: dict[str, Any] = (json.loads(said) if isinstance(said, str) else said)[0]["Plan"]
    return plan


def _rows_read() -> int:
    if connections[outbox_alias()].vendor != "mysql":
        return 0
    with connections[outbox_alias()].cursor() as status:
        status.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(value) for _, value in status.fetchall())


def test_recipients_are_read_anew_only_where_a_worker_had_the_message_before() -> None:
    """A late result of that worker may be committed between the claim's snapshot and its lock."""
    owner = account()
    rows = [message(owner, to=["a@x.org", "b@x.org"]), message(owner)]
    one_statement = connections[outbox_alias()].vendor == "postgresql"
    with CaptureQueriesContext(connections[outbox_alias()]) as first:
        batch = store.claims.claim(owner.pk, limit=10, hold_limit=1, clock=at())
    assert [claim.open_addresses for claim in batch.claims] == [("a@x.org", "b@x.org"), ("ann@example.org",)]
    assert not one_statement or len(first) == 1
    known = batch.claims[0].recipients
    store.claims.release(batch.claims)
    with CaptureQueriesContext(connections[outbox_alias()]) as second:
        again = store.claims.claim(owner.pk, limit=10, hold_limit=1, clock=at()).claims
    assert not one_statement or len(second) == 2
    assert [claim.id for claim in again] == [row.pk for row in rows]
    assert again[0].recipients == known, "both ways read the same"


def test_recipients_are_read_anew_where_the_message_has_changed_since_it_was_queued() -> None:
    """Somebody may be erased from its recipients between the claim's snapshot and its lock, and must get no mail."""
    owner = account()
    row = message(owner, to=["a@x.org", "b@x.org"])
    assert row.updated_at == row.created_at, "as it was queued"
    OutboxMessage.objects.filter(pk=row.pk).update(updated_at=NOW + SECOND)
    with CaptureQueriesContext(connections[outbox_alias()]) as statements:
        (claim,) = store.claims.claim(owner.pk, limit=10, hold_limit=1, clock=at()).claims
    assert claim.open_addresses == ("a@x.org", "b@x.org")
    assert len(statements) >= 2
