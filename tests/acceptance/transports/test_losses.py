"""Where a connection is lost decides what is known of a message: each place, on a real socket."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc

import pytest

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Trouble
from prx_email_django.transports.base import OutgoingMessage, SessionEnd
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.transports.smtp.session import SmtpSession
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.outgoing_messages import (
    BODY,
    ListFeed,
    OpenFeed,
    outgoing,
    outgoing_messages,
    run_until_silent,
    settings_for,
    transmit,
    transmit_into_silence,
    until,
)
from tests.support.patience import PATIENCE
from tests.support.smtp_script import Rule
from tests.support.smtp_server import SmtpServer

#: More than any socket buffers between here and a server that does not read.
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_500_000


def answers(outcome: Outcome) -> dict[str, Answer]:
    return {address: recipient.answer for address, recipient in outcome.recipients.items()}


async def end_session_at(
    server: SmtpServer, rule: Rule, feed: ListFeed, *, cancel: bool, level: str = "full"
) -> SessionEnd | None:
    """Run a session until the rule stalls it, then cancel or abort it."""
    session = await SmtpTransport().open(settings_for(server, pipelining=level))
    running = asyncio.ensure_future(session.run(feed))
    assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
    if cancel:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return None
    session.abort()
    return await running


# Timeouts, phase by phase


@pytest.mark.parametrize(
    ("stage", "level"),
    [("mail", "off"), ("mail", "envelope"), ("mail", "full"), ("rcpt", "off"), ("data", "off")],
)
def test_silence_before_the_body_is_a_known_failure_within_the_timeout(
    server: SmtpServer, level: str, stage: str
) -> None:
    """Of an envelope in one piece only MAIL: the others may have been dropped because they came too early."""
    rule = server.on(stage, stall=True)
    feed, end = transmit_into_silence(server, outgoing_messages(2), rule, seconds=60, pipelining=level, timeout=60.0)
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.error_code, outcome.phase) == (Ending.TEMPORARY, "timeout", stage)
    assert (outcome.trouble, end.trouble, end.error_code) == (Trouble.CONNECTION, Trouble.CONNECTION, "timeout")
    assert feed.left == [2] and server.wait_closed()


def test_silence_after_the_body_is_unknown_and_nothing_more_is_sent(server: SmtpServer, level: str) -> None:
    rule = server.on("final", stall=True)
    feed, end = transmit_into_silence(
        server, outgoing_messages(2), rule, seconds=600, pipelining=level, final_timeout=600.0
    )
    assert (feed.outcomes[1].ending, feed.outcomes[1].error_code) == (Ending.UNKNOWN, "unknown_outcome")
    if level == "full":
        assert feed.outcomes[2].ending is Ending.UNTOUCHED
    else:
        assert feed.left == [2]
    assert end.trouble is Trouble.CONNECTION and server.wait_closed()


def test_a_slow_final_reply_has_longer_than_a_command(server: SmtpServer) -> None:
    rule = server.on("final", stall=True)
    feed = ListFeed(outgoing_messages(2))

    async def main(loop: FakeClockLoop) -> None:
        session = await SmtpTransport().open(settings_for(server, timeout=60.0, final_timeout=600.0))
        running = await run_until_silent(loop, session, feed, rule)
        await loop.jump(590)
        server.release(rule)
        await running

    run_on_fake_clock(main)
    feed.check()
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}


def test_a_large_body_has_the_time_that_its_size_needs(server: SmtpServer) -> None:
    server.on("final", delay=0.3)
    feed, _ = transmit(server, [outgoing(body=b"0123456789abcd\r\n" * 200_000)], final_timeout=0.0)
    assert feed.outcomes[1].ending is Ending.ACCEPTED


def test_body_that_the_server_does_not_read_never_arrives_later(server: SmtpServer) -> None:
    rule = server.on("body", stall=True, after=1)
    feed, _ = transmit(server, [outgoing(body=LARGE)], final_timeout=0.3 - len(LARGE) / 32768)
    outcome = feed.outcomes[1]
    # The end of the body was still in our buffer, so the message certainly did not leave: no unknown outcome.
    assert (outcome.ending, outcome.error_code, outcome.phase) == (Ending.TEMPORARY, "timeout", "body")
    assert answers(outcome) == {"bob@example.org": Answer.OPEN}
    server.release(rule)
    assert server.wait_closed()
    assert server.messages == []


def test_end_of_a_body_still_in_our_buffer_did_not_arrive(level: str) -> None:
    """What asyncio's buffer still holds has certainly not left."""
    with SmtpServer(receive_buffer=4096) as server:
        rule = server.on("body", stall=True, after=1)
        feed = ListFeed([outgoing(1, body=b"0123456789abcd\r\n" * 4000), outgoing(2)])

        async def main() -> None:
            session = await SmtpTransport().open(settings_for(server, pipelining=level, final_timeout=-1.5))
            sock = session._protocol._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await session.run(feed)

        asyncio.run(main())
        feed.check()
        assert (feed.outcomes[1].ending, feed.outcomes[1].error_code) == (Ending.TEMPORARY, "timeout")
        assert level != "full" or feed.outcomes[2].ending is Ending.UNTOUCHED
        server.release(rule)
        assert server.wait_closed() and server.messages == []


def test_end_of_a_body_in_the_buffers_of_tls_does_not_count_as_unsent() -> None:
    """TLS buffers encrypted bytes, and more of them: nobody knows whether the final dot is among them."""
    with SmtpServer(tls="implicit", receive_buffer=4096) as server:
        rule = server.on("body", stall=True, after=1)
        # More than the sockets and asyncio's buffer hold, and less than TLS holds before it pauses writing.
        body = b"0123456789abcd\r\n" * 25_000

        feed = ListFeed([outgoing(1, body=body)])

        async def main(loop: FakeClockLoop) -> None:
            session = await SmtpTransport().open(settings_for(server, pipelining="full"))
            transport = session._protocol._transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            running = asyncio.ensure_future(session.run(feed))
            await until(lambda: session._state.current is not None and session._state.current.dot_written)
            assert transport.get_write_buffer_size() > 0, "TLS buffers nothing, so this test proves nothing"
            await loop.jump(1000)
            await running

        run_on_fake_clock(main)
        assert (feed.outcomes[1].ending, feed.outcomes[1].phase) == (Ending.UNKNOWN, "body")
        server.release(rule)
        assert server.wait_closed() and server.messages == []


def test_large_body_is_not_copied_into_buffers(server: SmtpServer) -> None:
    """Memory is bounded by connections times message size: buffers must not add the message once more."""
    rule = server.on("body", stall=True, after=1)
    tracemalloc.start()
    try:
        asyncio.run(end_session_at(server, rule, ListFeed([outgoing(body=LARGE)]), cancel=True))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(LARGE) / 4


# Lost connections


@pytest.mark.parametrize("reset", [False, True])
def test_lost_in_the_middle_of_a_large_body_is_a_known_failure(server: SmtpServer, reset: bool) -> None:
    server.on("body", after=100_000, drop=not reset, reset=reset)
    feed, end = transmit(server, [outgoing(body=LARGE)])
    assert (feed.outcomes[1].ending, feed.outcomes[1].phase) == (Ending.TEMPORARY, "body")
    assert (feed.outcomes[1].error_code, end.trouble) == ("network", Trouble.CONNECTION)


def test_answers_before_the_loss_are_kept(server: SmtpServer, level: str) -> None:
    server.refuse("no@example.org")
    server.defer("later@example.org")
    server.on("rcpt", address="trap@example.org", drop=True)
    everyone = ("no@example.org", "bob@example.org", "later@example.org", "trap@example.org", "last@example.org")
    feed, end = transmit(server, [outgoing(1, *everyone)], pipelining=level)
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.phase, end.trouble) == (Ending.TEMPORARY, "rcpt", Trouble.CONNECTION)
    assert answers(outcome) == {
        "no@example.org": Answer.REFUSED,
        "bob@example.org": Answer.OPEN,
        "later@example.org": Answer.DEFERRED,
        "trap@example.org": Answer.OPEN,
        "last@example.org": Answer.OPEN,
    }


def test_message_released_by_a_session_limit_is_untouched(server: SmtpServer, level: str) -> None:
    server.refuse("no@example.org")
    server.on("rcpt", address="trap@example.org", reply="421 4.4.5 session limit")
    feed, end = transmit(server, [outgoing(1), outgoing(2, "no@example.org", "trap@example.org")], pipelining=level)
    assert (feed.outcomes[2].ending, end.reconnect, end.trouble) == (Ending.UNTOUCHED, True, Trouble.NONE)
    assert set(answers(feed.outcomes[2]).values()) == {Answer.OPEN}


def test_many_dead_recipients_and_a_closed_connection_are_a_failure_of_the_message(
    server: SmtpServer, level: str
) -> None:
    """Postfix closes after twenty errors: a message released untouched would stop its account for ever."""
    dead = tuple(f"dead{number}@example.org" for number in range(25))
    for address in dead[:20]:
        server.refuse(address)
    server.on("rcpt", address=dead[20], reply="421 4.7.0 too many errors")
    feed, end = transmit(server, [outgoing(1), outgoing(2, *dead)], pipelining=level)
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    outcome = feed.outcomes[2]
    assert (outcome.ending, outcome.trouble, outcome.smtp_code) == (Ending.TEMPORARY, Trouble.CONNECTION, 421)
    assert [recipient.answer for recipient in outcome.recipients.values()] == [Answer.REFUSED] * 20 + [Answer.OPEN] * 5
    assert end.trouble is Trouble.CONNECTION


def test_envelope_behind_a_lost_body_is_untouched(server: SmtpServer) -> None:
    server.on("final", drop=True)
    feed, end = transmit(server, outgoing_messages(3), pipelining="full")
    first, second = feed.outcomes[1], feed.outcomes[2]
    assert (first.ending, second.ending) == (Ending.UNKNOWN, Ending.UNTOUCHED)
    assert second.mail_written and second.trouble is Trouble.NONE
    assert feed.left == [3] and end.trouble is Trouble.CONNECTION


def test_421_to_a_body_leaves_the_envelope_behind_it_untouched(server: SmtpServer) -> None:
    server.on("final", reply="421 4.3.0 closing")
    feed, _ = transmit(server, outgoing_messages(2), pipelining="full")
    assert (feed.outcomes[1].ending, feed.outcomes[2].ending) == (Ending.TEMPORARY, Ending.UNTOUCHED)


def test_message_accepted_before_the_server_closed_stays_accepted(server: SmtpServer, level: str) -> None:
    server.on("final", raw=b"250 2.0.0 queued\r\n", accept=True, drop=True)
    feed, end = transmit(server, outgoing_messages(2), pipelining=level)
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    assert feed.outcomes.get(2) is None or feed.outcomes[2].ending is Ending.UNTOUCHED
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)


def test_refusal_in_the_middle_of_the_body_counts(server: SmtpServer) -> None:
    server.on("body", after=100_000, reply="552 5.3.4 too much", times=1)
    feed, end = transmit(server, [outgoing(body=LARGE)])
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.smtp_code, outcome.phase) == (Ending.PERMANENT, 552, "body")
    assert (end.reconnect, end.trouble, server.messages) == (True, Trouble.NONE, [])


# Idle connections


@pytest.mark.parametrize("last_words", [b"", b"421 4.4.2 idle too long\r\n"])
def test_connection_closed_while_idle_ends_the_session_at_once_and_harms_nothing(
    server: SmtpServer, last_words: bytes
) -> None:
    async def main() -> tuple[OpenFeed, SessionEnd]:
        session = await SmtpTransport().open(settings_for(server))
        feed = OpenFeed(outgoing_messages(1))
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        server.say(last_words, close=True)
        return feed, await asyncio.wait_for(running, PATIENCE)

    feed, end = asyncio.run(main())
    feed.check()
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)


def test_connection_closed_before_the_first_message_counts_as_a_connection_failure(server: SmtpServer) -> None:
    """Else a server that closes after each authentication would be connected to without end."""

    async def main() -> SessionEnd:
        session = await SmtpTransport().open(settings_for(server))
        feed = OpenFeed()
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        server.hang_up()
        return await asyncio.wait_for(running, PATIENCE)

    end = asyncio.run(main())
    assert (end.reconnect, end.trouble, end.error_code) == (False, Trouble.CONNECTION, "network")


def test_message_that_arrives_while_the_connection_ends_is_released(server: SmtpServer) -> None:
    async def main() -> OpenFeed:
        session = await SmtpTransport().open(settings_for(server))
        feed = OpenFeed()
        running = asyncio.ensure_future(session.run(feed))
        await feed.idle.wait()
        session.abort()
        feed.put(outgoing())
        await running
        return feed

    feed = asyncio.run(main())
    feed.check()
    assert all(outcome.ending is Ending.UNTOUCHED for outcome in feed.outcomes.values())


# Closed by this side


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_closing_before_the_body_harms_no_message(server: SmtpServer, stage: str, cancel: bool) -> None:
    rule = server.on(stage, stall=True)
    feed = ListFeed(outgoing_messages(2))
    end = asyncio.run(end_session_at(server, rule, feed, cancel=cancel))
    feed.check()
    assert (feed.outcomes[1].ending, feed.outcomes[1].mail_written) == (Ending.UNTOUCHED, True)
    assert end is None or (end.reconnect, end.trouble) == (False, Trouble.NONE)
    assert server.wait_closed()


@pytest.mark.parametrize("cancel", [True, False])
def test_closing_after_the_body_is_unknown_and_the_message_behind_is_untouched(
    server: SmtpServer, cancel: bool
) -> None:
    rule = server.on("final", stall=True)
    feed = ListFeed(outgoing_messages(3))
    end = asyncio.run(end_session_at(server, rule, feed, cancel=cancel))
    feed.check()
    assert [feed.outcomes[number].ending for number in (1, 2)] == [Ending.UNKNOWN, Ending.UNTOUCHED]
    assert feed.outcomes[1].trouble is Trouble.NONE
    assert end is None or end.trouble is Trouble.NONE


def test_closing_in_the_middle_of_a_body_sends_no_more_of_it(server: SmtpServer) -> None:
    rule = server.on("body", stall=True, after=1)
    feed = ListFeed([outgoing(body=LARGE)])
    asyncio.run(end_session_at(server, rule, feed, cancel=True))
    feed.check()
    assert feed.outcomes[1].ending is Ending.UNTOUCHED
    server.release(rule)
    assert server.wait_closed() and server.messages == []


def test_session_aborted_before_it_ran_takes_nothing(server: SmtpServer) -> None:
    async def main() -> tuple[ListFeed, SessionEnd]:
        session: SmtpSession = await SmtpTransport().open(settings_for(server))
        session.abort()
        feed = ListFeed(outgoing_messages(2))
        return feed, await session.run(feed)

    feed, end = asyncio.run(main())
    assert (feed.taken, end.trouble, end.reconnect) == ([], Trouble.NONE, False)


# QUIT


def test_server_that_does_not_answer_quit_costs_two_seconds(server: SmtpServer) -> None:
    rule = server.on("quit", stall=True)
    feed = ListFeed(outgoing_messages(1))

    async def main(loop: FakeClockLoop) -> SessionEnd:
        session = await SmtpTransport().open(settings_for(server, timeout=60.0))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        await loop.jump(1.9)
        assert not running.done()
        await loop.jump(0.2)
        assert running.done()
        return await running

    end = run_on_fake_clock(main)
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    assert (end.trouble, end.reconnect) == (Trouble.NONE, False)
    assert server.wait_closed()


def test_quit_is_sent_and_the_connection_closed(server: SmtpServer) -> None:
    transmit(server, outgoing_messages(1))
    assert server.lines("QUIT") == ["QUIT"]
    assert server.wait_closed()


def test_feed_that_fails_loses_no_message(server: SmtpServer) -> None:
    class FailingFeed(ListFeed):
        def take(self) -> OutgoingMessage | None:
            if self.taken:
                raise LookupError("the feed failed")
            return super().take()

    async def main() -> FailingFeed:
        session = await SmtpTransport().open(settings_for(server, pipelining="full"))
        feed = FailingFeed([outgoing(1, body=BODY)])
        with pytest.raises(LookupError):
            await session.run(feed)
        return feed

    feed = asyncio.run(main())
    feed.check()
    assert feed.outcomes[1].ending is Ending.UNTOUCHED
    assert server.wait_closed() and server.messages == []
