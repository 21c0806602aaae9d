"""One suite over SMTP and the local transports: a local transport is trusted only while it passes the tests of SMTP."""

from __future__ import annotations

import asyncio

import pytest

from prx_email_django.rules.outcomes import Answer, Ending, Trouble
from prx_email_django.transports.base import ConnectError, OutgoingMessage, SessionEnd
from tests.acceptance.transports.conftest import Harness, Scripted
from tests.support.outgoing_messages import BODY, ListFeed, OpenFeed, outgoing, outgoing_messages, run_session


def run(harness: Harness, *messages: OutgoingMessage, **options: object) -> tuple[ListFeed, SessionEnd]:
    feed = ListFeed(messages)
    end = asyncio.run(run_session(harness.transport, harness.settings(**options), feed))
    return feed, end


def answers(feed: ListFeed, number: int = 1) -> dict[str, Answer]:
    return {address: recipient.answer for address, recipient in feed.outcomes[number].recipients.items()}


# What every transport does


def test_accepted_message_arrives_whole(harness: Harness) -> None:
    feed, end = run(harness, outgoing(1, "bob@example.org", "eve@example.org"))
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.error_code, outcome.error) == (Ending.ACCEPTED, "", "")
    assert set(answers(feed).values()) == {Answer.ACCEPTED}
    assert outcome.mail_written and outcome.response.startswith("250") and outcome.peer
    assert harness.delivered() == [("ann@example.org", ("bob@example.org", "eve@example.org"), BODY)]
    assert (end.reconnect, end.trouble) == (False, Trouble.NONE)


def test_session_without_messages_delivers_nothing(harness: Harness) -> None:
    feed, end = run(harness)
    assert (feed.order, harness.delivered(), end.trouble) == ([], [], Trouble.NONE)


def test_many_messages_keep_order_and_none_is_lost(harness: Harness) -> None:
    feed, _ = run(harness, *outgoing_messages(20))
    assert feed.order == list(range(1, 21))
    assert [recipients for _, recipients, _ in harness.delivered()] == [(f"r{n}@example.org",) for n in range(1, 21)]
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}


def test_retired_after_max_messages_leaves_the_rest(harness: Harness) -> None:
    feed, end = run(harness, *outgoing_messages(5), max_messages=3)
    assert (feed.order, feed.left) == ([1, 2, 3], [4, 5])
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)


def test_message_that_may_not_be_written_is_not_sent(harness: Harness) -> None:
    feed, _ = run(harness, outgoing(1, may_write=lambda: False), outgoing(2))
    assert (feed.outcomes[1].ending, feed.outcomes[1].mail_written) == (Ending.UNTOUCHED, False)
    assert feed.outcomes[2].ending is Ending.ACCEPTED
    assert len(harness.delivered()) == 1


def test_message_withdrawn_before_its_body_is_not_delivered(harness: Harness) -> None:
    permissions = iter([True, False])
    feed, end = run(harness, outgoing(1, may_write=lambda: next(permissions)))
    assert feed.outcomes[1].ending is Ending.UNTOUCHED
    assert answers(feed) == {"bob@example.org": Answer.OPEN}
    assert (harness.delivered(), end.trouble) == ([], Trouble.NONE)
    # Where its MAIL was written, only a new connection is free of it.
    assert end.reconnect is feed.outcomes[1].mail_written


@pytest.mark.parametrize("sender", ["a\r\nRCPT TO:<x@example.org>", "a b@example.org", "a>@example.org"])
def test_invalid_address_fails_its_message_only(harness: Harness, sender: str) -> None:
    feed, _ = run(harness, outgoing(1, sender=sender), outgoing(2))
    assert (feed.outcomes[1].ending, feed.outcomes[1].error_code) == (Ending.PERMANENT, "content")
    assert not feed.outcomes[1].mail_written
    assert feed.outcomes[2].ending is Ending.ACCEPTED


def test_abort_while_idle_ends_the_session(harness: Harness) -> None:
    async def main() -> SessionEnd:
        session = await harness.transport.open(harness.settings())
        feed = OpenFeed()
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        session.abort()
        return await running

    end = asyncio.run(main())
    assert (end.reconnect, end.trouble) == (False, Trouble.NONE)


def test_cancelled_while_idle_is_cancelled(harness: Harness) -> None:
    async def main() -> None:
        session = await harness.transport.open(harness.settings())
        feed = OpenFeed()
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


def test_message_that_arrives_while_idle_is_sent(harness: Harness) -> None:
    async def main() -> OpenFeed:
        session = await harness.transport.open(harness.settings())
        feed = OpenFeed()
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        feed.put(outgoing(1))
        feed.close()
        await running
        return feed

    assert asyncio.run(main()).outcomes[1].ending is Ending.ACCEPTED


# What every transport that can fail does


@pytest.mark.parametrize(
    ("phase", "reply", "trouble", "error_code"),
    [
        ("connect", "421 4.3.2 too busy", Trouble.CONNECTION, "provider"),
        ("connect", "554 5.7.1 go away", Trouble.CONNECTION, "provider"),
        ("connect", "", Trouble.CONNECTION, "network"),
        ("tls", "454 4.7.0 TLS not available", Trouble.TLS, "tls"),
        ("auth", "535 5.7.8 bad credentials", Trouble.AUTH, "auth"),
        ("auth", "454 4.7.0 too many logins", Trouble.AUTH, "provider"),
        ("auth", "", Trouble.CONNECTION, "network"),
    ],
)
def test_failed_opening_names_the_trouble_of_the_account(
    scripted: Scripted, phase: str, reply: str, trouble: Trouble, error_code: str
) -> None:
    scripted.fail(phase, reply)
    with pytest.raises(ConnectError) as failed:
        run(scripted, outgoing())
    error = failed.value
    assert (error.phase, error.trouble, error.error_code) == (phase, trouble, error_code)
    assert error.smtp_code == int(reply[:3] or 0)
    run(scripted, outgoing())
    assert len(scripted.delivered()) == 1


REFUSALS = [("451 4.3.0 later", Ending.TEMPORARY), ("550 5.7.1 never", Ending.PERMANENT)]


@pytest.mark.parametrize("phase", ["mail", "body"])
@pytest.mark.parametrize(("reply", "ending"), REFUSALS)
def test_refused_message_names_the_phase_and_the_next_goes_on(
    scripted: Scripted, phase: str, reply: str, ending: Ending
) -> None:
    refused_in(scripted, phase, reply, ending)


@pytest.mark.parametrize(("reply", "ending"), REFUSALS)
def test_message_refused_at_data_names_the_phase_and_the_next_goes_on(
    by_data: Scripted, reply: str, ending: Ending
) -> None:
    refused_in(by_data, "data", reply, ending)


def refused_in(scripted: Scripted, phase: str, reply: str, ending: Ending) -> None:
    scripted.fail(phase, reply)
    feed, end = run(scripted, *outgoing_messages(3))
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.phase, outcome.error_code) == (ending, phase, "provider")
    assert (outcome.smtp_code, outcome.enhanced, outcome.error) == (int(reply[:3]), reply[4:9], reply)
    assert answers(feed) == {"r1@example.org": Answer.OPEN}
    assert [feed.outcomes[n].ending for n in (2, 3)] == [Ending.ACCEPTED] * 2
    assert (len(scripted.delivered()), end.trouble) == (2, Trouble.NONE)


def test_refused_and_deferred_recipients_do_not_stop_the_others(scripted: Scripted) -> None:
    scripted.answer("no@example.org", "550 5.1.1 no such user")
    scripted.answer("later@example.org", "450 4.2.1 busy")
    scripted.answer("full@example.org", "552 5.2.2 mailbox full")
    scripted.answer("many@example.org", "452 4.5.3 too many recipients")
    everyone = ("no@example.org", "bob@example.org", "later@example.org", "full@example.org", "many@example.org")
    feed, _ = run(scripted, outgoing(1, *everyone), outgoing(2))
    outcome = feed.outcomes[1]
    assert outcome.ending is Ending.ACCEPTED
    assert answers(feed) == {
        "no@example.org": Answer.REFUSED,
        "bob@example.org": Answer.ACCEPTED,
        "later@example.org": Answer.DEFERRED,
        "full@example.org": Answer.DEFERRED,
        "many@example.org": Answer.TOO_MANY,
    }
    refused = outcome.recipients["no@example.org"]
    assert (refused.code, refused.enhanced, refused.text) == (550, "5.1.1", "5.1.1 no such user")
    assert [recipients for _, recipients, _ in scripted.delivered()] == [("bob@example.org",)] * 2


def test_message_without_an_accepted_recipient_delivers_nothing_and_the_next_goes_on(scripted: Scripted) -> None:
    scripted.answer("no@example.org", "550 5.1.1 no such user")
    scripted.answer("later@example.org", "450 4.2.1 busy")
    feed, _ = run(
        scripted, outgoing(1, "no@example.org"), outgoing(2, "no@example.org", "later@example.org"), outgoing(3)
    )
    first, second, third = (feed.outcomes[n] for n in (1, 2, 3))
    assert (first.ending, first.error_code, first.phase) == (Ending.PERMANENT, "recipients_refused", "rcpt")
    assert (second.ending, second.error_code, second.smtp_code) == (Ending.TEMPORARY, "provider", 450)
    assert third.ending is Ending.ACCEPTED and len(scripted.delivered()) == 1


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("reply", ["", "421 4.3.0 closing"])
def test_lost_before_the_body_is_a_known_failure_on_a_fresh_connection(
    by_data: Scripted, phase: str, reply: str
) -> None:
    lost_in(by_data, phase, reply)


@pytest.mark.parametrize("phase", ["mail", "rcpt"])
def test_421_to_the_envelope_is_a_known_failure_on_a_fresh_connection(scripted: Scripted, phase: str) -> None:
    lost_in(scripted, phase, "421 4.3.0 closing")


def lost_in(scripted: Scripted, phase: str, reply: str) -> None:
    scripted.fail(phase, reply)
    feed, end = run(scripted, *outgoing_messages(2))
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.trouble, outcome.phase) == (Ending.TEMPORARY, Trouble.CONNECTION, phase)
    assert outcome.error_code == ("provider" if reply else "network")
    assert (end.trouble, end.reconnect, scripted.delivered()) == (Trouble.CONNECTION, False, [])


@pytest.mark.parametrize("accept", [False, True])
def test_lost_after_the_body_is_unknown(scripted: Scripted, accept: bool) -> None:
    scripted.fail("body", accept=accept)
    feed, end = run(scripted, outgoing())
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.error_code, outcome.phase) == (Ending.UNKNOWN, "unknown_outcome", "body")
    assert answers(feed) == {"bob@example.org": Answer.UNKNOWN}
    assert (end.trouble, len(scripted.delivered())) == (Trouble.CONNECTION, int(accept))


def test_421_to_the_body_is_a_known_failure(scripted: Scripted) -> None:
    scripted.fail("body", "421 4.3.0 closing")
    feed, end = run(scripted, *outgoing_messages(3))
    assert (feed.outcomes[1].ending, feed.outcomes[1].trouble) == (Ending.TEMPORARY, Trouble.CONNECTION)
    assert end.trouble is Trouble.CONNECTION and scripted.delivered() == []


@pytest.mark.parametrize("phase", ["mail", "body"])
def test_quota_pauses_the_account_and_the_message_waits(scripted: Scripted, phase: str) -> None:
    scripted.fail(phase, "550 5.4.5 Daily user sending limit exceeded")
    feed, end = run(scripted, *outgoing_messages(3))
    assert (feed.outcomes[1].ending, feed.outcomes[1].trouble) == (Ending.TEMPORARY, Trouble.QUOTA)
    assert (end.trouble, scripted.delivered()) == (Trouble.QUOTA, [])
    assert {feed.outcomes[number].ending for number in feed.order[1:]} <= {Ending.UNTOUCHED}


def test_quota_in_the_answer_to_one_recipient_pauses_after_the_message_went_to_the_others(scripted: Scripted) -> None:
    scripted.answer("far@example.org", "550 5.7.233 tenant external recipient limit")
    feed, end = run(scripted, outgoing(1, "bob@example.org", "far@example.org"), outgoing(2))
    assert answers(feed) == {"bob@example.org": Answer.ACCEPTED, "far@example.org": Answer.DEFERRED}
    assert (feed.outcomes[1].trouble, end.trouble) == (Trouble.QUOTA, Trouble.QUOTA)


def test_quota_in_the_answer_to_the_only_recipient_pauses(scripted: Scripted) -> None:
    scripted.answer("far@example.org", "550 5.7.233 tenant external recipient limit")
    feed, end = run(scripted, outgoing(1, "far@example.org"), outgoing(2))
    assert (feed.outcomes[1].ending, feed.outcomes[1].trouble) == (Ending.TEMPORARY, Trouble.QUOTA)
    assert (end.trouble, feed.left, scripted.delivered()) == (Trouble.QUOTA, [2], [])


@pytest.mark.parametrize("reply", ["530 5.7.0 authentication required", "550 5.7.30 basic authentication is off"])
def test_lost_authentication_harms_no_message(scripted: Scripted, reply: str) -> None:
    scripted.fail("mail", reply)
    feed, end = run(scripted, *outgoing_messages(2))
    assert (feed.outcomes[1].ending, feed.outcomes[1].trouble) == (Ending.UNTOUCHED, Trouble.AUTH)
    assert (end.trouble, end.error_code, scripted.delivered()) == (Trouble.AUTH, "auth", [])


@pytest.mark.parametrize("reply", ["421 4.7.0 try again later", "451 4.4.5 too much", "450 too many messages"])
def test_session_ended_between_transactions_harms_no_message(scripted: Scripted, reply: str) -> None:
    ended_between(scripted, reply)


def test_connection_closed_between_transactions_harms_no_message(by_data: Scripted) -> None:
    ended_between(by_data, "")


def ended_between(scripted: Scripted, reply: str) -> None:
    feed = ListFeed(outgoing_messages(1))

    async def main() -> SessionEnd:
        session = await scripted.transport.open(scripted.settings())
        opened = OpenFeed(outgoing_messages(1))
        running = asyncio.ensure_future(session.run(opened))
        await opened.idle.wait()
        scripted.fail("mail", reply)
        opened.put(outgoing(2))
        opened.close()
        end = await running
        feed.outcomes.update(opened.outcomes)
        return end

    end = asyncio.run(main())
    assert (feed.outcomes[1].ending, feed.outcomes[2].ending) == (Ending.ACCEPTED, Ending.UNTOUCHED)
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)


def test_message_too_large_for_the_server_is_refused_before_mail(scripted: Scripted) -> None:
    feed, _ = run(scripted, outgoing(1, body=b"x" * 50_000_001), outgoing(2))
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.error_code) == (Ending.PERMANENT, "provider")
    assert (outcome.smtp_code, outcome.enhanced, outcome.mail_written) == (552, "5.3.4", False)
    assert feed.outcomes[2].ending is Ending.ACCEPTED


def test_text_of_a_hostile_reply_is_cleaned_and_cut(scripted: Scripted) -> None:
    scripted.fail("mail", "550 5.7.1 \x1b[31mred\x07 " + "\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 500)
    feed, _ = run(scripted, outgoing())
    error = feed.outcomes[1].error
    assert len(error) <= 160 and error.isprintable() and error.startswith("550 5.7.1 [31mred x")
