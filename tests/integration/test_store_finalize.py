"""finalize: the server's answer is kept for every recipient, and only the worker that has the claim decides."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from prx_email_django import store
from prx_email_django.models import DeliveryAttempt, OutboxMessage, RefusedMessage
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.store.attempts import FinishedAttempt
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

pytestmark = pytest.mark.django_db

A, B, C = "a@x.org", "b@x.org", "c@x.org"


def test_an_accepted_message_is_sent_with_its_message_id_and_the_servers_words() -> None:
    row = message(account())
    recorded = finish(take_one(row), Ending.ACCEPTED, response="250 2.0.0 queued as 77")
    now = fresh(row)
    assert recorded.status == now.status == "sent"
    assert (now.sent_at, now.next_attempt_at, now.claim_expires_at) == (NOW, None, None)
    assert (now.retries, now.attempts, now.message_number) == (0, 0, 0)
    assert now.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    assert now.provider_response == "250 2.0.0 queued as 77"
    attempt = DeliveryAttempt.objects.get()
    assert (attempt.number, attempt.outcome) == (1, "sent")
    assert attempt.header_message_id == now.provider_message_id


def test_a_success_clears_the_last_error_and_adds_to_no_counter() -> None:
    row = message(account())
    finish(take_one(row), Ending.TEMPORARY)
    finish(take_one(make_due(row)), Ending.ACCEPTED)
    now = fresh(row)
    assert (now.status, now.retries, now.attempts, now.last_error, now.last_error_code) == ("sent", 1, 1, "", "")
    assert now.provider_message_id == f"<outbox-{row.pk}-1@prx-email.local>"
    assert list(DeliveryAttempt.objects.values_list("number", "outcome")) == [(1, "failed"), (2, "sent")]


def test_a_known_failure_waits_and_a_permanent_one_rests() -> None:
    owner = account()
    first, second = message(owner), message(owner)
    first_claim, second_claim = take(owner)
    finish(first_claim, Ending.TEMPORARY)
    finish(second_claim, Ending.PERMANENT)
    assert (fresh(first).status, fresh(first).next_attempt_at) == ("failed", NOW + 10 * SECOND)
    assert fresh(second).is_at_rest
    assert {row.claim_expires_at for row in OutboxMessage.objects.all()} == {None}


def test_a_stale_worker_cannot_overwrite_its_successor() -> None:
    row = message(account())
    stale = take_one(row)
    lose(stale)
    current = take_one(make_due(row))
    before = OutboxMessage.objects.filter(pk=row.pk).values().get()
    for ending in (Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN):
        assert finish(stale, ending).late
    after = OutboxMessage.objects.filter(pk=row.pk).values().get()
    assert {**before, "updated_at": None} == {**after, "updated_at": None}
    assert fresh(row).claim_token == current.lease.token


@pytest.mark.parametrize("ending", [Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN])
def test_a_result_that_was_recorded_before_is_not_recorded_again(ending: Ending) -> None:
    """The commit took effect, its answer was lost, and the worker tries again."""
    claim = take_one(row := message(account()))
    first = finish(claim, ending)
    before = OutboxMessage.objects.filter(pk=row.pk).values().get()
    again = finish(claim, ending)
    assert not again.late
    assert (again.status, again.next_attempt_at, again.error_code) == (
        first.status,
        first.next_attempt_at,
        first.error_code,
    )
    after = OutboxMessage.objects.filter(pk=row.pk).values().get()
    assert before == after
    assert DeliveryAttempt.objects.count() == 1


def test_a_group_of_several_claims_is_recorded_each_under_its_own_token() -> None:
    owner = account()
    rows = [message(owner) for _ in range(6)]
    claims = [*take(owner, limit=2), *take(owner, limit=2), *take(owner, limit=2)]
    lapse(claims[2:3])
    store.recover.recover(clock=at())
    said = {claim.id: outcome(Ending.ACCEPTED, claim, response=f"250 as {claim.id}") for claim in claims}
    group = [
        FinishedAttempt(claim, said[claim.id], said[claim.id].recipients, started_at=NOW, finished_at=NOW)
        for claim in claims
    ]
    recorded = store.finalize.finalize(group, clock=at())
    assert {attempt.message.pk: attempt.late for attempt in recorded} == {row.pk: row.pk == rows[2].pk for row in rows}
    assert all(fresh(row).status == "sent" for row in rows)
    assert [fresh(row).provider_response for row in rows] == [f"250 as {row.pk}" for row in rows]
    assert DeliveryAttempt.objects.count() == 6


def test_a_row_taken_from_a_group_is_not_marked_sent_by_it() -> None:
    """Guarded by id alone, the statement of the group would overwrite the new claim."""
    owner = account()
    first, second = message(owner, to=[A, B]), message(owner)
    stale = take(owner)
    lapse(stale[:1])
    store.recover.recover(clock=at())
    again = take_one(make_due(first))
    said = [outcome(Ending.ACCEPTED, claim) for claim in stale]
    group = [
        FinishedAttempt(claim, words, words.recipients, started_at=NOW, finished_at=NOW)
        for claim, words in zip(stale, said, strict=True)
    ]
    store.finalize.finalize(group, clock=at())
    assert (fresh(first).status, fresh(first).claim_token) == ("sending", again.lease.token)
    assert fresh(second).status == "sent"


# Recipients


def test_the_common_case_writes_no_recipient() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.ACCEPTED)
    assert results(row) == {A: "", B: ""}


def test_accepted_refused_and_deferred_recipients_are_not_confused() -> None:
    row = message(account(), to=[A, B, C])
    recorded = finish(take_one(row), Ending.ACCEPTED, {B: Answer.REFUSED, C: Answer.DEFERRED})
    now = fresh(row)
    assert results(row) == {A: "accepted", B: "refused", C: ""}
    assert (now.status, now.retries, now.message_number) == ("failed", 1, 0)
    assert now.next_attempt_at == NOW + 10 * SECOND
    assert recorded.refused == {B: "550 no such user"}
    assert now.refused_recipients == {B: {"code": 550, "text": "no such user"}}
    assert row.recipients.get(address=C).code == 450


def test_an_accepted_recipient_is_never_addressed_again_and_the_rest_stays_in_the_thread() -> None:
    row = message(account(), to=[A, B, C])
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.REFUSED, C: Answer.DEFERRED})
    again = take_one(make_due(row))
    assert again.open_addresses == (C,)
    assert again.message.message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    finish(again, Ending.ACCEPTED)
    assert fresh(row).status == "sent"
    assert results(row) == {A: "accepted", B: "refused", C: ""}
    assert fresh(row).provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"


def test_the_last_answer_of_a_recipient_is_the_acceptance_not_the_deferral_before_it() -> None:
    row = message(account(), to=[A])
    finish(take_one(row), Ending.TEMPORARY, {A: Answer.DEFERRED})
    assert row.recipients.get().code == 450
    finish(take_one(make_due(row)), Ending.ACCEPTED)
    last = row.recipients.get()
    assert (fresh(row).status, last.result, last.code, last.text) == ("sent", "", 250, "ok")


def test_all_refused_rests_as_failed() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.TEMPORARY, {A: Answer.REFUSED, B: Answer.REFUSED})
    assert fresh(row).is_at_rest


def test_the_last_open_one_refused_makes_it_sent() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.DEFERRED})
    finish(take_one(make_due(row)), Ending.TEMPORARY, {B: Answer.REFUSED})
    assert fresh(row).status == "sent"
    assert results(row) == {A: "accepted", B: "refused"}


def test_a_permanent_refusal_of_the_body_leaves_the_recipients_open() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.PERMANENT, smtp_code=554)
    assert fresh(row).is_at_rest
    assert results(row) == {A: "", B: ""}


def test_an_unknown_outcome_is_written_for_the_recipients_in_doubt_and_keeps_the_message_id() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    now = fresh(row)
    assert results(row) == {A: "unknown", B: ""}
    assert (now.retries, now.attempts, now.message_number, now.last_error_code) == (0, 1, 0, "unknown_outcome")
    assert now.may_have_been_delivered
    again = take_one(make_due(row))
    assert again.open_addresses == (A, B), "a due retry takes the open and the unknown ones"
    finish(again, Ending.TEMPORARY)
    assert fresh(row).message_id == f"<outbox-{row.pk}-0@prx-email.local>"


def test_hold_holds_the_whole_row() -> None:
    row = message(account(), to=[A, B], on_unknown="hold")
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    assert fresh(row).is_at_rest


def test_too_many_recipients_goes_on_at_once_without_a_failure() -> None:
    row = message(account(), to=[A, B, C])
    recorded = finish(take_one(row), Ending.ACCEPTED, {B: Answer.TOO_MANY, C: Answer.TOO_MANY})
    now = fresh(row)
    assert recorded.progress
    assert (now.status, now.next_attempt_at, now.last_error_code) == ("failed", NOW, "")
    assert (now.retries, now.attempts) == (0, 0)
    again = take_one(row)
    assert (again.open_addresses, again.message.message_id) == ((B, C), f"<outbox-{row.pk}-0@prx-email.local>")
    finish(again, Ending.ACCEPTED)
    assert fresh(row).status == "sent"
    assert list(DeliveryAttempt.objects.values_list("number", flat=True)) == [1, 2]


def test_a_refusal_by_an_earlier_attempt_is_still_shown_when_the_message_is_sent() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.TEMPORARY, {A: Answer.DEFERRED, B: Answer.REFUSED})
    finish(take_one(make_due(row)), Ending.ACCEPTED)
    assert (fresh(row).status, fresh(row).last_error_code) == ("sent", "recipients_refused")


def test_the_server_text_that_is_kept_is_bounded() -> None:
    row = message(account())
    finish(take_one(row), Ending.TEMPORARY, error="x" * 500)
    assert len(fresh(row).last_error) == 160
    finish(take_one(make_due(row)), Ending.ACCEPTED, response="y" * 500)
    assert len(fresh(row).provider_response) == 160


def test_max_retries_rests_when_retries_reach_it(settings: object) -> None:
    settings.PRX_EMAIL = {"MAX_RETRIES": 2}  # type: ignore[attr-defined]
    row = message(account())
    finish(take_one(row), Ending.TEMPORARY)
    assert fresh(row).next_attempt_at is not None
    finish(take_one(make_due(row)), Ending.TEMPORARY)
    assert (fresh(row).retries, fresh(row).next_attempt_at) == (2, None)


# Late results


def test_a_late_acceptance_is_not_thrown_away() -> None:
    row = message(account())
    claim = take_one(row)
    lose(claim)
    assert (fresh(row).last_error_code, results(row)) == ("lost_claim", {"ann@example.org": "unknown"})
    recorded = finish(claim, Ending.ACCEPTED, response="250 late")
    now = fresh(row)
    assert recorded.late and recorded.status == "sent"
    assert (now.status, now.next_attempt_at, now.last_error_code) == ("sent", None, "")
    assert now.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    assert now.provider_response == "250 late"
    attempt = DeliveryAttempt.objects.get()
    assert (attempt.number, attempt.outcome) == (1, "sent"), "the lost attempt's row takes the outcome"
    assert (now.retries, now.attempts) == (0, 1), "counters never go back"


def test_a_late_partial_acceptance_does_not_lose_the_deferred_recipient() -> None:
    """Tried: "the row becomes sent" lost the recipient that the server had deferred."""
    row = message(account(), to=[A, B])
    claim = take_one(row)
    lose(claim)
    finish(claim, Ending.ACCEPTED, {B: Answer.DEFERRED})
    now = fresh(row)
    assert (now.status, results(row)[A]) == ("failed", "accepted")
    assert now.next_attempt_at is not None
    again = take_one(make_due(row))
    assert again.open_addresses == (B,)
    finish(again, Ending.ACCEPTED)
    assert fresh(row).status == "sent"


def test_a_late_acceptance_leaves_who_is_sending_now_to_decide() -> None:
    row = message(account(), to=[A, B])
    stale = take_one(row)
    lose(stale)
    current = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED, {B: Answer.DEFERRED})
    now = fresh(row)
    assert (now.status, now.claim_token) == ("sending", current.lease.token)
    assert results(row) == {A: "accepted", B: "unknown"}
    finish(current, Ending.TEMPORARY)
    assert fresh(row).status == "failed"
    assert results(row)[A] == "accepted", "what is known of a recipient survives the other's failure"
    assert take_one(make_due(row)).open_addresses == (B,)


def test_a_message_accepted_late_for_all_is_sent_when_its_second_attempt_fails() -> None:
    row = message(account())
    stale = take_one(row)
    lose(stale)
    current = take_one(make_due(row))
    finish(stale, Ending.ACCEPTED)
    finish(current, Ending.TEMPORARY)
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("sent", None)


@pytest.mark.parametrize("verb", ["cancel", "requeue"])
def test_a_late_acceptance_counts_whatever_a_person_did_meanwhile(verb: str) -> None:
    row = message(account())
    claim = take_one(row)
    lose(claim)
    getattr(store.operations, verb)([row.pk], clock=at())
    finish(claim, Ending.ACCEPTED)
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("sent", None)


@pytest.mark.parametrize("ending", [Ending.TEMPORARY, Ending.PERMANENT])
def test_a_late_failure_is_recorded_but_moves_nothing(ending: Ending) -> None:
    row = message(account())
    claim = take_one(row)
    lose(claim)
    before = fresh(row)
    finish(claim, ending, smtp_code=451)
    now = fresh(row)
    assert (now.status, now.next_attempt_at, now.attempts) == (before.status, before.next_attempt_at, before.attempts)
    assert DeliveryAttempt.objects.get().outcome == "failed"


def test_a_late_result_of_a_purged_message_harms_nobody() -> None:
    row = message(account())
    claim = take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).delete()
    assert finish(claim, Ending.ACCEPTED).late


def test_a_late_acceptance_fixes_the_message_id_of_what_follows() -> None:
    """Somebody wrote the status by hand while it was on its way: the copy that was accepted has a number."""
    row = message(account(), to=[A, B])
    claim = take_one(row)
    OutboxMessage.objects.filter(pk=row.pk).update(status="failed", claim_expires_at=None)
    current = take_one(row)
    finish(current, Ending.TEMPORARY)
    finish(claim, Ending.ACCEPTED, {B: Answer.DEFERRED})
    again = take_one(make_due(row))
    assert again.message.message_id == f"<outbox-{row.pk}-0@prx-email.local>"


def test_one_attempt_is_one_row_numbered_from_one() -> None:
    row = message(account())
    lose(take_one(row))
    finish(take_one(make_due(row)), Ending.TEMPORARY)
    store.claims.release([take_one(make_due(row))])
    finish(take_one(make_due(row)), Ending.UNKNOWN)
    finish(take_one(make_due(row)), Ending.ACCEPTED)
    attempts = list(DeliveryAttempt.objects.order_by("number").values_list("number", "outcome"))
    assert attempts == [(1, "lost"), (2, "failed"), (3, "unknown"), (4, "sent")]
    headers = set(DeliveryAttempt.objects.values_list("header_message_id", flat=True))
    assert headers == {f"<outbox-{row.pk}-0@prx-email.local>"}


def test_finished_instants_are_the_given_now() -> None:
    row = message(account())
    later = NOW + timedelta(minutes=3)
    finish(take_one(row, now=later), Ending.ACCEPTED, now=later)
    assert fresh(row).sent_at == later


def test_a_late_success_of_a_message_that_was_confirmed_meanwhile_is_one_attempt_not_two() -> None:
    owner = account()
    lost, kept = message(owner, priority=1), message(owner)
    claims = take(owner)
    lose(claims[0])
    assert store.operations.confirm([lost.pk], clock=at()).changed == 1
    said = [outcome(Ending.ACCEPTED, claim) for claim in claims]
    group = [
        FinishedAttempt(claim, words, words.recipients, started_at=NOW, finished_at=NOW)
        for claim, words in zip(claims, said, strict=True)
    ]
    recorded = {attempt.message.pk: attempt for attempt in store.finalize.finalize(group, clock=at())}
    assert recorded[lost.pk].late
    assert list(DeliveryAttempt.objects.filter(message=lost).values_list("outcome", flat=True)) == ["sent"]
    assert fresh(kept).status == "sent"


def set_pending(row: OutboxMessage) -> None:
    """Somebody writes the row by hand."""
    OutboxMessage.objects.filter(pk=row.pk).update(status="pending", next_attempt_at=NOW, claim_expires_at=None)


@pytest.mark.parametrize("ending", [Ending.ACCEPTED, Ending.TEMPORARY, Ending.PERMANENT, Ending.UNKNOWN])
@pytest.mark.parametrize("order", ["claimed, late", "late, claimed", "claimed, claimed, late, late", "late, released"])
def test_attempts_are_numbered_without_gaps_whoever_wrote_the_row(ending: Ending, order: str) -> None:
    row = message(account(), to=["a@x.org", "b@x.org"])
    claims = [take_one(row)]
    some = {"b@x.org": Answer.DEFERRED} if ending is Ending.ACCEPTED else {}
    for step in order.split(", "):
        if step == "claimed":
            set_pending(row)
            claims.append(take_one(row))
        elif step == "released":
            set_pending(row)
            store.claims.release([take_one(row)])
            claims.append(take_one(make_due(row)))
        else:
            set_pending(row) if len(claims) == 1 else None
            finish(claims.pop(0), ending, some)
    assert len(claims) == 1
    finish(claims[0], Ending.ACCEPTED)
    numbers = list(DeliveryAttempt.objects.order_by("number").values_list("number", flat=True))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 1


@pytest.mark.parametrize("ending", [Ending.ACCEPTED, Ending.TEMPORARY, Ending.UNKNOWN])
@pytest.mark.parametrize("end", ["release", "release_lease", "expire", "settle"])
def test_a_claim_that_ends_without_an_attempt_leaves_no_gap_to_a_late_result(end: str, ending: Ending) -> None:
    """The second worker has the number 1, so the result of the first one, ended by hand, is number 2."""
    row, other = message(account(), to=["a@x.org", "b@x.org"]), message(account(name="other"))
    first = take_one(row)
    set_pending(row)
    second = take_one(row)
    finish(first, ending)
    finish(take_one(other), Ending.ACCEPTED)
    assert list(DeliveryAttempt.objects.filter(message=row).values_list("number", flat=True)) == [2]
    ends = {
        "release": lambda: store.claims.release([second]),
        "release_lease": lambda: store.lease.release_lease(second.lease),
        "expire": lambda: store.recover.expire([second], clock=at()),
        "settle": lambda: store.finalize.settle(second, clock=at()),
    }
    ends[end]()
    assert list(DeliveryAttempt.objects.values_list("message", "number")) == [(row.pk, 1), (other.pk, 1)]


def test_a_sent_message_has_no_recipient_in_doubt_whatever_came_late_while_it_was_being_sent() -> None:
    """Somebody wrote the row by hand, so two workers sent it, and the first one lost its connection in the body."""
    row = message(account(), to=["a@x.org", "b@x.org"])
    first = take_one(row)
    set_pending(row)
    second = take_one(row)
    finish(first, Ending.UNKNOWN)
    assert not finish(second, Ending.ACCEPTED).late
    assert fresh(row).status == "sent"
    assert set(results(row).values()) == {""}


@pytest.mark.parametrize("result", ["unknown", "late and unknown", "refused, because of the account"])
def test_no_statement_has_more_parameters_than_databases_take_whatever_the_number_of_recipients(result: str) -> None:
    """SQLite takes 32 766, and refuses more as an ``OperationalError``: the worker would wait for the database."""
    row = message(account(), bcc=[f"guest{number}@example.org" for number in range(33_000)])
    counts: list[int] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        counts.append(len(params or ()))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        claim = take_one(row)
        if result == "late and unknown":
            set_pending(row)
        finish(claim, Ending.UNKNOWN)
        if result == "refused, because of the account":
            row.recipients.update(result="refused")
            OutboxMessage.objects.update(retries=1, last_error_code="provider")
            keys = list(row.recipients.values_list("pk", flat=True))
            noted = RefusedMessage.objects.create(
                account=row.account, message=row, key="k", refused_at=NOW, recipients=keys
            )
            store.reinstate.reinstate([noted], clock=at())
    assert max(counts) <= 32_766
    assert set(results(row).values()) == {"" if result == "refused, because of the account" else "unknown"}
