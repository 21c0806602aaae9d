"""On a staging system no recipient of a message gets it, and every recipient still has a result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.outcomes import Answer, RecipientOutcome
from prx_email_django.rules.redirect import route

ADDRESSES = st.lists(st.sampled_from([f"{name}@{host}" for name in "abcde" for host in ("x.org", "qa.test")]))


def outcome(answer: Answer) -> RecipientOutcome:
    return RecipientOutcome(answer, 250)


def test_an_address_that_stands_twice_is_in_the_envelope_once() -> None:
    assert route(["a@x.org", "b@x.org", "a@x.org"]).envelope == ("a@x.org", "b@x.org")


@given(ADDRESSES)
def test_nobody_real_is_in_a_redirected_envelope(addresses: list[str]) -> None:
    found = route(addresses, redirect_to=["dev@me.test"], passing=["*@QA.test"])
    assert not [address for address in found.envelope if address.endswith("@x.org")]
    assert len(set(found.envelope)) == len(found.envelope)
    assert set(found.through) | set(found.replaced) == set(addresses)
    assert ("dev@me.test" in found.envelope) == any(address.endswith("@x.org") for address in addresses)


@given(ADDRESSES)
def test_every_real_address_gets_a_result(addresses: list[str]) -> None:
    found = route(addresses, redirect_to=["dev@me.test", "ops@me.test"], passing=["*@qa.test"])
    answers = {address: outcome(Answer.ACCEPTED) for address in found.envelope}
    assert set(found.results(answers)) == set(addresses)


def test_a_redirected_recipient_takes_the_best_answer_of_its_stand_ins() -> None:
    found = route(["a@x.org"], redirect_to=["dev@me.test", "ops@me.test"])
    answers = {"dev@me.test": outcome(Answer.REFUSED), "ops@me.test": outcome(Answer.ACCEPTED)}
    assert found.results(answers)["a@x.org"].answer is Answer.ACCEPTED
    answers["ops@me.test"] = outcome(Answer.UNKNOWN)
    assert found.results(answers)["a@x.org"].answer is Answer.UNKNOWN


def test_without_a_redirection_the_answers_are_the_addresses_own() -> None:
    found = route(["a@x.org", "b@x.org"])
    answers = {"a@x.org": outcome(Answer.ACCEPTED), "b@x.org": outcome(Answer.REFUSED)}
    assert found.results(answers) == answers
    assert found.replaced == ()


def test_a_stand_in_that_is_a_recipient_itself_gets_the_message_once() -> None:
    found = route(["dev@me.test", "a@x.org"], redirect_to=["dev@me.test"])
    assert found.envelope == ("dev@me.test",)
    assert set(found.results({"dev@me.test": outcome(Answer.ACCEPTED)})) == {"dev@me.test", "a@x.org"}
