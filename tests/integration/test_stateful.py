"""Arbitrary steps over the store: nothing is lost, nothing is stuck, nobody is served twice except after a doubt.

Two workers claim, crash, come back late, and meet people who cancel, requeue, retry, confirm and purge, while the clock
moves by any amount.  Every change of a status is held to the table of transitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import hypothesis.stateful
import pytest
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase, override_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from prx_email_django import store
from prx_email_django.errors import RetryRejected
from prx_email_django.models import Account, DeliveryAttempt, OutboxMessage, Recipient
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.states import TRANSITIONS
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.claimed import Claim
from tests.support.factories import MEMORY, NOW, account, message, outcome

ADDRESSES = ("a@x.org", "b@x.org", "c@x.org")
ENDINGS = (Ending.ACCEPTED, Ending.ACCEPTED, Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN)
ANSWERS = st.sampled_from((*[Answer.ACCEPTED] * 4, Answer.REFUSED, Answer.DEFERRED, Answer.TOO_MANY))
MEANWHILE = st.sampled_from(["", "recovered", "being sent by another"])
#: Leases are real time and the steps are not: however far these go, they stay behind every lease.
START = NOW.replace(year=2020)
#: After so many steps of the clock nothing that waits can still wait: the longest backoff, doubled by the spread.
LONG = timedelta(hours=13)


@dataclass
class Known:
    """What the test knows of a message beside its row."""

    #: Message-ID of every copy that may exist.
    copies: set[str] = field(default_factory=set)
    #: Recipient -> how often the server took the message for it.
    taken: dict[str, int] = field(default_factory=dict)
    #: Recipient -> how many outcomes were unknown or lost: each may hide one copy, and one only.
    doubts: Counter[str] = field(default_factory=Counter)
    #: Recipients of whom a person said that it arrived.
    vouched: set[str] = field(default_factory=set)
    retries: int = 0
    attempts: int = 0
    number: int | None = None
    purged: bool = False


def empty() -> None:
    """Delete everything and restart the ids, on which the spread of recovery depends.

    Nothing else that a database or a machine gives out decides what happens, so the same steps do the same again.
    """
    for model in (DeliveryAttempt, Recipient, OutboxMessage, Account):
        model.objects.all().delete()
    ids = [{"table": OutboxMessage._meta.db_table, "column": "id"}]
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_by_name_sql(no_style(), ids):
            cursor.execute(statement)


class Outbox(RuleBasedStateMachine):
    """The steps; a claim is an object that some worker still has, whatever became of its lease."""

    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        empty()
        self.account = account()
        self.now = START
        self.known: dict[int, Known] = {}

    @property
    def clock(self) -> Clock:
        return store.db.clock_for(self.now)

    @contextmanager
    def moving_by(self, *verbs: str) -> Iterator[None]:
        """Every status that changes meanwhile changes as the table says of one of these verbs."""
        before = self.statuses()
        yield
        for pk, status in self.statuses().items():
            if pk not in before:
                assert status in {TRANSITIONS[verb].entry for verb in verbs}, f"{pk} began as {status}"
            elif status != before[pk]:
                allowed = {move for verb in verbs for move in TRANSITIONS[verb].moves}
                assert (before[pk], status) in allowed, f"{pk} by {verbs}: {before[pk]} -> {status}"

    def statuses(self) -> dict[int, str]:
        return dict(OutboxMessage.objects.values_list("pk", "status"))

    def pick(self, number: int) -> OutboxMessage | None:
        rows = list(OutboxMessage.objects.order_by("pk"))
        return rows[number % len(rows)] if rows else None

    # Time and callers

    @rule(seconds=st.sampled_from([0, 1, 15, 60, 200, 3600, 50_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @initialize()
    def begin(self) -> None:
        self.known = {message(self.account, to=ADDRESSES[:size], now=self.now).pk: Known() for size in (1, 2)}

    @precondition(lambda self: len(self.known) < 4)
    @rule(
        to=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True),
        on_unknown=st.sampled_from([None, "retry", "hold"]),
        priority=st.integers(-2, 2),
        delay=st.sampled_from([0, 0, 0, 30]),
        lives=st.sampled_from([None, None, 100]),
        key=st.sampled_from([None, None, "k", "K"]),
    )
    def enqueue(
        self, to: list[str], on_unknown: str | None, priority: int, delay: int, lives: int | None, key: str | None
    ) -> None:
        due = self.now + timedelta(seconds=delay)
        with self.moving_by("enqueue"):
            row = message(
                self.account,
                to=to,
                now=self.now,
                on_unknown=on_unknown,
                priority=priority,
                send_at=due,
                expires_at=None if lives is None else due + timedelta(seconds=lives),
                idempotency_key=key,
            )
        if key is None or row.pk not in self.known:
            self.known[row.pk] = Known()

    # Workers

    @rule(
        target=claims, limit=st.integers(1, 4), hold_limit=st.integers(0, 2), waits=st.sampled_from([True, True, False])
    )
    def claim(self, limit: int, hold_limit: int, waits: bool) -> Any:
        """A drain that waits moves on to the next due instant, so that short runs get far."""
        due = store.due.next_due([self.account.pk])
        if waits and due is not None:
            self.now = max(self.now, due)
        with self.moving_by("claim"):
            taken = store.claims.claim(self.account.pk, limit=limit, hold_limit=hold_limit, clock=self.clock).claims
        # Leases are real time, the steps are not: what was claimed is lost by ``crash`` alone.
        for claim in taken:
            assert claim.message.status == "sending"
            assert claim.message.next_attempt_at is not None
            assert claim.message.next_attempt_at <= self.now, "claimed before it was due"
        fresh, old = store.claimed.split_expired(taken, clock=self.clock)
        with self.moving_by("expire"):
            store.recover.expire(old, clock=self.clock)
        for claim in fresh:
            if not claim.open_addresses:  # a late acceptance came while another worker had it: as a drain does
                with self.moving_by("finalize"):
                    store.finalize.settle(claim, clock=self.clock)
                assert OutboxMessage.objects.get(pk=claim.id).status != "sending"
        return multiple(*(claim for claim in fresh if claim.open_addresses))

    @rule(
        claim=consumes(claims),
        ending=st.sampled_from(ENDINGS),
        answers=st.fixed_dictionaries(dict.fromkeys(ADDRESSES, ANSWERS)),
        meanwhile=MEANWHILE,
    )
    def a_result_comes_back(self, claim: Claim, ending: Ending, answers: dict[str, Answer], meanwhile: str) -> None:
        """In time or late: the worker cannot know."""
        self.overtake(claim, meanwhile)
        said = dict(answers) if ending is Ending.ACCEPTED else {}
        accepted = [address for address in claim.open_addresses if said.get(address) is Answer.ACCEPTED]
        if ending is Ending.ACCEPTED and not accepted:
            ending = Ending.TEMPORARY
        before = OutboxMessage.objects.filter(pk=claim.id).values().first()
        ours = self.is_ours(claim)
        header = claim.message.message_id
        known = self.known[claim.id]
        words = outcome(ending, claim, said)
        group = [FinishedAttempt(claim, words, words.recipients, started_at=self.now, finished_at=self.now)]
        with self.moving_by("finalize" if ours else "late result"):
            (recorded,) = store.finalize.finalize(group, clock=self.clock)
        assert recorded.late is not ours
        if ending in (Ending.ACCEPTED, Ending.UNKNOWN):
            known.copies.add(header)
        for address in accepted:
            known.taken[address] = known.taken.get(address, 0) + 1
            assert known.taken[address] <= 1 + known.doubts[address], f"{address} was served twice"
        if ending is Ending.UNKNOWN:
            known.doubts.update(claim.open_addresses)
        if not ours and before is not None and ending is not Ending.ACCEPTED:
            after = OutboxMessage.objects.filter(pk=claim.id).values().get()
            assert {**after, "updated_at": None} == {**before, "updated_at": None}, "a stale claim wrote"
        if not ours and before is not None and before["status"] == "sending":
            assert OutboxMessage.objects.get(pk=claim.id).claim_token == before["claim_token"]
            assert OutboxMessage.objects.get(pk=claim.id).status == "sending", "a stale result decided for another"

    @rule(claim=consumes(claims), meanwhile=MEANWHILE)
    def give_back(self, claim: Claim, meanwhile: str) -> None:
        self.overtake(claim, meanwhile)
        before = OutboxMessage.objects.filter(pk=claim.id).values().first()
        ours = self.is_ours(claim)
        with self.moving_by("release"):
            assert store.claims.release([claim]) == int(ours)
        after = OutboxMessage.objects.filter(pk=claim.id).values().first()
        if not ours:
            assert after == before, "a stale claim released what another worker has"
        elif before is not None and after is not None:
            kept = {"status", "claim_expires_at"}
            assert {k: v for k, v in after.items() if k not in kept} == {
                k: v for k, v in before.items() if k not in kept
            }

    @rule(claim=claims)
    def crash(self, claim: Claim) -> None:
        """Everybody takes the worker for dead; it may come back with a result all the same."""
        self.lose(OutboxMessage.objects.filter(pk=claim.id, status="sending", claim_token=claim.lease.token))

    def lose(self, rows: Any) -> None:
        lost = list(rows)
        rows.update(claim_expires_at=self.now - timedelta(seconds=1))
        with self.moving_by("recover"):
            recovered = {attempt.message.pk for attempt in store.recover.recover(clock=self.clock)}
        assert recovered == {row.pk for row in lost}
        for row in lost:
            known = self.known[row.pk]
            known.copies.add(row.message_id)
            known.doubts.update(row.recipients.values_list("address", flat=True))

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        ours = self.is_ours(claim)
        with self.moving_by():
            store.claims.renew([claim], clock=self.clock)
        assert self.is_ours(claim) is ours

    def overtake(self, claim: Claim, meanwhile: str) -> None:
        """What becomes of a claim before its worker comes back."""
        if meanwhile:
            self.crash(claim)
        if meanwhile == "being sent by another":
            self.succeed(claim)

    def succeed(self, claim: Claim) -> None:
        """The worst moment for a stale worker: another claim has the message (and will crash in its turn)."""
        row = OutboxMessage.objects.filter(pk=claim.id).first()
        if row is not None and row.status == "failed" and row.next_attempt_at is not None:
            self.now = max(self.now, row.next_attempt_at)
            with self.moving_by("retry"):
                store.operations.claim_one(row.pk, clock=self.clock, force=False)

    def is_ours(self, claim: Claim) -> bool:
        return OutboxMessage.objects.filter(pk=claim.id, status="sending", claim_token=claim.lease.token).exists()

    # People

    @rule(number=st.integers(0, 50))
    def cancel(self, number: int) -> None:
        row = self.pick(number)
        if row is not None:
            waiting = row.status in ("pending", "failed") and row.next_attempt_at is not None
            with self.moving_by("cancel"):
                assert store.operations.cancel([row.pk], clock=self.clock).changed == int(waiting)

    @rule(number=st.integers(0, 50), force=st.booleans())
    def requeue(self, number: int, force: bool) -> None:
        row = self.pick(number)
        if row is not None:
            may = row.status == "failed" or (force and row.status == "pending")
            with self.moving_by("requeue"):
                assert store.operations.requeue([row.pk], clock=self.clock, force=force).changed == int(may)

    @rule(target=claims, number=st.integers(0, 50), force=st.booleans())
    def retry(self, number: int, force: bool) -> Any:
        row = self.pick(number)
        if row is None:
            return multiple()
        try:
            with self.moving_by("retry"):
                return store.operations.claim_one(row.pk, clock=self.clock, force=force)
        except RetryRejected as refused:
            due_later = row.next_attempt_at is not None and row.next_attempt_at > self.now
            expected = "not_retriable" if row.status in ("sent", "sending") else "retry_not_due"
            assert refused.code == expected
            assert expected == "not_retriable" or (due_later and not force)
            return multiple()

    @rule(number=st.integers(0, 50))
    def confirm(self, number: int) -> None:
        row = self.pick(number)
        if row is not None:
            may = row.status == "failed" and row.attempts > row.retries
            if may:
                unknown = row.recipients.filter(result="unknown").values_list("address", flat=True)
                self.known[row.pk].vouched.update(unknown)
            with self.moving_by("confirm"):
                assert store.operations.confirm([row.pk], clock=self.clock).changed == int(may)

    @rule(days=st.sampled_from([0, 1]))
    def purge(self, days: int) -> None:
        kept = set(OutboxMessage.objects.exclude(next_attempt_at=None, status__in=("sent", "failed")).values_list("pk"))
        store.purge.purge(clock=self.clock, older_than=timedelta(days=days, seconds=1))
        left = set(OutboxMessage.objects.values_list("pk", flat=True))
        assert {pk for (pk,) in kept} <= left, "what may still be sent was deleted"
        for pk, known in self.known.items():
            known.purged = known.purged or pk not in left

    # What holds always

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = set(OutboxMessage.objects.values_list("pk", flat=True))
        assert rows == {pk for pk, known in self.known.items() if not known.purged}

    @invariant()
    def every_row_is_in_a_state_that_somebody_leaves(self) -> None:
        for row in OutboxMessage.objects.all():
            if row.status == "sending":
                assert row.claim_token and row.claim_expires_at, "no lease will ever run out"
            else:
                assert row.claim_expires_at is None, "leaving sending ends the lease"
            if row.status == "pending":
                assert row.next_attempt_at is not None, "pending and never due"
            if row.status == "sent":
                assert row.next_attempt_at is None and row.sent_at is not None
                assert row.provider_message_id, "sent, and nobody knows under which Message-ID"
                has_refused = row.recipients.filter(result="refused").exists()
                assert row.last_error_code == ("recipients_refused" if has_refused else ""), "an error that is over"
            if row.status == "failed" and row.next_attempt_at is None:
                assert row.last_error_code, "at rest without a reason"

    @invariant()
    def counters_never_go_back_and_a_fixed_number_stays(self) -> None:
        for row in OutboxMessage.objects.all():
            known = self.known[row.pk]
            assert row.retries >= known.retries and row.attempts >= known.attempts
            assert row.attempts >= row.retries
            assert known.number is None or row.message_number == known.number
            known.retries, known.attempts, known.number = row.retries, row.attempts, row.message_number

    @invariant()
    def every_possible_copy_has_one_message_id(self) -> None:
        for pk, known in self.known.items():
            assert len(known.copies) <= 1, f"message {pk}: {known.copies}"
            row = OutboxMessage.objects.filter(pk=pk).first()
            if row is not None and known.copies:
                assert {row.message_id} == known.copies, "the next attempt would bear another Message-ID"

    @invariant()
    def who_was_served_is_not_addressed_again_but_in_doubt(self) -> None:
        for pk, known in self.known.items():
            results = dict(Recipient.objects.filter(message_id=pk).values_list("address", "result"))
            status = OutboxMessage.objects.filter(pk=pk).values_list("status", flat=True).first()
            for address, count in known.taken.items():
                if count and address in results and status != "sent":
                    assert results[address] == "accepted", f"{address}: the acceptance was forgotten"
                if count and address in results and status == "sent":
                    assert results[address] in ("", "accepted", "refused" if known.doubts[address] else "")

    @invariant()
    def sent_means_that_nobody_was_left_out(self) -> None:
        for row in Recipient.objects.filter(message__status="sent").exclude(result="refused"):
            known = self.known[row.message_id]
            assert row.result != "unknown", f"{row.address} of a sent message is in doubt"
            assert row.address in known.taken or row.address in known.vouched, f"{row.address} was forgotten"

    @invariant()
    def attempts_are_numbered_without_a_gap(self) -> None:
        for pk in self.known:
            numbers = list(
                DeliveryAttempt.objects.filter(message_id=pk).order_by("pk").values_list("number", flat=True)
            )
            assert numbers == list(range(1, len(numbers) + 1))

    def send_everything(self) -> None:
        """As a drain does: claim until nothing is due, whatever stops a single claim."""
        clock = self.clock
        while claims := store.claims.claim(self.account.pk, limit=50, hold_limit=50, clock=clock).claims:
            fresh, old = store.claimed.split_expired(claims, clock=clock)
            store.recover.expire(old, clock=clock)
            said = [outcome(Ending.ACCEPTED, claim) for claim in fresh]
            group = [
                FinishedAttempt(claim, words, words.recipients, started_at=self.now, finished_at=self.now)
                for claim, words in zip(fresh, said, strict=True)
            ]
            store.finalize.finalize(group, clock=clock)
        due = OutboxMessage.objects.filter(status__in=("pending", "failed"), next_attempt_at__lte=self.now)
        assert not due.exists(), "due, and no claim finds it"

    def teardown(self) -> None:
        """All workers die and time passes: what waits is claimed, and everything comes to an end."""
        self.lose(OutboxMessage.objects.filter(status="sending"))
        for _ in range(4):
            self.now += LONG
            self.send_everything()
        for row in OutboxMessage.objects.all():
            assert row.status == "sent" or row.is_at_rest, f"{row.pk} is stuck as {row.status}"


@override_settings(PRX_EMAIL=MEMORY)
class Stateful(TransactionTestCase):
    """On a real database, with real transactions."""

    def test_no_order_of_steps_loses_or_copies_a_message(self) -> None:
        quick = hypothesis.settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            database=None,
            # Shrinking takes minutes on a real database; add Phase.shrink to find the cause of a failure.
            phases=(hypothesis.Phase.generate,),
        )
        hypothesis.stateful.run_state_machine_as_test(Outbox, settings=quick)


pytestmark = pytest.mark.timeout(900)
