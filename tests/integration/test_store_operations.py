"""cancel, requeue, retry and confirm: what a person asks for happens once, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django import store
from prx_email_django.errors import RetryRejected
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.conditions import IN_DOUBT, NEEDS_PERSON
from prx_email_django.models.managers import outbox_alias
from prx_email_django.results import ChangeReport
from prx_email_django.rules.outcomes import Answer, Ending
from prx_email_django.states import RecipientResult
from prx_email_django.status.facts import message_reason
from tests.support.factories import (
    MEMORY,
    NOW,
    SECOND,
    account,
    at,
    finish,
    fresh,
    lose,
    make_due,
    message,
    results,
    take_one,
)

pytestmark = pytest.mark.django_db

A, B, C = "a@x.org", "b@x.org", "c@x.org"


def pending(owner: Account) -> OutboxMessage:
    return message(owner)


def sending(owner: Account) -> OutboxMessage:
    row = message(owner)
    take_one(row)
    return row


def sent(owner: Account) -> OutboxMessage:
    row = message(owner)
    finish(take_one(row), Ending.ACCEPTED)
    return row


def deferred(owner: Account) -> OutboxMessage:
    row = message(owner)
    finish(take_one(row), Ending.TEMPORARY)
    return row


def at_rest(owner: Account) -> OutboxMessage:
    row = message(owner)
    finish(take_one(row), Ending.PERMANENT)
    return row


def in_doubt(owner: Account) -> OutboxMessage:
    row = message(owner)
    lose(take_one(row))
    return row


def nobody(owner: Account) -> OutboxMessage:
    return OutboxMessage(pk=10**9, account=owner)


Make = Callable[[Account], OutboxMessage]
REPORTS: list[tuple[str, bool, Make, str]] = [
    ("cancel", False, pending, ""),
    ("cancel", False, deferred, ""),
    ("cancel", False, in_doubt, ""),
    ("cancel", False, at_rest, "at_rest"),
    ("cancel", False, sending, "sending"),
    ("cancel", False, sent, "sent"),
    ("cancel", False, nobody, "not_found"),
    ("requeue", False, pending, "waiting"),
    ("requeue", True, pending, ""),
    ("requeue", False, deferred, ""),
    ("requeue", False, at_rest, ""),
    ("requeue", False, sending, "sending"),
    ("requeue", True, sending, "sending"),
    ("requeue", False, sent, "sent"),
    ("requeue", True, sent, "sent"),
    ("requeue", False, nobody, "not_found"),
    ("confirm", False, in_doubt, ""),
    ("confirm", False, pending, "not_unknown"),
    ("confirm", False, deferred, "not_unknown"),
    ("confirm", False, at_rest, "not_unknown"),
    ("confirm", False, sending, "sending"),
    ("confirm", False, sent, "sent"),
    ("confirm", False, nobody, "not_found"),
]


@pytest.mark.parametrize(("verb", "force", "make", "code"), REPORTS)
def test_a_verb_changes_what_it_may_and_refuses_the_rest(verb: str, force: bool, make: Make, code: str) -> None:
    row = make(account())
    options: dict[str, Any] = {"force": True} if force else {}
    before = OutboxMessage.objects.filter(pk=row.pk).values().first()
    report = getattr(prx, f"{verb}_outbox")([row.pk], now=NOW, **options)
    assert report == (ChangeReport(refused={code: 1}) if code else ChangeReport(changed=1))
    if code:
        assert OutboxMessage.objects.filter(pk=row.pk).values().first() == before


def test_one_call_reports_changed_and_refused_together() -> None:
    owner = account()
    rows = [at_rest(owner), sent(owner), deferred(owner)]
    rows.append(sending(owner))
    rows.append(pending(owner))
    report = prx.requeue_outbox([*[row.pk for row in rows], rows[0].pk, 10**9], now=NOW)
    assert report == ChangeReport(2, {"sent": 1, "sending": 1, "waiting": 1, "not_found": 1})


def test_rows_may_be_given_as_a_queryset_sliced_or_not_and_as_one_number() -> None:
    owner = account()
    rows = [at_rest(owner) for _ in range(3)]
    assert prx.requeue_outbox(OutboxMessage.objects.order_by("-pk")[:1], now=NOW).changed == 1
    assert fresh(rows[2]).next_attempt_at == NOW
    assert fresh(rows[0]).is_at_rest
    assert prx.cancel_outbox(rows[2].pk, now=NOW).changed == 1
    assert prx.requeue_outbox(OutboxMessage.objects.filter(account=owner), now=NOW).changed == 3
    assert prx.cancel_outbox((row.pk for row in rows), now=NOW).changed == 3


@pytest.mark.parametrize("verb", ["requeue", "cancel"])
def test_an_id_from_a_form_names_one_message_and_not_each_digits(verb: str) -> None:
    owner = account()
    rows = [at_rest(owner) if verb == "requeue" else pending(owner) for _ in range(12)]
    OutboxMessage.objects.filter(pk=rows[-1].pk).update(tag="asked for")
    untouched = list(OutboxMessage.objects.filter(tag="").order_by("pk").values())
    report = getattr(prx, f"{verb}_outbox")(str(rows[-1].pk), now=NOW)  # type: ignore[arg-type]
    assert report == ChangeReport(changed=1)
    assert list(OutboxMessage.objects.filter(tag="").order_by("pk").values()) == untouched


def test_a_message_itself_is_a_row_too() -> None:
    assert prx.cancel_outbox(pending(account()), now=NOW).changed == 1  # type: ignore[arg-type]


def test_more_than_one_batch_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = account()
    monkeypatch.setattr("prx_email_django.store.operations.BATCH", 2)
    rows = [pending(owner) for _ in range(5)]
    assert prx.cancel_outbox([row.pk for row in rows], now=NOW).changed == 5


# cancel


def test_a_cancelled_message_rests_and_goes_to_nobody_else() -> None:
    row = message(account(), to=[A, B])
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.DEFERRED})
    prx.cancel_outbox([row.pk], now=NOW)
    now = fresh(row)
    assert (now.is_at_rest, now.last_error_code) == (True, "cancelled")
    assert results(row) == {A: "accepted", B: ""}, "who was accepted stays so"


# requeue


def test_a_requeued_message_is_due_now_with_a_new_date_and_no_expiry() -> None:
    row = message(account(), expires_at=NOW + 30 * SECOND)
    finish(take_one(row), Ending.TEMPORARY)
    later = NOW + timedelta(days=9)
    prx.requeue_outbox([row.pk], now=later)
    now = fresh(row)
    assert (now.status, now.next_attempt_at, now.due_since, now.expires_at) == ("failed", later, later, None)
    assert (now.retries, now.attempts) == (1, 1), "a requeue is not an outcome"


def test_a_forced_requeue_leaves_a_pending_message_pending() -> None:
    row = message(account(), send_at=NOW + timedelta(days=1))
    prx.requeue_outbox([row.pk], now=NOW, force=True)
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("pending", NOW)


def test_requeue_reopens_who_was_refused_and_never_who_was_accepted() -> None:
    row = message(account(), to=[A, B, C])
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.REFUSED, C: Answer.DEFERRED})
    prx.cancel_outbox([row.pk], now=NOW)
    prx.requeue_outbox([row.pk], now=NOW)
    assert take_one(row).open_addresses == (B, C)


def test_requeue_of_a_waiting_message_does_not_reopen_who_was_refused() -> None:
    row = message(account(), to=[A, B, C])
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.REFUSED, C: Answer.DEFERRED})
    prx.requeue_outbox([row.pk], now=NOW)
    assert take_one(row).open_addresses == (C,)


# retry


def refusal(row_id: Any, **options: Any) -> str:
    with pytest.raises(RetryRejected) as refused:
        prx.retry_outbox(row_id, now=NOW, **options)
    return refused.value.code


def test_a_retry_is_refused_with_its_reason(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    owner = account()
    assert refusal(10**9) == "not_found"
    assert refusal("what no id can be") == "not_found"
    assert refusal(sent(owner).pk, force=True) == "not_retriable"
    assert refusal(deferred(owner).pk) == "retry_not_due"
    assert refusal(message(owner, send_at=NOW + SECOND).pk) == "retry_not_due"
    assert refusal(sending(owner).pk, force=True) == "not_retriable"


def test_a_retry_needs_no_force_for_a_message_at_rest(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    row = at_rest(account())
    result = prx.retry_outbox(row.pk, now=NOW)
    assert (result.status, result.provider_message_id) == ("sent", f"<outbox-{row.pk}-1@prx-email.local>")


@pytest.mark.parametrize("mode", [None, "network"])
def test_a_retry_of_an_id_from_a_form_leaves_nothing_sending(mode: str | None, settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    row = message(account())
    result = prx.retry_outbox(str(row.pk), now=NOW, failure_mode=mode)  # type: ignore[arg-type]
    assert result.status == fresh(row).status == ("failed" if mode else "sent")


def test_force_retries_before_it_is_due(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    assert prx.retry_outbox(deferred(account()).pk, now=NOW, force=True).status == "sent"


def test_a_retry_does_not_look_at_the_expiry(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    row = message(account(), expires_at=NOW + SECOND)
    assert prx.retry_outbox(row.pk, now=NOW + timedelta(days=30)).status == "sent"


def test_a_retry_of_a_message_at_rest_gives_it_a_new_date_and_reopens_it() -> None:
    row = message(account(), to=[A, B, C], expires_at=NOW + timedelta(days=1))
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.REFUSED, C: Answer.DEFERRED})
    store.operations.cancel([row.pk], clock=at())
    later = NOW + timedelta(hours=3)
    claim = store.operations.claim_one(row.pk, clock=at(later), force=False)
    assert claim.open_addresses == (B, C)
    assert (claim.message.due_since, claim.message.expires_at) == (later, None)


def test_a_retry_of_a_waiting_message_keeps_its_date_and_expiry() -> None:
    expires = NOW + timedelta(days=1)
    row = message(account(), to=[A, B], expires_at=expires)
    finish(take_one(row), Ending.TEMPORARY, {B: Answer.REFUSED})
    later = NOW + timedelta(hours=3)
    claim = store.operations.claim_one(row.pk, clock=at(later), force=False)
    assert (claim.open_addresses, claim.message.due_since, claim.message.expires_at) == ((A,), NOW, expires)


# confirm


def test_a_confirmed_message_is_sent_under_the_message_id_of_its_copy() -> None:
    row = in_doubt(account())
    prx.confirm_outbox([row.pk], now=NOW)
    now = fresh(row)
    assert (now.status, now.sent_at, now.next_attempt_at, now.last_error_code) == ("sent", NOW, None, "")
    assert now.provider_message_id == f"<outbox-{row.pk}-0@prx-email.local>"
    assert (now.retries, now.attempts) == (0, 1)
    assert now.confirmed_at == NOW


def test_a_servers_reply_to_one_recipient_does_not_hide_that_a_person_confirmed_the_other() -> None:
    """The page said that the server had accepted the message when the person pressed the button."""
    row = message(account(), to=[A, B], on_unknown="hold")
    finish(take_one(row), Ending.ACCEPTED, {B: Answer.DEFERRED}, response="250 queued as 1")
    prx.requeue_outbox([row.pk], now=NOW)
    finish(take_one(row), Ending.UNKNOWN)
    prx.confirm_outbox([row.pk], now=NOW)
    assert (fresh(row).status, fresh(row).provider_response) == ("sent", "250 queued as 1")
    assert message_reason(fresh(row), now=NOW).startswith("confirmed by a person")


def test_a_message_that_the_server_accepted_after_an_unknown_outcome_is_never_said_to_be_confirmed() -> None:
    row = in_doubt(account())
    prx.requeue_outbox([row.pk], now=NOW)
    finish(take_one(row), Ending.ACCEPTED, response="250 ok")
    OutboxMessage.objects.filter(pk=row.pk).update(provider_response="")
    assert message_reason(fresh(row), now=NOW).startswith("accepted by the server")


def test_confirming_one_recipient_does_not_lose_the_deferred_one() -> None:
    row = message(account(), to=[A, B], on_unknown="hold")
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    assert fresh(row).is_at_rest
    prx.confirm_outbox([row.pk], now=NOW)
    assert (fresh(row).status, fresh(row).next_attempt_at) == ("failed", NOW)
    assert take_one(row).open_addresses == (B,)


def test_a_confirmed_message_with_open_recipients_is_in_doubt_no_more() -> None:
    """It asked for a person again, and a retry warned of a second copy that nobody would receive."""
    row = message(account(), to=[A, B], on_unknown="hold")
    finish(take_one(row), Ending.UNKNOWN, {B: Answer.DEFERRED})
    prx.confirm_outbox([row.pk], now=NOW)
    now = fresh(row)
    assert not now.may_have_been_delivered
    assert (now.retries, now.attempts, now.last_error_code, now.last_error) == (1, 1, "", "")
    assert not OutboxMessage.objects.filter(IN_DOUBT, pk=row.pk).exists()
    assert prx.confirm_outbox([row.pk], now=NOW).refused == {"not_unknown": 1}
    assert take_one(row).message.message_id == f"<outbox-{row.pk}-0@prx-email.local>"


def test_a_confirmed_message_whose_recipients_are_all_refused_is_in_doubt_no_more() -> None:
    row = in_doubt(account())
    row.recipients.update(result=RecipientResult.REFUSED, code=550, text="no such user")
    prx.confirm_outbox([row.pk], now=NOW)
    now = fresh(row)
    assert now.is_at_rest
    assert not now.may_have_been_delivered
    assert (now.last_error_code, now.last_error) == ("recipients_refused", "550 no such user")


def test_a_confirmed_message_is_not_sent_again() -> None:
    row = in_doubt(account())
    prx.confirm_outbox([row.pk], now=NOW)
    assert prx.requeue_outbox([row.pk], now=NOW).refused == {"sent": 1}
    assert not store.due.first_claimable(row.account_id, clock=at(NOW + timedelta(days=1)))


def test_operations_commit_or_vanish_with_the_callers_transaction() -> None:
    owner = account()
    first, third, second = at_rest(owner), in_doubt(owner), pending(owner)
    second_before = fresh(second).status
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        prx.requeue_outbox([first.pk], now=NOW)
        prx.cancel_outbox([second.pk], now=NOW)
        prx.confirm_outbox([third.pk], now=NOW)
        assert fresh(third).status == "sent"
        raise ZeroDivisionError
    assert fresh(first).is_at_rest
    assert (fresh(second).status, fresh(third).status) == (second_before, "failed")


def test_an_operation_that_comes_too_late_by_a_moment_is_refused() -> None:
    """A worker claims between a person's click and the change: nothing is written over its claim."""
    row = deferred(account())
    make_due(row)
    claim = take_one(row)
    for verb in (prx.cancel_outbox, prx.requeue_outbox, prx.confirm_outbox):
        assert verb([row.pk], now=NOW).refused == {"sending": 1}
    assert fresh(row).claim_token == claim.lease.token


# dismiss


DISMISSALS: list[tuple[Make, str]] = [
    (at_rest, ""),
    (pending, "waiting"),
    (deferred, "waiting"),
    (sending, "sending"),
    (sent, "sent"),
    (nobody, "not_found"),
]


@pytest.mark.parametrize(("make", "code"), DISMISSALS)
def test_only_a_message_at_rest_is_dismissed(make: Make, code: str) -> None:
    row = make(account())
    needed = OutboxMessage.objects.filter(NEEDS_PERSON).exists()
    report = prx.dismiss_outbox([row.pk])
    assert report == (ChangeReport(refused={code: 1}) if code else ChangeReport(changed=1))
    assert needed == (not code)
    assert not OutboxMessage.objects.filter(NEEDS_PERSON).exists()


def test_who_needs_a_person_is_the_same_for_a_row_and_for_the_database() -> None:
    owner = account()
    rows = [at_rest(owner) for _ in range(4)]
    waiting = pending(owner)
    prx.cancel_outbox([waiting.pk], now=NOW)
    OutboxMessage.objects.filter(pk=rows[0].pk).update(last_error_code="adopted")
    OutboxMessage.objects.filter(pk=rows[1].pk).update(last_error_code="")
    prx.dismiss_outbox([rows[2].pk])
    everyone = list(OutboxMessage.objects.all())
    needing = set(OutboxMessage.objects.filter(NEEDS_PERSON))
    assert needing == {rows[1], rows[3]} == {row for row in everyone if row.needs_person}


@pytest.mark.parametrize("how", ["requeue", "retry", "written by hand"])
def test_a_dismissed_message_that_is_tried_again_needs_a_person_when_it_fails_again(how: str, settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY
    row = at_rest(account())
    prx.dismiss_outbox([row.pk])
    first = fresh(row).dismissed_at
    assert prx.dismiss_outbox([row.pk]).changed == 1
    assert fresh(row).dismissed_at == first is not None
    if how == "retry":
        prx.retry_outbox(row.pk, now=NOW, failure_mode=prx.FailureMode.PROVIDER_PERMANENT)
    else:
        if how == "requeue":
            prx.requeue_outbox([row.pk], now=NOW)
            assert fresh(row).dismissed_at is None
        else:
            make_due(row)
        finish(take_one(row), Ending.PERMANENT)
    assert fresh(row).is_at_rest
    assert fresh(row).needs_person


def test_a_confirmation_in_bulk_costs_a_statement_a_message() -> None:
    owner = account()
    rows = [in_doubt(owner) for _ in range(10)]
    with CaptureQueriesContext(connections[outbox_alias()]) as statements:
        assert prx.confirm_outbox([row.pk for row in rows], now=NOW).changed == 10
    assert len(statements) <= 10 + 9, [query["sql"] for query in statements.captured_queries]
    assert {fresh(row).status for row in rows} == {"sent"}
