"""Refusals in a row: what a suspended account has in common, and what a list of dead addresses has not."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome, Trouble
from prx_email_django.rules.rates import next_wait
from prx_email_django.rules.refusals import (
    Refusal,
    RefusalRow,
    Traits,
    masked,
    refusal_of,
    speaks_of_recipient,
    unlikeness,
)
from prx_email_django.status.failures import fold


def refused(
    text: str, *, phase: Phase = Phase.BODY, to: tuple[str, ...] = ("ann@a.example",), **fields: Any
) -> Outcome:
    """A message refused with this reply, at RCPT for all its recipients."""
    code, _, words = text.partition(" ")
    enhanced = words.split()[0] if words[:1].isdigit() else ""
    answer = RecipientOutcome(Answer.REFUSED, int(code), enhanced, words)
    recipients = dict.fromkeys(to, answer if phase is Phase.RCPT else RecipientOutcome(Answer.OPEN))
    ending = Ending.PERMANENT if code.startswith("5") else Ending.TEMPORARY
    return Outcome(
        ending,
        recipients=recipients,
        phase=phase,
        smtp_code=int(code),
        enhanced=enhanced,
        error=text,
        mail_written=True,
        **fields,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("554 5.7.1 <ann@a.example>: rejected", "554 5.7.1 <bob@b.example>: rejected"),
        ("554 rejected 4f3a-9 from 192.0.2.7", "554 rejected 77c0-1 from 198.51.100.23"),
        ("550 no relay for mx1.a.example", "550 no relay for b.example"),
        ("550 Sender ann@a.example blocked", "550 Sender bob@b.example blocked"),
        ("450 try again in 299 seconds", "450 try again in 12 seconds"),
        ("554 Rejected", "554 rejected"),
    ],
)
def test_what_differs_from_message_to_message_makes_no_other_refusal(one: str, other: str) -> None:
    assert refusal_of(refused(one)) == refusal_of(refused(other))


@pytest.mark.parametrize("other", ["550 suspended", "554 5.7.0 suspended", "554 blocked"])
def test_another_code_or_other_words_are_another_refusal(other: str) -> None:
    assert refusal_of(refused("554 suspended")) != refusal_of(refused(other))


def test_a_long_address_does_not_move_the_end_of_the_words() -> None:
    tail = "is not allowed to send because the account is blocked, see our help pages for more information about it"
    short, long = (f"550 <{local}@a.example> {tail}"[:159] + "…" for local in ("a", "a" * 60))
    assert refusal_of(refused(short)) == refusal_of(refused(long))


@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.DATA, Phase.BODY])
@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "4.2.2", "5.2.250"])
def test_these_codes_speak_of_the_recipient(phase: Phase, enhanced: str) -> None:
    assert refusal_of(refused(f"550 {enhanced} no", phase=phase)) is None


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        (Phase.MAIL, "550 5.2.1 mailbox disabled"),
        (Phase.MAIL, "552 5.2.2 mailbox full"),
        (Phase.BODY, "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message"),
        (Phase.BODY, "550 5.2.1 Outgoing mail of this user is blocked"),
        (Phase.DATA, "554 5.2.1 Your account has been disabled"),
    ],
)
def test_codes_of_mailboxes_may_speak_of_the_account(phase: Phase, text: str) -> None:
    """A blocked account of Exchange Online put its whole backlog at rest."""
    assert refusal_of(refused(text, phase=phase)) is not None


@pytest.mark.parametrize("enhanced", ["5.1.7", "5.1.8", "5.1.0", "5.1.20", "5.7.1", "4.7.1", "5.0.0"])
def test_these_codes_do_not(enhanced: str) -> None:
    assert not speaks_of_recipient(Phase.RCPT, enhanced, "user unknown")
    assert refusal_of(refused(f"550 {enhanced} no", phase=Phase.RCPT)) is not None


@pytest.mark.parametrize(
    "words",
    [
        "550 No such user here",
        "550 unknown user",
        "550 user ann does not exist",
        "552 mailbox full",
        "550 Invalid recipient",
    ],
)
def test_words_of_a_recipient_count_at_rcpt_only(words: str) -> None:
    assert refusal_of(refused(words, phase=Phase.RCPT)) is None
    assert refusal_of(refused(words, phase=Phase.MAIL)) is not None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Ending.ACCEPTED, phase=Phase.BODY, smtp_code=250, mail_written=True),
        Outcome(Ending.UNKNOWN, phase=Phase.BODY, mail_written=True),
        Outcome(Ending.UNTOUCHED, phase=Phase.MAIL, smtp_code=554, mail_written=True),
        Outcome(Ending.TEMPORARY, phase=Phase.MAIL, mail_written=True, error="lost"),
        Outcome(Ending.PERMANENT, phase=Phase.MAIL, smtp_code=552, error="too large, and never written"),
        dataclasses.replace(refused("552 quota"), trouble=Trouble.QUOTA),
    ],
)
def test_what_is_judged_already_or_was_not_refused_does_not_count(outcome: Outcome) -> None:
    assert refusal_of(outcome) is None


def test_a_server_that_tells_recipients_apart_does_not_refuse_the_account() -> None:
    mixed = refused("550 rejected", phase=Phase.RCPT, to=("a@a.example", "b@b.example"))
    mixed.recipients["b@b.example"] = RecipientOutcome(Answer.REFUSED, 550, "5.1.1", "user unknown")
    assert refusal_of(mixed) is None


def row(*texts: str, limit: int = 3, phase: Phase = Phase.BODY, domains: int = 1, **fields: Any) -> RefusalRow:
    found = (
        refusal_of(refused(text, phase=phase, to=(f"a@d{number % domains}.example",)))
        for number, text in enumerate(texts)
    )
    return RefusalRow(limit, [refusal for refusal in found if refusal is not None], **fields)


def test_a_row_is_suspicious_at_the_limit_and_an_acceptance_ends_it() -> None:
    refusals = row("554 no", "554 no")
    assert (refusals.room, refusals.suspicious()) == (1, frozenset())
    refusals.add(Refusal(next(iter(refusals.counting()))))
    assert (refusals.room, len(refusals.suspicious()), refusals.total) == (0, 1, 3)
    refusals.clear()
    assert (refusals.room, refusals.suspicious(), bool(refusals)) == (None, frozenset(), False)


def test_two_kinds_of_refusal_are_counted_apart() -> None:
    assert not row("554 no", "550 never", "554 no", "550 never").suspicious()
    assert len(row("554 no", "550 never", "554 no", "554 no").suspicious()) == 1


@pytest.mark.parametrize(("domains", "suspicious"), [(1, False), (2, False), (3, True)])
def test_without_an_enhanced_code_at_rcpt_three_domains_count(domains: int, suspicious: bool) -> None:
    refusals = row(*["550 no"] * 6, phase=Phase.RCPT, domains=domains)
    assert bool(refusals.suspicious()) is suspicious
    assert (refusals.room is None) is not suspicious
    assert refusals.total == (6 if suspicious else 0)


def test_nothing_is_suspicious_where_it_is_off_or_forgiven() -> None:
    assert (row(*["554 no"] * 9, limit=0).suspicious(), row(*["554 no"] * 9, limit=0).room) == (frozenset(), None)
    key = next(iter(row("554 no").counting()))
    assert not row(*["554 no"] * 9, forgiven={key}).suspicious()


def traits(**fields: Any) -> Traits:
    values = {"tag": "news", "sender": "n@x.example", "recipients": ["a@a.example"], "subject": "November news 1"}
    return Traits.of(**{**values, **fields})


def test_the_most_unlike_message_differs_in_most() -> None:
    known = [traits(), traits(recipients=["b@b.example"])]
    ranked = [
        traits(subject="november NEWS 77", recipients=["z@B.example"]),
        traits(recipients=["c@c.example"]),
        traits(subject="Reset your password"),
        traits(sender="other@x.example"),
        traits(tag="reset", sender="other@x.example"),
        traits(tag="reset", sender="other@x.example", subject="Reset your password", recipients=["c@c.example"]),
    ]
    scores = [unlikeness(message, known) for message in ranked]
    assert scores[0] == 0
    assert scores == sorted(set(scores)), "each one is more unlike than the one before"


@pytest.mark.parametrize(("one", "other"), [("Welcome, Ann", "Welcome, Bob"), ("Order 12", "Order 99"), ("", "")])
def test_subjects_of_one_kind_are_alike(one: str, other: str) -> None:
    assert unlikeness(traits(subject=one), [traits(subject=other)]) == 0


def test_a_masked_text_keeps_the_words() -> None:
    assert masked("5.7.1 Message <a@b.example> REJECTED  by mx1.c.example id=4f") == "@ message @ rejected by @ id=#"


def test_waits_double_up_to_half_a_minute() -> None:
    waits = [0]
    for _ in range(7):
        waits.append(next_wait(waits[-1]))
    assert waits[1:] == [1, 2, 4, 8, 16, 30, 30]


@given(st.text("ab<>@. -_:+(),'\"0459\u0661"))
def test_reasons_are_grouped_by_the_masked_text(text: str) -> None:
    """Grouping masks a text without its numbers, which a cache finds more often; that must change no group."""
    code = re.search(r"\b[245]\.\d{1,3}\.\d{1,3}\b", text)
    assert fold(text) == f"{code[0] if code else ''} {masked(text)}".strip()
