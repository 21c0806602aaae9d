"""Messages by BDAT (RFC 3030), several unanswered at once: the probe, the window, refusals in it, and its loss."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from prx_email_django.rules.outcomes import Answer, Ending, Trouble
from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage, SessionEnd
from prx_email_django.transports.found import Ahead, FoundOut
from prx_email_django.transports.smtp.commands import Extensions
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.transports.smtp.session import SmtpSession
from tests.support.outgoing_messages import (
    BODY,
    ListFeed,
    OpenFeed,
    outgoing,
    outgoing_messages,
    run_session,
    settings_for,
    transmit,
    until,
)
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

#: A server that was probed before, and a window that has grown.
GROWN = {"pipelining": "chunked", "max_in_flight": 4, "window": 4}


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer(chunking=True) as server:
        yield server


def endings(feed: ListFeed) -> list[Ending]:
    return [feed.outcomes[number].ending for number in sorted(feed.outcomes)]


def bdats(server: SmtpServer) -> list[str]:
    """The BDAT commands, without those of the probe."""
    return [line for line in server.lines("BDAT") if line != "BDAT 6 LAST"]


# When messages go by BDAT


def test_a_single_message_needs_one_round_trip_less(server: SmtpServer) -> None:
    transmit(server, [outgoing(1)], pipelining="full")
    plain, server.bursts = server.bursts, 0
    feed, _ = transmit(server, [outgoing(1)], **GROWN)
    assert endings(feed) == [Ending.ACCEPTED] and server.messages[0].data == server.messages[1].data == BODY
    # EHLO, the message, QUIT.
    assert (plain, server.bursts) == (4, 3)


def test_auto_goes_over_to_bdat_after_three_plain_messages_and_one_probe(server: SmtpServer) -> None:
    feed, _ = transmit(server, outgoing_messages(8), pipelining="auto", max_in_flight=4)
    assert endings(feed) == [Ending.ACCEPTED] * 8 and len(server.messages) == 8
    verbs = [line.split()[0] for _, line in server.commands]
    assert verbs.count("DATA") == 3 and server.lines("BDAT")[:2] == ["BDAT 6 LAST"] * 2
    assert "NOOP" not in verbs and len(bdats(server)) == 5
    assert verbs.index("BDAT") > max(index for index, verb in enumerate(verbs) if verb == "DATA")


@pytest.mark.parametrize(
    "options",
    [
        {"pipelining": "full", "max_in_flight": 4, "window": 4},
        {"pipelining": "envelope", "max_in_flight": 4, "window": 4},
        {"pipelining": "off", "max_in_flight": 4, "window": 4},
        {"pipelining": "chunked", "max_in_flight": 0, "window": 4},
    ],
)
def test_no_bdat_where_the_account_does_without(server: SmtpServer, options: dict[str, object]) -> None:
    feed, _ = transmit(server, outgoing_messages(5), **options)
    assert endings(feed) == [Ending.ACCEPTED] * 5 and not server.lines("BDAT")


def test_no_bdat_where_the_server_does_not_offer_it() -> None:
    with SmtpServer() as server:
        feed, _ = transmit(server, outgoing_messages(5), **GROWN)
        assert endings(feed) == [Ending.ACCEPTED] * 5 and not server.lines("BDAT")


@pytest.mark.parametrize("level", ["auto", "chunked"])
def test_server_that_reads_a_refused_body_as_commands_never_gets_a_message_by_bdat(level: str) -> None:
    with SmtpServer(chunking=True, discards=False) as server:
        options = {"pipelining": level, "max_in_flight": 4, "found": FoundOut()}
        feed, end = transmit(server, outgoing_messages(8), **options)
        assert (end.broken, end.reconnect, end.trouble) == (Ahead.CHUNKING, True, Trouble.NONE)
        assert set(endings(feed)) <= {Ending.ACCEPTED} and feed.left
        rest, _ = transmit(server, [outgoing(n) for n in feed.left], **options)
        assert set(endings(rest)) == {Ending.ACCEPTED} and len(server.messages) == 8
        assert not bdats(server) and server.lines("NOOP")


@pytest.mark.parametrize("what", [{"drop": True}, {"stall": True}, {"raw": b"what?\r\n"}, {"reply": "250 2.0.0 fine"}])
def test_server_that_bears_no_probe_is_known_and_no_message_pays(
    server: SmtpServer, what: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prx_email_django.transports.smtp.session_state.TRIAL_TIMEOUT", 0.3)
    server.on("bdat", **what)
    feed, end = transmit(server, outgoing_messages(8), pipelining="auto", max_in_flight=4)
    assert (end.broken, end.reconnect, end.trouble) == (Ahead.CHUNKING, True, Trouble.NONE)
    assert endings(feed) == [Ending.ACCEPTED] * 3


def test_421_to_the_probe_ends_the_session_and_teaches_nothing(server: SmtpServer) -> None:
    server.on("bdat", reply="421 4.3.2 closing")
    feed, end = transmit(server, outgoing_messages(8), pipelining="auto", max_in_flight=4)
    assert (end.broken, end.reconnect, end.trouble) == (None, True, Trouble.NONE)
    assert endings(feed) == [Ending.ACCEPTED] * 3


# The window


def in_flight(server: SmtpServer, nth: int, count: int, **options: object) -> list[int]:
    """Stall the ``nth`` final reply; return the messages that are taken and not reported then."""
    rule = server.on("final", nth=nth, stall=True)
    seen: list[int] = []

    async def main() -> None:
        feed = ListFeed(outgoing_messages(count))
        session = await SmtpTransport().open(settings_for(server, **options))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        await until(lambda: len(feed.order) == nth - 1)
        seen.extend(sorted(set(feed.taken) - set(feed.order)))
        server.release(rule)
        await running
        assert set(endings(feed)) == {Ending.ACCEPTED} and len(server.messages) == count

    asyncio.run(main())
    return seen


def test_window_begins_at_one_and_doubles_after_ten_completed_messages(server: SmtpServer) -> None:
    for nth, unanswered in ((10, 1), (11, 2), (21, 4), (60, 4)):
        server.clear()
        server.messages.clear()
        assert len(in_flight(server, nth, 80, pipelining="chunked", max_in_flight=4)) == unanswered


def test_a_busy_window_needs_a_fraction_of_a_round_trip_for_a_message(server: SmtpServer) -> None:
    feed, _ = transmit(server, outgoing_messages(200), **GROWN | {"max_in_flight": 16, "window": 16})
    assert endings(feed) == [Ending.ACCEPTED] * 200
    assert [message.recipients for message in server.messages] == [(f"r{n}@example.org",) for n in range(1, 201)]
    assert feed.order == sorted(feed.order)


def test_message_that_must_not_be_sent_twice_goes_alone(server: SmtpServer) -> None:
    rule = server.on("final", nth=3, stall=True)
    seen: list[int] = []

    async def main() -> ListFeed:
        messages = outgoing_messages(6)
        messages[2].alone = True
        feed = ListFeed(messages)
        session = await SmtpTransport().open(settings_for(server, **GROWN))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        await until(lambda: feed.order == [1, 2])
        seen.extend(feed.taken)
        server.release(rule)
        await running
        return feed

    assert endings(asyncio.run(main())) == [Ending.ACCEPTED] * 6
    assert seen == [1, 2, 3] and len(server.lines("DATA")) == 1, "its body is written after its envelope is accepted"


def test_large_message_waits_for_its_envelope(server: SmtpServer) -> None:
    large = outgoing(2, "large@example.org", body=b"Subject: x\r\n\r\n" + b"x" * 78 * 20_000 + b"\r\n")
    feed, _ = transmit(server, [outgoing(1), large, outgoing(3)], **GROWN)
    assert endings(feed) == [Ending.ACCEPTED] * 3 and len(server.lines("DATA")) == 1 and len(bdats(server)) == 2


def test_message_that_arrives_while_others_are_unanswered_is_written_at_once(server: SmtpServer) -> None:
    first, second = server.on("final", nth=1, stall=True), server.on("mail", nth=2)

    async def main() -> OpenFeed:
        feed = OpenFeed([outgoing(1)])
        session = await SmtpTransport().open(settings_for(server, **GROWN))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(first.reached.wait, PATIENCE)
        await feed.idle.wait()
        feed.put(outgoing(2))
        await until(lambda: len(feed.taken) == 2)
        assert not feed.order
        server.release(first)
        assert await asyncio.to_thread(second.reached.wait, PATIENCE)
        await until(lambda: len(feed.order) == 2)
        feed.put(outgoing(3))  # after an idle time
        feed.close()
        await running
        return feed

    assert endings(asyncio.run(main())) == [Ending.ACCEPTED] * 3


def test_quit_goes_behind_the_last_message_of_a_connection(server: SmtpServer) -> None:
    feed, end = transmit(server, outgoing_messages(6), **GROWN | {"max_messages": 4})
    assert (endings(feed), feed.left, end.reconnect) == ([Ending.ACCEPTED] * 4, [5, 6], True)
    assert server.lines("QUIT") == ["QUIT"]
    # EHLO, four messages, QUIT behind them; the kernel may join some.
    assert server.bursts <= 5 and server.wait_closed()


def test_body_goes_as_it_is_and_dots_are_not_doubled(server: SmtpServer) -> None:
    body = b"Subject: dots\r\n\r\n.\r\n..two\r\nlone\nlast"
    feed, _ = transmit(server, [outgoing(1, body=body), outgoing(2)], **GROWN)
    assert endings(feed) == [Ending.ACCEPTED] * 2
    assert server.messages[0].data == b"Subject: dots\r\n\r\n.\r\n..two\r\nlone\r\nlast\r\n"


def test_message_that_is_withdrawn_leaves_no_trace(server: SmtpServer) -> None:
    answers = iter([True, False])
    withdrawn = outgoing(2, may_write=lambda: next(answers))
    feed, _ = transmit(server, [outgoing(1), withdrawn, outgoing(3)], **GROWN)
    assert endings(feed) == [Ending.ACCEPTED, Ending.UNTOUCHED, Ending.ACCEPTED]
    assert not feed.outcomes[2].mail_written and len(server.lines("MAIL")) == 2


# Refusals


@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("keeps_sender", [False, True])
def test_refusals_in_a_window_reach_their_own_messages(window: int, keeps_sender: bool) -> None:
    with SmtpServer(chunking=True, keeps_sender=keeps_sender) as server:
        server.refuse("no@example.org")
        server.defer("later@example.org")
        server.on("mail", address="barred@example.org", reply="550 5.7.1 not you")
        server.on("final", nth=9, reply="554 5.7.1 spam")
        messages = outgoing_messages(20)
        messages[4] = outgoing(5, "no@example.org", "later@example.org")
        messages[6] = outgoing(7, sender="barred@example.org")
        messages[9] = outgoing(10, "no@example.org")
        messages[14] = outgoing(15, "no@example.org", "r15@example.org", "later@example.org")
        options = GROWN | {"max_in_flight": window, "window": window}
        feed, end = transmit(server, messages, **options)
        assert end.trouble is Trouble.NONE and end.broken is None
        accepted = [number for number, outcome in feed.outcomes.items() if outcome.ending is Ending.ACCEPTED]
        assert sorted(f"r{number}@example.org" for number in accepted) == sorted(server.recipients)
        assert {message.sender for message in server.messages} == {"ann@example.org"}
        assert (feed.outcomes[5].ending, feed.outcomes[5].phase) == (Ending.TEMPORARY, "rcpt")
        assert (feed.outcomes[7].ending, feed.outcomes[7].phase) == (Ending.PERMANENT, "mail")
        assert feed.outcomes[10].error_code == "recipients_refused"
        assert [said.answer for said in feed.outcomes[15].recipients.values()] == [
            Answer.REFUSED,
            Answer.ACCEPTED,
            Answer.DEFERRED,
        ]
        refused = [
            outcome for outcome in feed.outcomes.values() if outcome.phase == "body" and outcome.smtp_code == 554
        ]
        assert len(refused) == 1 and refused[0].ending is Ending.PERMANENT


def test_server_that_closes_at_many_dead_addresses_costs_those_behind_nothing(server: SmtpServer) -> None:
    """Postfix closes at twenty errors, and a window of sixteen dead addresses makes thirty-two."""
    for number in range(1, 41):
        server.refuse(f"r{number}@example.org")
    server.on("rset", nth=10, reply="421 4.7.0 too many errors")
    options = GROWN | {"max_in_flight": 16, "window": 16}
    feed, end = transmit(server, outgoing_messages(40), **options)
    assert endings(feed) == [Ending.PERMANENT] * 10 + [Ending.UNTOUCHED] * 6
    assert (end.reconnect, end.broken, end.trouble) == (True, None, Trouble.NONE) and len(feed.left) == 24


def test_after_a_refusal_fewer_messages_are_unanswered(server: SmtpServer) -> None:
    for number in range(1, 41):
        server.refuse(f"r{number}@example.org")
    feed, end = transmit(server, outgoing_messages(40), **GROWN)
    assert set(endings(feed)) == {Ending.PERMANENT} and end.reconnect and feed.left
    assert len(server.lines("RCPT")) + len(bdats(server)) <= 20


@pytest.mark.parametrize("reply", ["503 5.5.1 bad sequence", "554 5.5.1 no", "450 4.7.0 pipelining is not allowed"])
def test_server_that_bears_no_window_costs_no_message_an_attempt(server: SmtpServer, reply: str) -> None:
    server.on("mail", nth=2, reply=reply)
    feed, end = transmit(server, outgoing_messages(8), **GROWN)
    assert (end.broken, end.reconnect, end.trouble) == (Ahead.CHUNKING, True, Trouble.NONE)
    assert feed.outcomes[2].ending is Ending.UNTOUCHED and feed.outcomes[2].ahead_refused
    others = [outcome.ending for number, outcome in feed.outcomes.items() if number != 2]
    assert set(others) == {Ending.ACCEPTED} and len(server.messages) == len(others) and feed.left


def test_421_leaves_the_messages_behind_it_untouched(server: SmtpServer) -> None:
    server.on("mail", nth=3, reply="421 4.7.0 session limit")
    feed, end = transmit(server, outgoing_messages(8), **GROWN)
    assert endings(feed)[:3] == [Ending.ACCEPTED, Ending.ACCEPTED, Ending.UNTOUCHED]
    assert set(endings(feed)[3:]) == {Ending.UNTOUCHED} and len(server.messages) == 2
    assert (end.broken, end.reconnect, end.trouble) == (None, True, Trouble.NONE)


def test_quota_begins_no_message_more_and_hears_those_behind_it(server: SmtpServer) -> None:
    server.on("final", nth=2, reply="550 5.4.5 Daily user sending limit exceeded")
    feed, end = transmit(server, outgoing_messages(12), **GROWN)
    assert feed.outcomes[2].trouble is Trouble.QUOTA and end.trouble is Trouble.QUOTA
    accepted = [number for number, outcome in feed.outcomes.items() if outcome.ending is Ending.ACCEPTED]
    assert len(accepted) == len(server.messages) == len(feed.outcomes) - 1 and len(feed.left) >= 6


def test_one_recipient_of_a_session_that_is_over_waits_and_the_others_have_the_message(server: SmtpServer) -> None:
    server.on("rcpt", address="b@example.org", reply="450 4.7.1 sending rate limit exceeded, slow down")
    feed, end = transmit(server, [outgoing(1, "a@example.org", "b@example.org"), outgoing(2)], **GROWN)
    outcome = feed.outcomes[1]
    assert (outcome.ending, outcome.trouble) == (Ending.ACCEPTED, Trouble.RATE)
    answers = {address: said.answer for address, said in outcome.recipients.items()}
    assert answers == {"a@example.org": Answer.ACCEPTED, "b@example.org": Answer.DEFERRED}
    assert end.reconnect


# Losses

CUTS = [
    ({"stage": "mail", "nth": 2}, 1),
    ({"stage": "rcpt", "nth": 2}, 1),
    ({"stage": "final", "nth": 1}, 0),
    ({"stage": "final", "nth": 2}, 1),
    ({"stage": "final", "nth": 3, "accept": True}, 2),
    ({"stage": "rset", "nth": 1}, 1),
]


@pytest.mark.parametrize("how", [{"drop": True}, {"reset": True}, {"drop": True, "raw": b"nonsense\r\n"}])
@pytest.mark.parametrize(("where", "answered"), CUTS)
def test_cut_connection_makes_unknown_what_may_have_left(
    server: SmtpServer, where: dict[str, object], answered: int, how: dict[str, object]
) -> None:
    found = FoundOut()
    server.on(**where, **how)
    feed, end = transmit(server, outgoing_messages(12), found=found, **GROWN)
    assert (end.broken, end.trouble, found.window.size) == (Ahead.WINDOW, Trouble.CONNECTION, 1)
    ended = endings(feed)[answered:]
    # The message whose bytes the system refused is untouched.
    assert ended == [Ending.UNKNOWN] * (len(ended) - 1) + [ended[-1]] and ended[-1] is not Ending.ACCEPTED
    # A reset may overtake the replies before it.
    assert set(endings(feed)[:answered]) <= ({Ending.ACCEPTED, Ending.UNKNOWN} if "reset" in how else {Ending.ACCEPTED})
    assert len(feed.taken) - answered > 1 and feed.left
    assert {said.answer for said in feed.outcomes[answered + 1].recipients.values()} == {Answer.UNKNOWN}


def test_loss_of_a_single_unanswered_message_keeps_the_window(server: SmtpServer) -> None:
    server.on("final", nth=1, drop=True)
    feed, end = transmit(server, [outgoing(1)], **GROWN)
    assert (endings(feed), end.broken, end.trouble) == ([Ending.UNKNOWN], None, Trouble.CONNECTION)


def test_what_was_refused_before_the_cut_is_known(server: SmtpServer) -> None:
    server.on("mail", nth=1, reply="550 5.7.1 not you")
    server.on("bdat", nth=1, drop=True)
    feed, _ = transmit(server, outgoing_messages(1), **GROWN)
    assert (endings(feed), feed.outcomes[1].smtp_code) == ([Ending.PERMANENT], 550)


def test_recipients_refused_before_the_cut_keep_their_answers(server: SmtpServer) -> None:
    server.refuse("no@example.org")
    server.on("rcpt", address="third@example.org", drop=True)
    recipients = ("no@example.org", "second@example.org", "third@example.org")
    feed, _ = transmit(server, [outgoing(1, *recipients)], **GROWN)
    assert [said.answer for said in feed.outcomes[1].recipients.values()] == [
        Answer.REFUSED,
        Answer.UNKNOWN,
        Answer.UNKNOWN,
    ]


def test_server_out_of_step_leaves_nothing_certain(server: SmtpServer) -> None:
    server.on("rcpt", nth=2, reply="354 go ahead")
    feed, end = transmit(server, outgoing_messages(8), **GROWN)
    assert endings(feed) == [Ending.ACCEPTED] + [Ending.UNKNOWN] * (len(feed.taken) - 1)
    assert (end.trouble, end.reconnect) == (Trouble.CONNECTION, False)


def test_silence_in_a_window_ends_after_the_time_of_a_body(server: SmtpServer) -> None:
    rule = server.on("mail", nth=2, stall=True)
    feed, end = transmit(server, outgoing_messages(8), **GROWN | {"timeout": 60.0, "final_timeout": 0.5})
    assert rule.hits == 1 and end.broken is Ahead.WINDOW
    assert endings(feed) == [Ending.ACCEPTED] + [Ending.UNKNOWN] * (len(feed.taken) - 1)


def test_messages_whose_end_has_not_left_are_untouched() -> None:
    """The server reads nothing: the messages that stay in asyncio's buffer are certain."""
    body = b"Subject: x\r\n\r\n" + 3000 * (b"x" * 78 + b"\r\n")
    feed = ListFeed(outgoing_messages(40, body=body))
    ours, theirs = socket.socketpair()

    async def main() -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        options = GROWN | {"max_in_flight": 32, "window": 32}
        settings = ConnectionSettings("mail.example.org", 25, "none", "none", **options)  # type: ignore[arg-type]
        session = SmtpSession(
            transport, extensions=Extensions(pipelining=True, chunking=True), settings=settings, peer="the other end"
        )
        running = asyncio.ensure_future(session.run(feed))
        await until(lambda: feed.taken)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with theirs:
        asyncio.run(main())
    feed.check()
    found = endings(feed)
    assert found == sorted(found), "unknown ones first"
    assert set(found) <= {Ending.UNKNOWN, Ending.UNTOUCHED} and Ending.UNTOUCHED in found


# Cancellation and other connections


def test_cancelled_window_reports_every_message_once(server: SmtpServer) -> None:
    rule = server.on("final", nth=2, stall=True)

    async def main() -> ListFeed:
        feed = ListFeed(outgoing_messages(8))
        session = await SmtpTransport().open(settings_for(server, **GROWN))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        await until(lambda: feed.order == [1])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        feed.check()
        return feed

    assert endings(asyncio.run(main())) == [Ending.ACCEPTED, *[Ending.UNKNOWN] * 4]


def test_connections_share_one_probe_and_one_window(server: SmtpServer) -> None:
    found = FoundOut()
    feed = ListFeed(outgoing_messages(400))

    async def main() -> list[SessionEnd]:
        options = {"pipelining": "auto", "max_in_flight": 4, "found": found}
        settings = settings_for(server, **options)
        sessions = [await SmtpTransport().open(settings) for _ in range(4)]
        return await asyncio.gather(*(session.run(feed) for session in sessions))

    asyncio.run(main())
    feed.check()
    assert endings(feed) == [Ending.ACCEPTED] * 400 and found.window.size == 4
    assert sorted(server.recipients) == sorted(f"r{n}@example.org" for n in range(1, 401))
    assert server.lines("BDAT").count("BDAT 6 LAST") == 2


def test_connection_in_a_window_ends_in_good_order_where_another_finds_that_the_server_bears_none(
    server: SmtpServer,
) -> None:
    found = FoundOut()
    rule = server.on("final", nth=2, stall=True)

    async def main() -> tuple[ListFeed, SessionEnd]:
        feed = ListFeed(outgoing_messages(8))
        session = await SmtpTransport().open(settings_for(server, found=found, **GROWN))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        found.give_up(Ahead.CHUNKING)
        server.release(rule)
        return feed, await running

    feed, end = asyncio.run(main())
    assert (set(endings(feed)), end.reconnect, end.trouble) == ({Ending.ACCEPTED}, True, Trouble.NONE)
    assert feed.left and server.lines("QUIT") == ["QUIT"]


def test_tls_connection_has_a_window_too() -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}, chunking=True) as server:
        messages: list[OutgoingMessage] = outgoing_messages(50)
        feed = ListFeed(messages)
        asyncio.run(run_session(SmtpTransport(), settings_for(server, **GROWN), feed))
        assert endings(feed) == [Ending.ACCEPTED] * 50 and len(bdats(server)) == 50
