"""Messages whose every reply is the usual one go by a shorter way; to any other reply, both ways do the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.base import OutgoingMessage
from prx_email_django.transports.smtp import transaction, window
from prx_email_django.transports.smtp.protocol import SmtpProtocol
from tests.support.outgoing_messages import BODY, ListFeed, outgoing, outgoing_messages, transmit
from tests.support.smtp_server import SmtpServer

#: What a server says instead of the usual reply.
ODD_REPLIES: dict[str, dict[str, Any]] = {
    "250": {"reply": "250 2.0.0 ok"},
    "251": {"reply": "251 user not local; will forward"},
    "354": {"reply": "354 go on"},
    "421": {"reply": "421 4.3.2 going down"},
    "421, open": {"raw": b"421 4.3.2 going down\r\n"},
    "450": {"reply": "450 4.2.1 busy"},
    "452": {"reply": "452 4.5.3 too many recipients"},
    "454": {"reply": "454 Throttling failure: Maximum sending rate exceeded"},
    "550": {"reply": "550 5.1.1 no such user"},
    "552": {"reply": "552 5.2.2 daily quota exceeded"},
    "several lines": {"reply": "250-2.0.0 first\r\n250 2.0.0 second"},
    "two replies": {"raw": b"250 2.0.0 ok\r\n250 2.0.0 one too many\r\n"},
    "no reply": {"raw": b"hello\r\n"},
    "closed": {"drop": True},
    "closed after a reply": {"raw": b"250 2.0.0 ok\r\n", "drop": True},
}


def without_usual_way(patch: pytest.MonkeyPatch) -> None:
    """Let coroutines alone do everything, and judge each reply by itself."""
    patch.setattr(transaction, "_go_on", lambda _: False)
    patch.setattr(window._Window, "_go_on", lambda _: False)
    patch.setattr(window, "judge_usual", lambda _: None)


def seen(
    stage: str, nth: int, odd: str, *, usual: bool, monkeypatch: pytest.MonkeyPatch, in_flight: int = 0
) -> tuple[Any, ...]:
    """What a session comes to, by the shorter way or without it.

    Eight messages; with ``in_flight`` four by BDAT: how many of more were written when a connection ends is chance.
    """
    with SmtpServer(chunking=in_flight > 0) as server, monkeypatch.context() as patch:
        if not usual:
            without_usual_way(patch)
        server.on(stage, nth=nth, **ODD_REPLIES[odd])
        count = 4 if in_flight else 8
        messages = [outgoing(number + 1, f"a{number}@example.org", f"b{number}@example.org") for number in range(count)]
        chunking: dict[str, Any] = {"pipelining": "chunked", "max_in_flight": in_flight, "window": in_flight}
        feed, end = transmit(server, messages, **(chunking if in_flight else {"pipelining": "full"}))
        outcomes = {number: replace(outcome, peer="") for number, outcome in feed.outcomes.items()}
        if in_flight and "closed" in odd:  # with a reset, where the server had not read all: its words differ
            outcomes = {number: replace(outcome, error="") for number, outcome in outcomes.items()}
            end = replace(end, error="")
        return outcomes, feed.order, feed.left, end, [message.recipients for message in server.messages]


@pytest.mark.parametrize("odd", ODD_REPLIES)
@pytest.mark.parametrize(
    ("stage", "nth"), [("mail", 5), ("rcpt", 9), ("rcpt", 10), ("data", 5), ("final", 1), ("final", 5)]
)
def test_an_odd_reply_means_the_same(stage: str, nth: int, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(stage, nth, odd, usual=False, monkeypatch=monkeypatch)
    assert seen(stage, nth, odd, usual=True, monkeypatch=monkeypatch) == expected


@pytest.mark.parametrize("odd", ODD_REPLIES)
@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(
    ("stage", "nth"), [("rset", 2), ("mail", 3), ("rcpt", 5), ("rcpt", 6), ("final", 1), ("final", 3)]
)
def test_an_odd_reply_in_a_window_means_the_same(
    stage: str, nth: int, odd: str, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = seen(stage, nth, odd, usual=False, monkeypatch=monkeypatch, in_flight=in_flight)
    assert seen(stage, nth, odd, usual=True, monkeypatch=monkeypatch, in_flight=in_flight) == expected


class LateFeed(ListFeed):
    """No message is there when a session looks for the first time; it is called a moment later, ``most`` times."""

    def __init__(self, outgoing_messages: Iterable[OutgoingMessage], *, most: int = 1000) -> None:
        super().__init__(outgoing_messages)
        self._is_there = False
        self._most = most
        self.called = 0

    def take(self) -> OutgoingMessage | None:
        return None  # none is written behind another

    def take_or_listen(self, changed: Callable[[], None]) -> OutgoingMessage | None:
        self._is_there = not self._is_there
        if not self._is_there:
            return self._pop()
        if self._queue and self.called < self._most:
            self.called += 1
            asyncio.get_running_loop().call_soon(changed)
        return None


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The deadline of each wait of a session's task."""
    seen: list[object] = []
    wait = SmtpProtocol._wait

    async def counted(protocol: SmtpProtocol, deadline: float | None) -> None:
        seen.append(deadline)
        await wait(protocol, deadline)

    monkeypatch.setattr(SmtpProtocol, "_wait", counted)
    return seen


def test_usual_replies_wake_no_task(server: SmtpServer, waits: list[object]) -> None:
    feed, _ = transmit(server, outgoing_messages(50), pipelining="full")
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
    assert len(waits) < 10


def test_usual_replies_in_a_window_wake_no_task(waits: list[object]) -> None:
    with SmtpServer(chunking=True) as server:
        feed, _ = transmit(server, outgoing_messages(50), pipelining="chunked", max_in_flight=4, window=4)
        assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
        assert len(server.lines("BDAT")) == 50 and len(waits) < 10


@pytest.mark.parametrize("pipelining", ["envelope", "full"])
def test_a_message_that_a_connection_has_waited_for_wakes_no_task(
    server: SmtpServer, waits: list[object], pipelining: str
) -> None:
    feed = LateFeed(outgoing_messages(50))
    transmit(server, feed, pipelining=pipelining)
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
    assert (len(feed.outcomes), feed.called) == (50, 50)
    assert len(waits) < 10


def test_a_server_that_hangs_up_while_a_connection_waits_costs_no_message(server: SmtpServer) -> None:
    server.on("final", nth=3, reply="250 2.0.0 ok", drop=True)
    feed = LateFeed(outgoing_messages(8), most=3)
    _, end = transmit(server, feed, pipelining="full")
    assert [outcome.ending for outcome in feed.outcomes.values()] == [Ending.ACCEPTED] * 3
    assert (len(feed.left), end.reconnect) == (5, True)


def test_a_message_that_may_not_be_written_any_more_is_given_back(server: SmtpServer) -> None:
    """Its claim is lost between its envelope and its body: the server waits for a body, and the connection ends."""
    asked: list[int] = []

    def once() -> bool:
        asked.append(1)
        return len(asked) == 1

    messages = outgoing_messages(8)
    messages[5] = outgoing(6, "r6@example.org", may_write=once)
    feed, end = transmit(server, messages, pipelining="full")
    assert [feed.outcomes[number].ending for number in range(1, 7)] == [Ending.ACCEPTED] * 5 + [Ending.UNTOUCHED]
    assert end.reconnect and feed.left == [7, 8] and len(server.messages) == 5


def test_many_recipients_are_answered_one_by_one(server: SmtpServer) -> None:
    many = [outgoing(number, *(f"r{number}-{to}@example.org" for to in range(120))) for number in range(1, 6)]
    feed, _ = transmit(server, many, pipelining="full")
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
    assert [len(message.recipients) for message in server.messages] == [120] * 5


def test_a_large_body_among_small_ones_goes_whole(server: SmtpServer) -> None:
    messages = outgoing_messages(6)
    messages[3] = outgoing(4, "r4@example.org", body=BODY + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 3000)
    feed, _ = transmit(server, messages, pipelining="full")
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
    assert [len(message.data) for message in server.messages][3] > 200_000
