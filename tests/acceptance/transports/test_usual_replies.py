"""Messages whose every reply is the usual one go by a shorter way; to any other reply, both ways do the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prx_email_django.rules.outcomes import Ending
from prx_email_django.transports.smtp import transaction
from prx_email_django.transports.smtp.protocol import SmtpProtocol
from tests.support.outgoing_messages import BODY, outgoing, outgoing_messages, transmit
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


def seen(stage: str, nth: int, odd: str, *, usual: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What a session of eight messages comes to, by the shorter way or without it."""
    with SmtpServer() as server, monkeypatch.context() as patch:
        if not usual:
            patch.setattr(transaction, "_go_on", lambda _: False)
        server.on(stage, nth=nth, **ODD_REPLIES[odd])
        messages = [outgoing(number, f"a{number}@example.org", f"b{number}@example.org") for number in range(1, 9)]
        feed, end = transmit(server, messages, pipelining="full")
        outcomes = {number: replace(outcome, peer="") for number, outcome in feed.outcomes.items()}
        return outcomes, feed.order, feed.left, end, [message.recipients for message in server.messages]


@pytest.mark.parametrize("odd", ODD_REPLIES)
@pytest.mark.parametrize(
    ("stage", "nth"), [("mail", 5), ("rcpt", 9), ("rcpt", 10), ("data", 5), ("final", 1), ("final", 5)]
)
def test_an_odd_reply_means_the_same(stage: str, nth: int, odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(stage, nth, odd, usual=False, monkeypatch=monkeypatch)
    assert seen(stage, nth, odd, usual=True, monkeypatch=monkeypatch) == expected


def test_usual_replies_wake_no_task(server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    wait = SmtpProtocol._wait

    async def counted(protocol: SmtpProtocol, deadline: float | None) -> None:
        waits.append(deadline)
        await wait(protocol, deadline)

    monkeypatch.setattr(SmtpProtocol, "_wait", counted)
    feed, _ = transmit(server, outgoing_messages(50), pipelining="full")
    assert {outcome.ending for outcome in feed.outcomes.values()} == {Ending.ACCEPTED}
    assert len(waits) < 10


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
