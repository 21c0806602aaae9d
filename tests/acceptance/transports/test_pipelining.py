"""Pipelining levels and their fallbacks: round trips are counted on a real socket, never timed."""

from __future__ import annotations

import asyncio
from email import message_from_bytes

import pytest

from prx_email_django.rules.outcomes import Ending, Trouble
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import (
    BODY,
    ListFeed,
    outgoing,
    outgoing_messages,
    run_session,
    settings_for,
    transmit,
    transmit_into_silence,
)
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer


def all_accepted(feed: ListFeed) -> bool:
    return {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}


# Round trips


@pytest.mark.parametrize(("level", "most"), [("off", 4.1), ("envelope", 2.1), ("full", 1.3), ("auto", 1.3)])
def test_busy_connection_needs_no_more_round_trips_than_its_level(server: SmtpServer, level: str, most: float) -> None:
    feed, _ = transmit(server, outgoing_messages(100), pipelining=level)
    assert all_accepted(feed)
    # Not counted: EHLO and QUIT.
    assert (server.bursts - 2) / 100 <= most


def test_off_writes_one_command_at_a_time(server: SmtpServer) -> None:
    server.pipelining = False
    server.refuse("no@example.org")
    messages = [
        outgoing(1, "no@example.org"),
        outgoing(2, "no@example.org", "r2@example.org"),
        *outgoing_messages(5)[2:],
    ]
    feed, _ = transmit(server, messages, pipelining="full")
    assert [outcome.ending for outcome in feed.outcomes.values()] == [Ending.PERMANENT] + [Ending.ACCEPTED] * 4
    assert server.violations == 0


def test_auto_overlaps_after_three_messages_only(server: SmtpServer) -> None:
    rule = server.on("final", nth=4, stall=True)
    seen: list[int] = []

    async def main() -> None:
        feed = ListFeed(outgoing_messages(6))
        session = await SmtpTransport().open(settings_for(server, pipelining="auto"))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        seen.extend(feed.taken)
        server.release(rule)
        await running

    asyncio.run(main())
    assert seen == [1, 2, 3, 4, 5]
    commands = [line for _, line in server.commands if line.startswith(("MAIL", "DATA"))]
    assert commands[:6] == [commands[0], "DATA"] * 3


def test_session_without_a_next_message_sends_each_alone(server: SmtpServer) -> None:
    feed, _ = transmit(server, outgoing_messages(10), ahead=False, pipelining="full")
    assert all_accepted(feed) and len(server.messages) == 10


def test_envelope_ahead_is_taken_just_before_it_is_written(server: SmtpServer) -> None:
    """Behind a large body the message would else be taken, and ``may_write`` asked, minutes too early."""
    rule = server.on("body", stall=True, after=1)
    large = b"x" * 78 + b"\r\n"
    taken: list[int] = []

    async def main() -> ListFeed:
        feed = ListFeed([outgoing(1, body=large * 250_000), outgoing(2)])
        session = await SmtpTransport().open(settings_for(server, pipelining="full"))
        running = asyncio.ensure_future(session.run(feed))
        assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
        taken.extend(feed.taken)
        server.release(rule)
        await running
        return feed

    assert all_accepted(asyncio.run(main()))
    assert taken == [1]


# Refusals in a pipeline


def test_354_after_all_recipients_were_refused_delivers_nothing(level: str) -> None:
    with SmtpServer(data_without_recipients=True) as server:
        server.refuse("no@example.org")
        messages = [outgoing(1), outgoing(2, "no@example.org"), outgoing(3, "no@example.org"), outgoing(4)]
        feed, _ = transmit(server, messages, pipelining=level)
        assert [feed.outcomes[number].ending for number in (1, 4)] == [Ending.ACCEPTED] * 2
        assert [feed.outcomes[number].error_code for number in (2, 3)] == ["recipients_refused"] * 2
        assert [message.data for message in server.messages] == [BODY, BODY]


def test_refusals_in_a_busy_pipeline_reach_their_own_messages(server: SmtpServer, level: str) -> None:
    server.refuse("no@example.org")
    server.on("mail", address="barred@example.org", reply="550 5.7.1 not you")
    server.on("data", nth=8, reply="451 4.3.0 later")
    server.on("final", nth=9, reply="554 5.7.1 spam")
    messages = outgoing_messages(20)
    messages[4] = outgoing(5, "no@example.org")
    messages[6] = outgoing(7, sender="barred@example.org")
    feed, end = transmit(server, messages, pipelining=level)
    assert len(feed.outcomes) == 20 and end.trouble is Trouble.NONE
    accepted = [number for number, outcome in feed.outcomes.items() if outcome.ending is Ending.ACCEPTED]
    assert sorted(f"r{number}@example.org" for number in accepted) == sorted(server.recipients)
    assert feed.outcomes[5].phase == "rcpt" and feed.outcomes[7].phase == "mail"
    assert sorted(outcome.phase for outcome in feed.outcomes.values() if outcome.ending is not Ending.ACCEPTED) == [
        "body",
        "data",
        "mail",
        "rcpt",
    ]


def test_connection_is_replaced_after_ten_refused_commands(server: SmtpServer, level: str) -> None:
    """Ten, since Postfix closes at twenty; Postfix counts the DATA after a refused envelope, so it counts here too."""
    for number in range(1, 21):
        server.refuse(f"r{number}@example.org")
    feed, end = transmit(server, outgoing_messages(20), pipelining=level)
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)
    assert 10 <= len(server.lines("RCPT")) + len(server.lines("DATA")) <= 11 and feed.left
    assert server.lines("QUIT") == ["QUIT"]


@pytest.mark.parametrize("stage", ["mail", "data", "final"])
def test_refused_messages_count_in_every_phase(server: SmtpServer, level: str, stage: str) -> None:
    server.on(stage, reply="550 5.7.1 not this")
    feed, end = transmit(server, outgoing_messages(20), pipelining=level)
    assert (end.reconnect, end.trouble) == (True, Trouble.NONE)
    # Where the sender is refused, the RCPT and the DATA behind it are refused too.
    each = 3 if stage == "mail" and level != "off" else 1
    assert 10 <= each * len(feed.outcomes) <= 12 and feed.left
    assert server.lines("QUIT") == ["QUIT"]


# The first write of a body with the next envelope behind it


@pytest.mark.parametrize("what", [{"drop": True}, {"stall": True}, {"raw": b"malformed\r\n"}])
def test_loss_of_the_first_overlapped_write_is_reported(server: SmtpServer, what: dict[str, object]) -> None:
    rule = server.on("final", nth=4, **what)
    if rule.stall:
        feed, end = transmit_into_silence(
            server, outgoing_messages(6), rule, seconds=60, pipelining="auto", final_timeout=60.0
        )
    else:
        feed, end = transmit(server, outgoing_messages(6), pipelining="auto")
    assert end.broken is Ahead.OVERLAP
    assert (feed.outcomes[4].ending, feed.outcomes[5].ending) == (Ending.UNKNOWN, Ending.UNTOUCHED)


def test_server_out_of_step_after_the_first_overlap_is_reported_and_fails_no_message_permanently(
    server: SmtpServer,
) -> None:
    server.on("mail", nth=5, reply="503 5.5.1 nested MAIL command")
    feed, end = transmit(server, outgoing_messages(6), pipelining="auto")
    assert end.broken is Ahead.OVERLAP and end.trouble is Trouble.NONE
    assert feed.outcomes[5].ending is Ending.UNTOUCHED and feed.outcomes[5].ahead_refused


@pytest.mark.parametrize("nth", [1, 3, 5, 6])
def test_loss_elsewhere_is_not_blamed_on_overlap(server: SmtpServer, nth: int) -> None:
    server.on("final", nth=nth, drop=True)
    _, end = transmit(server, outgoing_messages(8), pipelining="auto")
    assert end.broken is None and end.trouble is Trouble.CONNECTION


@pytest.mark.parametrize(("level", "nth"), [("auto", 4), ("full", 1)])
def test_loss_before_the_first_overlapped_write_is_not_blamed_on_it(server: SmtpServer, level: str, nth: int) -> None:
    """Nothing was written behind a body, so there is no reason to do without overlap for a week."""
    server.on("data", nth=nth, raw=b"354 go ahead\r\n250 and more\r\n")
    feed, end = transmit(server, outgoing_messages(6), pipelining=level)
    assert feed.outcomes[nth].ending is Ending.TEMPORARY and end.broken is None
    assert feed.taken == list(range(1, nth + 1)), "a message was taken that could not be sent any more"


def test_loss_after_the_first_overlap_was_answered_is_not_blamed_on_it(server: SmtpServer) -> None:
    server.on("rcpt", nth=5, drop=True)
    feed, end = transmit(server, outgoing_messages(6), pipelining="auto")
    assert (end.broken, feed.outcomes[5].ending) == (None, Ending.TEMPORARY)


def test_loss_after_the_first_overlapped_sender_was_refused_is_not_blamed_on_overlap(server: SmtpServer) -> None:
    """A correct refusal shows that the server is in step, as an acceptance does."""
    server.on("mail", nth=5, reply="550 5.7.1 not you")
    server.on("mail", nth=6, drop=True)
    feed, end = transmit(server, outgoing_messages(8), pipelining="auto")
    assert (feed.outcomes[4].ending, feed.outcomes[5].ending) == (Ending.ACCEPTED, Ending.PERMANENT)
    assert feed.left and end.broken is None


@pytest.mark.parametrize(("stage", "nth", "trouble"), [("mail", 5, Trouble.NONE), ("final", 4, Trouble.CONNECTION)])
def test_correct_421_is_not_blamed_on_overlap(server: SmtpServer, stage: str, nth: int, trouble: Trouble) -> None:
    server.on(stage, nth=nth, reply="421 4.7.0 session limit")
    feed, end = transmit(server, outgoing_messages(6), pipelining="auto")
    assert (end.broken, end.trouble, feed.outcomes[5].ending) == (None, trouble, Ending.UNTOUCHED)


def test_no_message_is_taken_after_the_last_of_a_connection(server: SmtpServer, level: str) -> None:
    feed, end = transmit(server, outgoing_messages(5), pipelining=level, max_messages=3)
    assert (feed.taken, len(server.messages), end.reconnect) == ([1, 2, 3], 3, True)


# Messages that are withdrawn at the last moment


def test_message_withdrawn_between_two_commands_is_reset_and_the_next_goes_on(server: SmtpServer) -> None:
    feed, end = transmit(server, [outgoing(1, may_continue=lambda: False), outgoing(2)], pipelining="off")
    assert (feed.outcomes[1].ending, feed.outcomes[2].ending) == (Ending.UNTOUCHED, Ending.ACCEPTED)
    assert (server.lines("RSET"), end.reconnect) == (["RSET"], False)


def test_next_message_follows_when_the_one_behind_the_body_is_withdrawn(server: SmtpServer) -> None:
    messages = [outgoing(1), outgoing(2, may_write=lambda: False), outgoing(3)]
    feed, _ = transmit(server, messages, pipelining="full")
    assert [feed.outcomes[n].ending for n in (1, 2, 3)] == [Ending.ACCEPTED, Ending.UNTOUCHED, Ending.ACCEPTED]
    assert len(server.lines("MAIL")) == 2


# Bytes on the wire


def test_dots_and_lone_line_ends_arrive_as_lines(server: SmtpServer) -> None:
    body = b".first\r\n..\r\n.\r\nlone\n.\nand\r.\rend"
    transmit(server, [outgoing(1, body=body), outgoing(2)])
    assert server.messages[0].data == b".first\r\n..\r\n.\r\nlone\r\n.\r\nand\r\n.\r\nend\r\n"
    assert len(server.messages) == 2


def test_large_body_arrives_whole_with_dots_at_the_chunk_borders(server: SmtpServer, level: str) -> None:
    body = b".\r\n" * 100_000 + b"end\r\n"
    transmit(server, [outgoing(1, body=body), outgoing(2)], pipelining=level)
    assert server.messages[0].data == body and server.messages[1].data == BODY


def test_parameters_of_mail_follow_message_and_server(server: SmtpServer) -> None:
    messages = [
        outgoing(1),
        outgoing(2, body=b"\xff\r\n", eight_bit=True),
        outgoing(3, "b\N{LATIN SMALL LETTER O WITH DIAERESIS}b@example.org"),
        outgoing(4, "bob@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example"),
        outgoing(5, sender=""),
    ]
    feed, _ = transmit(server, messages)
    assert all_accepted(feed)
    assert [message.options for message in server.messages] == [
        (f"SIZE={len(BODY)}",),
        ("SIZE=3", "BODY=8BITMIME"),
        (f"SIZE={len(BODY)}", "SMTPUTF8"),
        (f"SIZE={len(BODY)}",),
        (f"SIZE={len(BODY)}",),
    ]
    assert server.recipients[2:4] == ["böb@example.org", "bob@xn--bcher-kva.example"]
    assert server.messages[4].sender == ""


def test_what_the_server_cannot_take_is_a_clear_error() -> None:
    with SmtpServer(utf8=False, eight_bit=False, size=None) as server:
        messages = [outgoing(1, utf8=True), outgoing(2, "b\xf6b@example.org"), outgoing(3)]
        feed, _ = transmit(server, messages)
        assert [feed.outcomes[n].error_code for n in (1, 2)] == ["content", "recipients_refused"]
        assert "SMTPUTF8" in feed.outcomes[1].error and "SMTPUTF8" in feed.outcomes[2].error
        assert [message.options for message in server.messages] == [()]


def test_eight_bits_are_encoded_for_a_server_that_takes_seven() -> None:
    body = b"Subject: x\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n"
    with SmtpServer(eight_bit=False) as server:
        feed, _ = transmit(server, [outgoing(1, body=body, eight_bit=True)])
        assert all_accepted(feed)
        (received,) = server.messages
    assert received.options == (f"SIZE={len(received.data)}",), "the size of what is sent"
    assert received.data.isascii()
    assert message_from_bytes(received.data).get_payload(decode=True) == "grüße\r\n".encode()


def test_eight_connections_share_one_feed_and_send_each_message_once(server: SmtpServer) -> None:
    feed = ListFeed(outgoing_messages(400))

    async def main() -> None:
        transport, settings = SmtpTransport(), settings_for(server)
        sessions = [await transport.open(settings) for _ in range(8)]
        await asyncio.gather(*(session.run(feed) for session in sessions))

    asyncio.run(main())
    feed.check()
    assert all_accepted(feed) and sorted(server.recipients) == sorted(f"r{n}@example.org" for n in range(1, 401))
    assert server.max_open_connections == 8 and server.wait_closed()


def test_tls_connection_pipelines_too() -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        feed = ListFeed(outgoing_messages(50))
        asyncio.run(run_session(SmtpTransport(), settings_for(server, pipelining="full"), feed))
        assert all_accepted(feed) and len(server.messages) == 50
