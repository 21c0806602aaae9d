"""A sent message looks the same whoever finds out that it is sent: a worker, a recovery, a late result, a person."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import cycle
from typing import Any

import pytest
from django.db import connections

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.models import Account, Content, DeliveryAttempt, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Answer, Ending, Phase
from prx_email_django.rules.sent import message_id_number, sent_columns
from prx_email_django.states import AttemptOutcome
from prx_email_django.store import sent_arrays, sent_group
from prx_email_django.store.attempts import FinishedAttempt, attempt_columns
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
    outcome,
    results,
    take,
    take_one,
)

#: Where ids jump ahead (``adopt``), MariaDB ends the transaction: these tests have none around them.
pytestmark = pytest.mark.django_db(transaction=True)

A, B, C = "a@x.org", "b@x.org", "c@x.org"
LATER = NOW + 90 * SECOND
Answers = dict[str, Answer]


def refused_before(row: OutboxMessage, answers: Answers) -> OutboxMessage:
    """Nothing is accepted yet; the refused recipients are known from a first attempt, the others are open."""
    if answers:
        finish(take_one(row), Ending.TEMPORARY, answers)
        make_due(row)
    return row


def accepted_late_while_another_sends(row: OutboxMessage, answers: Answers) -> store.claimed.Claim:
    stale = take_one(refused_before(row, answers))
    lose(stale)
    current = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    assert fresh(row).status == "sending"
    return current


# The ways in which a message becomes sent


def by_finalize_of_a_group(row: OutboxMessage, answers: Answers) -> None:
    finish(take_one(row), Ending.ACCEPTED, answers, now=LATER)


def by_finalize_after_an_earlier_refusal(row: OutboxMessage, answers: Answers) -> None:
    finish(take_one(refused_before(row, answers)), Ending.ACCEPTED, now=LATER)


def by_a_failure_after_a_late_acceptance(row: OutboxMessage, answers: Answers) -> None:
    finish(accepted_late_while_another_sends(row, answers), Ending.TEMPORARY, now=LATER)


def by_an_unknown_outcome_after_a_late_acceptance(row: OutboxMessage, answers: Answers) -> None:
    finish(accepted_late_while_another_sends(row, answers), Ending.UNKNOWN, now=LATER)


def by_a_late_acceptance(row: OutboxMessage, answers: Answers) -> None:
    stale = take_one(refused_before(row, answers))
    lose(stale)
    finish(stale, Ending.ACCEPTED, now=LATER)


def by_recovery(row: OutboxMessage, answers: Answers) -> None:
    lapse([accepted_late_while_another_sends(row, answers)])
    store.recover.recover(clock=at(LATER))


def by_adoption(row: OutboxMessage, answers: Answers) -> None:
    accepted_late_while_another_sends(row, answers)
    store.adopt.adopt("copy", clock=at(LATER))


def by_a_claim_with_nothing_left_to_send(row: OutboxMessage, answers: Answers) -> None:
    store.claims.release([accepted_late_while_another_sends(row, answers)])
    claim = store.operations.claim_one(row.pk, clock=at(), force=True)
    assert claim.open_addresses == ()
    store.finalize.settle(claim, clock=at(LATER))


def by_a_person_who_knows(row: OutboxMessage, answers: Answers) -> None:
    lose(take_one(refused_before(row, answers)))
    store.operations.confirm([row.pk], clock=at(LATER))


WAYS: list[Callable[[OutboxMessage, Answers], None]] = [
    by_finalize_of_a_group,
    by_finalize_after_an_earlier_refusal,
    by_a_failure_after_a_late_acceptance,
    by_an_unknown_outcome_after_a_late_acceptance,
    by_a_late_acceptance,
    by_recovery,
    by_adoption,
    by_a_claim_with_nothing_left_to_send,
    by_a_person_who_knows,
]


@pytest.mark.parametrize("is_refused", [False, True], ids=["all accepted", "one refused"])
@pytest.mark.parametrize("become_sent", WAYS, ids=lambda way: way.__name__)
def test_a_sent_message_shows_no_doubt_that_is_over_and_every_refusal(
    become_sent: Callable[[OutboxMessage, Answers], None], is_refused: bool
) -> None:
    row = message(account(), to=[A, B])
    become_sent(row, {B: Answer.REFUSED} if is_refused else {})
    now = fresh(row)
    error = ("recipients_refused", "550 no such user") if is_refused else ("", "")
    assert (now.last_error_code, now.last_error) == error
    assert (now.status, now.sent_at, now.updated_at) == ("sent", LATER, LATER)
    assert (now.next_attempt_at, now.claim_expires_at) == (None, None)
    first_number = int(is_refused and become_sent is not by_finalize_of_a_group)
    assert now.message_number == first_number
    assert now.provider_message_id == f"<outbox-{row.pk}-{first_number}@prx-email.local>"


def test_the_message_that_a_signal_brings_is_the_row_that_was_written() -> None:
    row = message(account(), to=[A, B])
    claim = take_one(row)
    recorded = finish(claim, Ending.ACCEPTED, now=LATER)
    written = fresh(row)
    for field in OutboxMessage._meta.concrete_fields:
        if field.attname != "claim_rank":  # generated by the database
            assert getattr(recorded.message, field.attname) == getattr(written, field.attname), field.attname


def test_a_refusal_is_forgotten_when_a_late_acceptance_reached_the_recipient() -> None:
    row = message(account(), to=[A, B])
    stale = take_one(row)
    lose(stale)
    finish(take_one(make_due(row)), Ending.ACCEPTED, {B: Answer.REFUSED})
    assert fresh(row).last_error_code == "recipients_refused"
    finish(stale, Ending.ACCEPTED, now=LATER)
    now = fresh(row)
    assert (now.last_error_code, now.last_error) == ("", "")
    assert now.sent_at == NOW, "it was sent before that"


def test_a_message_that_is_confirmed_for_some_keeps_the_message_id_of_its_copy() -> None:
    row = message(account(), to=[A, B], on_unknown="hold")
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    header = fresh(row).message_id
    store.operations.confirm([row.pk], clock=at())
    assert fresh(row).provider_message_id == header
    finish(take_one(row), Ending.TEMPORARY, {B: Answer.REFUSED})
    now = fresh(row)
    assert (now.status, now.provider_message_id, now.last_error_code) == ("sent", header, "recipients_refused")
    assert results(row) == {A: "accepted", B: "refused"}


# A result that comes late while another worker sends


def claimed_twice_with_a_failure_between(row: OutboxMessage) -> tuple[store.claimed.Claim, store.claimed.Claim]:
    """The status was written by hand while the first worker was sending: no outcome of its claim is known."""
    first = take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(status="failed", claim_expires_at=None)
    finish(take_one(row), Ending.TEMPORARY)
    return first, take_one(make_due(row))


@pytest.mark.parametrize("answer", [Answer.ACCEPTED, Answer.DEFERRED], ids=["sent", "partly sent"])
def test_the_message_id_of_the_first_acceptance_stays(answer: Answer) -> None:
    row = message(account(), to=[A, B, C])
    first, second = claimed_twice_with_a_failure_between(row)
    finish(first, Ending.ACCEPTED, {B: Answer.DEFERRED, C: Answer.DEFERRED})
    finish(second, Ending.ACCEPTED, {A: Answer.DEFERRED, B: answer, C: Answer.REFUSED})
    now = fresh(row)
    assert now.message_number == 0
    assert now.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    second_attempt = row.delivery_attempts.order_by("-pk")[0]
    assert second_attempt.header_message_id == f"<outbox-{row.pk}-1@prx-email.local>", "what was sent is what is kept"


def test_a_known_failure_does_not_undo_the_doubt_of_a_late_result() -> None:
    row = message(account(), to=[A])
    first, second = claimed_twice_with_a_failure_between(row)
    finish(first, Ending.UNKNOWN)
    assert (fresh(row).attempts, fresh(row).message_number) == (2, 0)
    finish(second, Ending.TEMPORARY)
    now = fresh(row)
    assert (now.retries, now.attempts, now.message_number) == (2, 3, 0)
    assert now.may_have_been_delivered


# The SQL of the group


def by_case(group: Sequence[FinishedAttempt], *, now: datetime) -> object:
    attempts = [attempt_columns(finished, AttemptOutcome.SENT) for finished in group]
    return sent_group._mark_sent(attempts, [finished.outcome.response for finished in group], now=now)


#: The statements that this database runs.
STATEMENTS: dict[str, Callable[..., object]] = {"by case": by_case}
if connections[outbox_alias()].vendor == "postgresql":
    STATEMENTS["by arrays"] = sent_arrays.in_one_statement


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_the_groups_sql_writes_what_the_rule_says(statement: Callable[..., object]) -> None:
    """The hot write is SQL by hand: a column that it forgets would differ from that of every other way."""
    owner = account()
    for fields in (
        {},
        {"retries": 3, "attempts": 3, "last_error": "450 busy", "last_error_code": "provider"},
        {"retries": 3, "attempts": 4, "message_number": 1, "last_error_code": "unknown_outcome"},
        {"message_number": 0, "provider_message_id": "<first@x.org>", "provider_response": "250 first"},
        {"fixed_message_id": "<caller@x.org>"},
    ):
        OutboxMessage.objects.filter(pk=message(owner).pk).update(**fields)
    claims = take(owner)
    columns = {field.attname for field in OutboxMessage._meta.concrete_fields} - {"claim_rank"}
    expected = {}
    for row in OutboxMessage.objects.all():
        before = {column: getattr(row, column) for column in columns}
        number = message_id_number(row.message_number, row.retries)
        expected[row.pk] = before | {"provider_response": f"250 as {row.pk}"}
        expected[row.pk] |= sent_columns((), number=number, message_id=row.message_id, now=LATER)
    outcomes = [outcome(Ending.ACCEPTED, claim, response=f"250 as {claim.id}") for claim in claims]
    group = [
        FinishedAttempt(claim, said, {}, started_at=NOW, finished_at=LATER)
        for claim, said in zip(claims, outcomes, strict=True)
    ]
    statement(group, now=LATER)
    assert {row["id"]: row for row in OutboxMessage.objects.values(*columns)} == expected


#: What a server may say to a message: nothing, what separates texts in a statement, what not every database can hold.
WORDS = ["250 ok", "250 ok", "", "\x1f", "a\x1f\x1eb", "\x1e\x1f", "{1,NULL}", "'\\", "é", "x" * 200]


@pytest.mark.parametrize("size", [1, 2, 16])
def test_the_attempts_of_a_group_are_written_as_each_of_them_is(size: int) -> None:
    """Columns with one value for all, texts that share a parameter, instants after the first: nothing may shift."""
    owner, chance, words = account(), random.Random(size), cycle(WORDS)
    for _ in range(len(WORDS)):
        for _ in range(size):
            message(owner)
        claims = take(owner, limit=size)
        group = []
        for claim in claims:
            claim.number = chance.choice([1, 1, 2])
            said = outcome(Ending.ACCEPTED, claim, response=next(words), peer=chance.choice(["a", "a", "b"]))
            said.phase, said.smtp_code = chance.choice(list(Phase)), chance.choice([250, 250, 251, 0])
            said.enhanced = chance.choice(["2.0.0", "2.0.0", "", "2.1.5"])
            started = NOW + timedelta(microseconds=chance.randint(-(10**12), 10**12))
            finished = started + timedelta(microseconds=chance.randint(0, 10**7))
            group.append(FinishedAttempt(claim, said, said.recipients, started, finished))
        assert sent_group.record_sent(group, now=LATER) == {claim.id for claim in claims}
        for finished in group:
            expected = attempt_columns(finished, AttemptOutcome.SENT)
            (written,) = DeliveryAttempt.objects.filter(message_id=finished.claim.id).values(*expected)
            assert written == expected
            assert fresh(finished.claim).provider_response == finished.outcome.response[:160]


def test_one_lost_claim_of_several_keeps_no_other_from_being_recorded() -> None:
    """A group holds the messages of several claims; each is fenced by its own token."""
    owner = account()
    claims = []
    for _ in range(3):
        message(owner)
        claims += take(owner, limit=1)
    assert len({claim.lease.token for claim in claims}) == 3
    OutboxMessage.objects.filter(pk=claims[1].id).update(claim_token=claims[0].lease.token)
    said = [outcome(Ending.ACCEPTED, claim) for claim in claims]
    group = [
        FinishedAttempt(claim, words, words.recipients, started_at=NOW, finished_at=NOW)
        for claim, words in zip(claims, said, strict=True)
    ]
    recorded = store.finalize.finalize(group, clock=at())
    assert {attempt.message.pk for attempt in recorded if not attempt.late} == {claims[0].id, claims[2].id}
    assert [(claim.message.pk, fresh(claim).status) for claim in claims if fresh(claim).status == "sent"] == [
        (claims[0].id, "sent"),
        (claims[2].id, "sent"),
    ]


def test_a_message_that_is_twice_in_a_group_has_both_attempts() -> None:
    """Its worker lost the claim, claimed it again, and both transmissions were accepted."""
    row = message(account())
    stale = take_one(row)
    lose(stale)
    claims = [stale, take_one(make_due(row)), take_one(message(row.account))]
    said = [outcome(Ending.ACCEPTED, claim) for claim in claims]
    group = [
        FinishedAttempt(claim, words, words.recipients, started_at=NOW, finished_at=NOW)
        for claim, words in zip(claims, said, strict=True)
    ]
    if sent_group.takes_all_claims():
        # Not of both claims: which of the two was recorded is for the caller to see.
        assert sent_group.record_sent(group, now=NOW) == {claims[2].id}
    recorded = store.finalize.finalize(group, clock=at())
    assert [attempt.message.pk for attempt in recorded if attempt.late] == [row.pk]
    attempts = DeliveryAttempt.objects.filter(message=row).order_by("number")
    tokens = [claim.lease.token for claim in claims[:2]]
    assert list(attempts.values_list("claim_token", "outcome")) == [(token, "sent") for token in tokens]
    assert fresh(stale).status == fresh(claims[2]).status == "sent"


# Sensitive content


def sensitive(owner: Account, **fields: Any) -> OutboxMessage:
    file = prx.AttachmentInput("code.txt", "text/plain", content=b"one-time code 4711")
    return message(owner, to=[A, B], is_sensitive=True, attachment=file, headers={"X-Code": "4711"}, **fields)


@pytest.mark.parametrize("become_sent", WAYS, ids=lambda way: way.__name__)
def test_the_content_of_a_sensitive_message_is_gone_as_soon_as_it_is_sent(
    become_sent: Callable[[OutboxMessage, Answers], None],
) -> None:
    owner = account()
    row, other = sensitive(owner, body_html="<p>4711</p>"), sensitive(owner)
    OutboxMessage.objects.filter(pk=other.pk).update(status="failed", next_attempt_at=None)
    become_sent(row, {})
    now = fresh(row)
    assert (now.status, now.subject, now.to) == ("sent", "Hello", [A, B])
    assert (now.body_text, now.body_html, now.headers, now.size, now.raw) == ("", "", {}, 0, None)
    assert row.attachments.get().content_id is None
    assert other.attachments.get().open().read() == b"one-time code 4711", "the content of another message stays"
    assert Content.objects.count() == 1


def test_sensitive_content_is_not_shared_and_other_content_is() -> None:
    owner = account()
    plain = {"to": A, "attachment": prx.AttachmentInput("code.txt", "text/plain", content=b"one-time code 4711")}
    # In real time: only a recent copy is shared.
    rows = [message(owner, now=None, is_sensitive=sensitive, **plain) for sensitive in (False, False, True, True)]
    assert len({row.attachments.get().content_id for row in rows}) == 3


def test_sensitive_content_stays_while_a_recipient_is_left() -> None:
    row = sensitive(account())
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.DEFERRED})
    assert fresh(row).body_text == "Hi Ann."
    finish(take_one(make_due(row)), Ending.ACCEPTED)
    assert (fresh(row).status, fresh(row).body_text) == ("sent", "")
