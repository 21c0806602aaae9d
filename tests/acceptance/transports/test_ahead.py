"""Servers that do not bear what is written ahead: no message pays, and the account's connections learn it together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Trouble
from prx_email_django.transports.base import SessionEnd
from prx_email_django.transports.found import Ahead, FoundOut
from prx_email_django.transports.smtp.connection import SmtpTransport
from tests.support.outgoing_messages import (
    ListFeed,
    outgoing,
    outgoing_messages,
    run_session,
    settings_for,
    transmit,
    transmit_into_silence,
)
from tests.support.smtp_connection import Connection
from tests.support.smtp_server import SmtpServer


def endings(feed: ListFeed) -> list[Ending]:
    return [feed.outcomes[number].ending for number in sorted(feed.outcomes)]


def all_sessions(server: SmtpServer, messages: int, **options: Any) -> tuple[dict[int, Outcome], list[SessionEnd]]:
    """Send messages over one connection after the other, untouched ones again, as a worker does."""
    outcomes: dict[int, Outcome] = {}
    ends: list[SessionEnd] = []
    settings = settings_for(server, **options)
    waiting = {message.id: message for message in outgoing_messages(messages)}
    while waiting:
        assert len(ends) < 6, ends
        feed = ListFeed(waiting.values())
        ends.append(asyncio.run(run_session(SmtpTransport(), settings, feed)))
        done = {number: said for number, said in feed.outcomes.items() if said.ending is not Ending.UNTOUCHED}
        outcomes |= done
        waiting = {number: message for number, message in waiting.items() if number not in done}
    return outcomes, ends


# Servers that break


def drop_the_rest(self: Connection) -> None:
    """One command per read: what came in the same segment is dropped."""
    if self.body is None and b"\r\n" in self.buffer:
        self.buffer = self.buffer[: self.buffer.index(b"\r\n") + 2]


def drop_behind_a_body(self: Connection) -> None:
    """What came in the same segment as the end of a body is dropped."""
    if self.body is not None and b"\r\n.\r\n" in self.buffer:
        self.buffer = self.buffer[: self.buffer.index(b"\r\n.\r\n") + 5]


def only_the_last(self: Connection) -> None:
    """Of the commands in one segment only the last is executed."""
    if self.body is None and self.buffer.endswith(b"\r\n"):
        self.buffer = self.buffer.splitlines(keepends=True)[-1]


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The scripted server treats what it reads as the parameter says."""
    spoil: Callable[[Connection], None] = request.param
    real = Connection.process

    def process(self: Connection) -> None:
        spoil(self)
        real(self)

    monkeypatch.setattr(Connection, "process", process)


@pytest.fixture
def one_answer_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands of one segment are executed, and get one reply: the last one."""
    real = Connection.flush

    def flush(self: Connection) -> None:
        replies = b"".join(self.out).splitlines(keepends=True)
        if len(replies) > 1 and replies[0][3:4] != b"-":
            self.out[:] = replies[1:]
        real(self)

    monkeypatch.setattr(Connection, "flush", flush)


@pytest.mark.parametrize("level", ["auto", "full"])
def test_haraka_costs_no_message_an_attempt(haraka: None, server: SmtpServer, level: str) -> None:
    outcomes, ends = all_sessions(server, 20, pipelining=level)
    assert {said.ending for said in outcomes.values()} == {Ending.ACCEPTED} and len(server.messages) == 20
    assert [end.broken for end in ends] == [Ahead.OVERLAP, None]
    assert (ends[0].reconnect, ends[0].trouble) == (True, Trouble.NONE)
    assert "pipelined after end of DATA" in ends[0].error


@pytest.mark.parametrize(
    ("breaking", "levels"),
    [
        (drop_the_rest, [Ahead.ENVELOPE, None]),
        (only_the_last, [Ahead.ENVELOPE, None]),
        (drop_behind_a_body, [Ahead.OVERLAP, None]),
    ],
    indirect=["breaking"],
)
def test_server_that_drops_commands_costs_no_message_an_attempt(
    breaking: None, server: SmtpServer, levels: list[Ahead | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prx_email_django.transports.smtp.session_state.TRIAL_TIMEOUT", 0.3)
    outcomes, ends = all_sessions(server, 10, pipelining="full")
    assert {said.ending for said in outcomes.values()} == {Ending.ACCEPTED}
    assert sorted(server.recipients) == sorted(f"r{number}@example.org" for number in range(1, 11))
    assert [end.broken for end in ends] == levels
    assert ends[0].trouble is Trouble.NONE


def test_server_that_answers_once_for_two_costs_no_message_an_attempt(
    one_answer_for_two: None, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prx_email_django.transports.smtp.session_state.TRIAL_TIMEOUT", 0.3)
    outcomes, ends = all_sessions(server, 10, pipelining="full")
    assert {said.ending for said in outcomes.values()} == {Ending.ACCEPTED}
    assert sorted(server.recipients) == sorted(f"r{number}@example.org" for number in range(1, 11))
    assert [end.broken for end in ends] == [Ahead.ENVELOPE, None]


# Replies


@pytest.mark.parametrize(
    "reply",
    [
        "503 Bad sequence of commands - pipelined after end of DATA",
        "503 5.5.1 nested MAIL command",
        "554 5.7.1 whatever",
        "554 5.5.0 Error: SMTP protocol synchronization",
        "500 5.5.0 pipelining is not allowed here",
        "450 4.7.0 improper command pipelining",
        "550 SMTP synchronisation error",
        "421 4.7.0 improper command pipelining, goodbye",
    ],
)
def test_refusal_of_an_overlapped_envelope_releases_its_message(server: SmtpServer, reply: str) -> None:
    server.on("mail", nth=2, reply=reply)
    feed, end = transmit(server, outgoing_messages(3), pipelining="full")
    assert endings(feed) == [Ending.ACCEPTED, Ending.UNTOUCHED]
    assert (end.broken, end.reconnect, end.trouble) == (Ahead.OVERLAP, True, Trouble.NONE)


def test_421_to_an_overlapped_envelope_teaches_nothing(server: SmtpServer) -> None:
    server.on("mail", nth=2, reply="421 4.3.2 shutting down")
    feed, end = transmit(server, outgoing_messages(3), pipelining="full")
    assert endings(feed) == [Ending.ACCEPTED, Ending.UNTOUCHED]
    assert (end.broken, end.reconnect) == (None, True)


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
@pytest.mark.parametrize(
    "reply",
    [
        "503 5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining",
        "554 5.5.0 Error: SMTP protocol synchronization",
        "550 5.5.0 no pipelining please",
        "503 5.5.1 RCPT first",
    ],
)
def test_refusal_of_an_envelope_in_one_piece_releases_its_message(server: SmtpServer, stage: str, reply: str) -> None:
    server.on(stage, nth=1, reply=reply)
    feed, end = transmit(server, outgoing_messages(3), pipelining="envelope")
    assert endings(feed) == [Ending.UNTOUCHED]
    assert (end.broken, end.reconnect, end.trouble) == (Ahead.ENVELOPE, True, Trouble.NONE)


def test_reply_to_data_in_the_place_of_the_reply_to_mail_is_not_the_senders(server: SmtpServer) -> None:
    server.on("mail", nth=1, reply="554 5.5.1 Error: no valid recipients")
    feed, end = transmit(server, outgoing_messages(2), pipelining="envelope")
    assert endings(feed) == [Ending.UNTOUCHED] and end.broken is Ahead.ENVELOPE


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
@pytest.mark.parametrize(
    "reply", ["554 5.7.1 <pipelining@example.org>: rejected", "550 5.1.1 <pipelined@example.org> unknown"]
)
def test_genuine_refusal_of_an_envelope_is_the_messages(server: SmtpServer, stage: str, reply: str) -> None:
    server.on(stage, nth=1, reply=reply)
    feed, end = transmit(server, outgoing_messages(2), pipelining="envelope")
    assert endings(feed) == [Ending.PERMANENT, Ending.ACCEPTED] and end.broken is None


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_without_anything_ahead_the_reply_is_the_messages(server: SmtpServer, stage: str) -> None:
    """Otherwise a message that is always refused so would be released for ever."""
    server.on(stage, nth=1, reply="503 5.5.1 pipelining")
    feed, end = transmit(server, outgoing_messages(2), pipelining="off")
    assert feed.outcomes[1].ending is not Ending.UNTOUCHED and end.broken is None


@pytest.mark.parametrize("reply", ["503 5.5.1 pipelined", "554 5.5.0 SMTP synchronization error"])
def test_body_refused_for_the_envelope_behind_it_releases_both(server: SmtpServer, reply: str) -> None:
    server.on("final", nth=1, reply=reply)
    feed, end = transmit(server, outgoing_messages(2), pipelining="full")
    assert endings(feed) == [Ending.UNTOUCHED, Ending.UNTOUCHED] and end.broken is Ahead.OVERLAP


# Silence


@pytest.mark.parametrize("stage", ["rcpt", "data"])
def test_silence_to_the_first_envelope_in_one_piece_is_not_the_messages(server: SmtpServer, stage: str) -> None:
    """Ten seconds: within SEND_DEADLINE a ``send`` can try again without it."""
    rule = server.on(stage, stall=True)
    feed, end = transmit_into_silence(
        server, outgoing_messages(2), rule, seconds=10, pipelining="envelope", timeout=60.0
    )
    assert endings(feed) == [Ending.UNTOUCHED] and feed.outcomes[1].ahead_refused
    assert (end.broken, end.reconnect, end.trouble) == (Ahead.ENVELOPE, True, Trouble.NONE)


def test_silence_to_a_later_envelope_is_the_messages(server: SmtpServer) -> None:
    rule = server.on("rcpt", nth=2, stall=True)
    feed, end = transmit_into_silence(
        server, outgoing_messages(2), rule, seconds=60, pipelining="envelope", timeout=60.0
    )
    assert endings(feed) == [Ending.ACCEPTED, Ending.TEMPORARY] and end.broken is None


# Sharing


def test_one_connection_tries_and_the_others_wait_for_its_answer() -> None:
    found, first, second = FoundOut(), object(), object()
    assert found.may_use(Ahead.OVERLAP, first) and found.may_use(Ahead.OVERLAP, second)
    found.use(Ahead.OVERLAP, first)
    assert found.may_use(Ahead.OVERLAP, first) and not found.may_use(Ahead.OVERLAP, second)
    assert found.may_use(Ahead.ENVELOPE, second)
    found.prove(Ahead.OVERLAP, second)
    assert not found.may_use(Ahead.OVERLAP, second), "only who tries it can prove it"
    found.leave(first)
    assert found.may_use(Ahead.OVERLAP, second), "a trial without an answer must not bar the others"
    found.use(Ahead.OVERLAP, second)
    found.prove(Ahead.OVERLAP, second)
    assert found.may_use(Ahead.OVERLAP, first)
    found.give_up(Ahead.OVERLAP)
    assert not found.may_use(Ahead.OVERLAP, first) and not found.may_use(Ahead.OVERLAP, second)


def test_eight_connections_to_haraka_lose_one_connection(haraka: None, server: SmtpServer) -> None:
    feed = ListFeed(outgoing_messages(200))

    async def main() -> list[SessionEnd]:
        transport, settings = SmtpTransport(), settings_for(server, pipelining="full")
        sessions = [await transport.open(settings) for _ in range(8)]
        return list(await asyncio.gather(*(session.run(feed) for session in sessions)))

    ends = asyncio.run(main())
    feed.check()
    assert [end.broken for end in ends].count(Ahead.OVERLAP) == 1
    assert endings(feed).count(Ending.UNTOUCHED) == 1 and len(server.messages) == 199


# Recipients of one transaction


def test_too_many_recipients_keep_the_connection_and_are_not_written_again(server: SmtpServer, level: str) -> None:
    server.max_recipients = 100
    addresses = tuple(f"r{number}@example.org" for number in range(1000))
    settings = settings_for(server, pipelining=level)

    async def main() -> None:
        session = await SmtpTransport().open(settings)
        feed = Again(addresses)
        end = await session.run(feed)
        assert (end.error, feed.open) == ("", ())

    asyncio.run(main())
    assert sorted(server.recipients) == sorted(addresses)
    assert (len(server.messages), server.connections) == (10, 1)
    assert len(server.lines("RCPT")) == 1900, "the first transaction finds out, the others keep to it"


class Again(ListFeed):
    """Feed of one message, which comes again with the recipients that did not fit, as a worker sends it."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        super().__init__([outgoing(1, *addresses)])
        self.open = addresses

    def report(self, message: Any, outcome: Outcome) -> None:
        super().report(message, outcome)
        assert outcome.ending is Ending.ACCEPTED
        answers = {address: said.answer for address, said in outcome.recipients.items()}
        self.open = tuple(address for address, answer in answers.items() if answer is Answer.TOO_MANY)
        if self.open:
            self._queue.append(outgoing(1, *self.open))
