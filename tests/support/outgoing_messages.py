"""Outgoing messages and feeds for tests of transports, and functions that run one session over them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from prx_email_django.rules.outcomes import Outcome, Phase
from prx_email_django.transports.base import ConnectionSettings, OutgoingMessage, SessionEnd, TlsFiles, Transport
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.transports.smtp.replies import Reply, ReplyParser
from prx_email_django.transports.smtp.session import SmtpSession
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.patience import PATIENCE
from tests.support.smtp_script import Rule
from tests.support.smtp_server import SmtpServer

BODY = b"Subject: hello\r\nTo: bob@example.org\r\n\r\nHello, Bob.\r\n"


class RefusableMessage(OutgoingMessage):
    """A message whose ``may_write`` and ``may_continue`` are given by the test."""

    def __init__(
        self,
        *,
        may_write: Callable[[], bool] = lambda: True,
        may_continue: Callable[[], bool] = lambda: True,
        **values: Any,
    ) -> None:
        super().__init__(**values)
        self._may_write, self._may_continue = may_write, may_continue

    def may_write(self) -> bool:
        return self._may_write()

    def may_continue(self) -> bool:
        return self._may_continue()


def outgoing(number: int = 1, *recipients: str, **options: Any) -> OutgoingMessage:
    """A message to bob@example.org, or to ``recipients``; ``options`` are those of ``RefusableMessage``."""
    options = {"sender": "ann@example.org", "body": BODY, **options}
    return RefusableMessage(id=number, recipients=recipients or ("bob@example.org",), **options)


def outgoing_messages(count: int, **options: Any) -> list[OutgoingMessage]:
    """Messages 1 to ``count``, each to a recipient of its own (``r1@example.org``…)."""
    return [outgoing(number, f"r{number}@example.org", **options) for number in range(1, count + 1)]


class ListFeed:
    """Feed of a list; ``ahead=False``: one message is taken when the last one is reported, so none is written ahead."""

    def __init__(self, outgoing_messages: Iterable[OutgoingMessage], *, ahead: bool = True) -> None:
        self._queue = deque(outgoing_messages)
        self._ahead = ahead
        #: Ids in the order in which they were taken, and the taken ids that are not reported yet.
        self.taken: list[int] = []
        self._out: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}
        #: Ids in the order in which they were reported.
        self.order: list[int] = []

    def take(self) -> OutgoingMessage | None:
        return self._pop() if self._ahead or not self._out else None

    def take_or_listen(self, changed: Callable[[], None]) -> OutgoingMessage | None:
        return self.take()

    @property
    def is_over(self) -> bool:
        return not self._queue

    def report(self, outgoing: OutgoingMessage, outcome: Outcome) -> None:
        assert outgoing.id in self._out, f"{outgoing.id} was never taken, or is reported twice"
        self._out.remove(outgoing.id)
        assert set(outcome.recipients) == set(outgoing.recipients)
        self.outcomes[outgoing.id] = outcome
        self.order.append(outgoing.id)

    def keeps_session(self) -> bool:
        return False

    def _pop(self) -> OutgoingMessage | None:
        if not self._queue:
            return None
        outgoing = self._queue.popleft()
        self.taken.append(outgoing.id)
        self._out.add(outgoing.id)
        return outgoing

    @property
    def left(self) -> list[int]:
        """Ids that no session took."""
        return [outgoing.id for outgoing in self._queue]

    def check(self) -> None:
        """Assert that every message that was taken has been reported."""
        assert not self._out


class OpenFeed(ListFeed):
    """Feed that stays open when it is empty, until ``close``; ``idle`` is set while a session waits for a message."""

    def __init__(self, outgoing_messages: Iterable[OutgoingMessage] = ()) -> None:
        super().__init__(outgoing_messages)
        self.idle = asyncio.Event()
        self._changed: Callable[[], None] = lambda: None
        self._closed = False

    def take_or_listen(self, changed: Callable[[], None]) -> OutgoingMessage | None:
        outgoing, self._changed = self.take(), changed
        if outgoing is None and not self._closed:
            self.idle.set()
        else:
            self.idle.clear()
        return outgoing

    @property
    def is_over(self) -> bool:
        return self._closed and not self._queue

    def put(self, outgoing: OutgoingMessage) -> None:
        self._queue.append(outgoing)
        self.wake()

    def wake(self) -> None:
        """Let the session look again, as a worker does for many reasons."""
        self._changed()

    def close(self) -> None:
        self._closed = True
        self._changed()


def settings_for(server: SmtpServer, **options: Any) -> ConnectionSettings:
    """Settings for the server: its security, its first user or token."""
    security = {None: "none", "starttls": "starttls", "implicit": "tls"}[server.tls]
    values: dict[str, Any] = {"host": "localhost" if server.tls else server.host, "port": server.port}
    values |= {"security": security, "auth_method": "none", "tls_files": TlsFiles(ca_file=server.ca_file)}
    values |= {"timeout": PATIENCE, "final_timeout": PATIENCE, "max_messages": 1000}
    if server.users:
        user, password = next(iter(server.users.items()))
        values |= {"auth_method": "password", "user": user, "password": password}
    elif server.tokens:
        user, token = next(iter(server.tokens.items()))
        values |= {"auth_method": "xoauth2", "user": user, "token": token}
    return ConnectionSettings(**values | options)


async def run_session(transport: Transport, settings: ConnectionSettings, feed: ListFeed) -> SessionEnd:
    """Open a session and run it; assert that every message that was taken has been reported."""
    session = await transport.open(settings)
    end = await session.run(feed)
    feed.check()
    return end


def transmit(
    server: SmtpServer, outgoing_messages: Iterable[OutgoingMessage] | ListFeed, *, ahead: bool = True, **options: Any
) -> tuple[ListFeed, SessionEnd]:
    """Run one SMTP session over these messages, or this feed; ``options`` are fields of ``ConnectionSettings``."""
    given = outgoing_messages
    feed = given if isinstance(given, ListFeed) else ListFeed(given, ahead=ahead)
    end = asyncio.run(run_session(SmtpTransport(), settings_for(server, **options), feed))
    return feed, end


def parse_reply(text: str) -> Reply:
    """The reply with this text; ``\\n`` separates its lines."""
    (reply,) = ReplyParser().feed(text.replace("\n", "\r\n").encode() + b"\r\n")
    return reply


async def until(condition: Callable[[], object]) -> None:
    """Run other tasks of the event loop until the condition is true."""
    while not condition():
        await asyncio.sleep(0)


def reached(session: SmtpSession) -> str:
    """The phase whose reply the session waits for; replies that have come to one envelope are read all at once."""
    transaction = session._state.current
    if transaction is None:
        return ""
    if session._protocol._go_on is None or transaction.phase is not Phase.MAIL:
        return transaction.phase
    waiting = ("mail", *("rcpt" for _ in transaction.recipients), "data")
    return waiting[min(len(session._protocol.replies), len(waiting) - 1)]


async def run_until_silent(
    loop: FakeClockLoop, session: SmtpSession, feed: ListFeed, rule: Rule
) -> asyncio.Task[SessionEnd]:
    """Run a session until the rule has stalled it and it has read all earlier replies."""
    running = asyncio.ensure_future(session.run(feed))
    assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
    await until(lambda: reached(session) == {"final": "body"}.get(rule.stage, rule.stage))
    assert not running.done()
    return running


def transmit_into_silence(
    server: SmtpServer, outgoing_messages: Iterable[OutgoingMessage], rule: Rule, *, seconds: float, **options: Any
) -> tuple[ListFeed, SessionEnd]:
    """Run one session that ``rule`` stalls; assert that it ends after ``seconds`` of silence, not earlier or later.

    The seconds pass on a fake clock, so that a slow thread changes nothing.
    """
    feed = ListFeed(outgoing_messages)

    async def main(loop: FakeClockLoop) -> SessionEnd:
        session = await SmtpTransport().open(settings_for(server, **options))
        running = await run_until_silent(loop, session, feed, rule)
        await loop.jump(seconds - 0.1)
        assert not running.done(), "the deadline is too early"
        await loop.jump(0.2)
        assert running.done(), "the deadline is too late"
        return await running

    end = run_on_fake_clock(main)
    feed.check()
    return feed, end
