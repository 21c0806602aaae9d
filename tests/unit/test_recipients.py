"""Recipients: forgetting an acceptance sends a second copy, forgetting a doubt hides one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from prx_email_django.rules import recipients
from prx_email_django.rules.outcomes import Answer, RecipientOutcome
from prx_email_django.rules.sent import message_id_number, refusal, sent_columns
from prx_email_django.states import RecipientResult, Status
from prx_email_django.store.claimed import ClaimedRecipient

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("answer", list(Answer))
def test_an_accepted_recipient_stays_accepted_whatever_is_said_later(answer: Answer) -> None:
    assert recipients.merge_result("accepted", RecipientOutcome(answer)) == RecipientResult.ACCEPTED


@pytest.mark.parametrize("answer", [Answer.DEFERRED, Answer.OPEN, Answer.TOO_MANY])
def test_doubt_about_a_recipient_is_not_forgotten_by_a_deferral(answer: Answer) -> None:
    assert recipients.merge_result("unknown", RecipientOutcome(answer)) == RecipientResult.UNKNOWN
    assert recipients.merge_result("", RecipientOutcome(answer)) == RecipientResult.IMPLIED


@pytest.mark.parametrize("before", list(RecipientResult))
def test_a_recipient_that_an_attempt_did_not_address_keeps_its_result(before: RecipientResult) -> None:
    assert recipients.merge_result(before, None) == before


@pytest.mark.parametrize("status", list(Status))
def test_nothing_stored_means_accepted_beside_a_sent_message_alone(status: Status) -> None:
    expected = RecipientResult.ACCEPTED if status == Status.SENT else RecipientResult.IMPLIED
    assert recipients.effective_result("", status) == expected
    for stored in ("accepted", "refused", "unknown"):
        assert recipients.effective_result(stored, status) == stored


def test_a_message_is_settled_only_when_no_recipient_is_open_or_in_doubt() -> None:
    assert recipients.is_settled(["accepted", "refused"])
    assert not recipients.is_settled(["accepted", ""])
    assert not recipients.is_settled(["accepted", "unknown"])
    assert recipients.settled_status(["refused", "accepted"]) == Status.SENT
    assert recipients.settled_status(["refused"]) == Status.FAILED


def recipient(result: str, code: int | None = None, text: str = "") -> ClaimedRecipient:
    return ClaimedRecipient(1, 1, "a@x.org", result, code, text)


def test_the_words_of_a_deferral_are_not_taken_for_a_refusal() -> None:
    rows = [recipient("accepted", 450, "later"), recipient("refused", 550, "no such user"), recipient("refused", 551)]
    assert refusal(rows) == ("recipients_refused", "550 no such user")
    assert refusal(rows[:1]) == ("", "")
    assert refusal([recipient("refused")]) == ("recipients_refused", ""), "written by hand"
    assert len(refusal([recipient("refused", 550, "x" * 255)])[1]) == 160


def test_a_sent_message_keeps_no_error_but_a_refusal() -> None:
    columns = sent_columns([recipient("")], number=0, message_id="<1>", now=NOW)
    assert (columns["last_error_code"], columns["last_error"]) == ("", "")
    assert {columns["next_attempt_at"], columns["claim_expires_at"]} == {None}


def test_the_number_of_a_message_id_stays_once_it_is_fixed() -> None:
    assert [message_id_number(None, retries) for retries in range(3)] == [0, 1, 2]
    assert [message_id_number(0, retries) for retries in range(3)] == [0, 0, 0]
