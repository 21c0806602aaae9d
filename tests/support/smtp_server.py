"""A scripted SMTP server on loopback, in a thread of its own.

    with SmtpServer(tls="starttls", users={"ann": "secret"}) as server:
        server.refuse("nobody@example.org")
        stalled = server.on("final", stall=True)
        ...
        assert server.wait_for(3)

Every wait is for an event; nothing here sleeps.  The timeouts are long because the machine may stand still for seconds.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from tests.support.patience import PATIENCE
from tests.support.smtp_connection import Connection
from tests.support.smtp_script import STAGES, Received, Rule

__all__ = ("Received", "Rule", "SmtpServer")


@functools.lru_cache(maxsize=1)
def _authority() -> trustme.CA:
    return trustme.CA()


class SmtpServer:
    """The scripted server; all attributes may be read from any thread."""

    def __init__(
        self,
        *,
        tls: str | None = None,
        users: dict[str, str] | None = None,
        tokens: dict[str, str] | None = None,
        mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN", "XOAUTH2"),
        pipelining: bool = True,
        chunking: bool = False,
        discards: bool = True,
        keeps_sender: bool = False,
        size: int | None = 50_000_000,
        eight_bit: bool = True,
        utf8: bool = True,
        data_without_recipients: bool = False,
        receive_buffer: int | None = None,
        certificate_for: tuple[str, ...] = ("localhost", "127.0.0.1"),
    ) -> None:
        """``tls``: None, ``implicit`` or ``starttls``.  ``users`` (passwords) or ``tokens`` require AUTH.

        ``discards``: the body of a refused BDAT is discarded, else read as commands.  ``keeps_sender``: as Exim, a
        refused BDAT leaves sender and recipients until RSET.  ``receive_buffer``: bytes of SO_RCVBUF; a small buffer is
        soon full.
        """
        self.tls = tls
        self.users = users or {}
        self.tokens = tokens or {}
        self.mechanisms = mechanisms
        self.pipelining, self.size, self.eight_bit, self.utf8 = pipelining, size, eight_bit, utf8
        self.chunking, self.discards, self.keeps_sender = chunking, discards, keeps_sender
        self.data_without_recipients = data_without_recipients
        #: Recipients of one transaction; the others get 452 4.5.3.  0: any number.
        self.max_recipients = 0
        #: The answer to wrong credentials.
        self.login_refusal = "535 5.7.8 bad credentials"
        #: The only senders, and the answer to the body of a message of another; None: any sender.
        self.senders: frozenset[str] | None = None
        self.sender_refusal = "550 5.7.1 sender not verified"
        self.host = "127.0.0.1"
        self.port = 0
        self.ca_file = ""
        self.ssl_context: ssl.SSLContext | None = None
        self._certificate_for = certificate_for
        self._receive_buffer = receive_buffer
        #: Accepted messages, in order.
        self.messages: list[Received] = []
        #: (connection, command line) in order; AUTH's secrets included.
        self.commands: list[tuple[int, str]] = []
        #: Mechanism of each AUTH, in order.
        self.auth_attempts: list[str] = []
        self.connections = 0
        self.open_connections = 0
        self.max_open_connections = 0
        #: Chunks read from the sockets after TLS: with small messages, one each time that a client wrote and waited.
        self.bursts = 0
        #: Commands that arrived before the command before them was answered, although PIPELINING is not offered.
        self.violations = 0
        self._rules: dict[str, list[Rule]] = {}
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._live: set[Connection] = set()

    # Scripting

    def on(self, stage: str, **options: Any) -> Rule:
        """Add a rule (fields of ``Rule``); later rules go first."""
        assert stage in STAGES, stage
        rule = Rule(stage, **options)
        rules = defaultdict(list, self._rules)
        rules[stage] = [rule, *rules[stage]]
        self._rules = dict(rules)
        return rule

    def refuse(self, address: str, text: str = "550 5.1.1 no such user") -> Rule:
        """Answer RCPT for this address with a permanent refusal."""
        return self.on("rcpt", address=address, reply=text)

    def defer(self, address: str, text: str = "450 4.2.1 try again later") -> Rule:
        """Answer RCPT for this address with a temporary refusal."""
        return self.on("rcpt", address=address, reply=text)

    def clear(self) -> None:
        """Remove all rules and their counts."""
        self._rules = {}
        self._counts.clear()

    def release(self, rule: Rule) -> None:
        """End the stall of a rule."""
        self._loop.call_soon_threadsafe(rule.release)

    def say(self, data: bytes, *, close: bool = False) -> None:
        """Send ``data`` on every open connection, although no command asked for it."""

        def speak() -> None:
            for connection in list(self._live):
                connection.say(data, close=close)

        self._loop.call_soon_threadsafe(speak)

    def hang_up(self) -> None:
        """Close every open connection."""
        self.say(b"", close=True)

    # Waiting

    def wait_for(self, messages: int, timeout: float = PATIENCE) -> bool:
        """Wait until so many messages were accepted."""
        return self._wait(lambda: len(self.messages) >= messages, timeout)

    def wait_connections(self, count: int, timeout: float = PATIENCE) -> bool:
        """Wait until so many connections have been made."""
        return self._wait(lambda: self.connections >= count, timeout)

    def wait_closed(self, timeout: float = PATIENCE) -> bool:
        """Wait until no connection is open."""
        return self._wait(lambda: self.open_connections == 0, timeout)

    def _wait(self, condition: Any, timeout: float) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    @property
    def recipients(self) -> list[str]:
        """Every recipient of every accepted message, in order."""
        return [address for message in self.messages for address in message.recipients]

    def lines(self, verb: str) -> list[str]:
        """The command lines that start with this verb."""
        return [line for _, line in self.commands if line.upper().startswith(verb.upper())]

    # Called by connections, on the event loop

    def match(self, stage: str, connection: int, address: str = "") -> Rule | None:
        """The rule that applies at this stage now."""
        rules = self._rules.get(stage)
        if rules is None:
            return None
        self._counts[stage] += 1
        for rule in rules:
            if rule.matches(count=self._counts[stage], connection=connection, address=address):
                rule.hits += 1
                rule.reached.set()
                return rule
        return None

    def accepted(self, message: Received) -> None:
        """Keep a message and wake the threads that wait for it."""
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def opened(self, connection: Connection) -> int:
        """Count a connection and return its number."""
        with self._changed:
            self._live.add(connection)
            self.connections += 1
            self.open_connections += 1
            self.max_open_connections = max(self.max_open_connections, self.open_connections)
            self._changed.notify_all()
            return self.connections

    def closed(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        with self._changed:
            if connection in self._live:
                self._live.discard(connection)
                self.open_connections -= 1
                self._changed.notify_all()

    # Running

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory()
        if self.tls is not None:
            self._prepare_tls(Path(self._directory.name))
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="smtp-server", daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE), "the SMTP server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the SMTP server did not stop"
        self._directory.cleanup()

    def _prepare_tls(self, directory: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _authority().issue_cert(*self._certificate_for).configure_cert(context)
        bundle = directory / "ca.pem"
        _authority().cert_pem.write_to_path(bundle)
        self.ca_file, self.ssl_context = str(bundle), context

    def _serve(self, started: threading.Event) -> None:
        asyncio.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        context = self.ssl_context if self.tls == "implicit" else None
        listening = socket.create_server((self.host, 0), backlog=100)
        if self._receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self.port = listening.getsockname()[1]
        server = await self._loop.create_server(lambda: Connection(self), sock=listening, ssl=context)
        started.set()
        await self._stop.wait()
        server.close()
        for connection in list(self._live):
            connection.abort()
        # One iteration of the loop closes the sockets; an aborted handshake ends with the loop.
        await asyncio.sleep(0)
