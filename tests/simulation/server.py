"""A simulated SMTP server: it remembers every copy that it accepted, and misbehaves as the seed says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.simulation.event_loop import SimulatedTransport
from tests.simulation.host import redirects
from tests.simulation.tokens import TokenServer, token_of
from tests.simulation.world import World

#: Replies that burn no retry: too fast, too many connections.
THROTTLED = "454 4.7.0 Throttling failure: Maximum sending rate exceeded"
CROWDED = "432 4.3.2 Concurrent connections limit exceeded"
#: It pauses the account, and the message is tried again.
QUOTA = "550 5.4.5 Daily user sending quota exceeded"
#: What a server says that does not bear an envelope behind a body that is not answered yet.
REFUSED_AHEAD = "503 5.5.0 pipelined after end of DATA"
#: What a server says to each message of an account that it has suspended.
SUSPENDED = "554 Message rejected: Sending suspended for this account"
#: Stage -> what may go wrong there, beside a refusal.
FAULTS: Mapping[str, tuple[str, ...]] = {
    "connect": ("refuse", "hang"),
    "greeting": ("421 4.3.2 shutting down", "554 5.3.2 no service", "drop", "hang", "slow"),
    "ehlo": ("421 4.3.2 shutting down", "drop"),
    "auth": ("454 4.7.0 temporary failure", "535 5.7.8 no", "421 4.7.0 later", "drop", "hang"),
    "mail": (
        THROTTLED,
        CROWDED,
        "451 4.3.0 later",
        "421 4.3.2 bye",
        "550 5.7.1 no",
        "drop",
        "reset",
        "hang",
        "slow",
        "stall",
    ),
    "rcpt": ("450 4.2.0 later", "421 4.3.2 bye", "550 5.1.1 no", "drop", "reset", "hang", "452 4.5.3 too many"),
    "data": ("451 4.3.0 later", "421 4.3.2 bye", "554 5.5.1 no", "drop", "reset", "hang", "slow", "stall"),
    "final": (
        *(
            THROTTLED,
            CROWDED,
            QUOTA,
            "451 4.3.0 later",
            "421 4.3.2 bye",
            "554 5.6.0 no",
            "drop",
            "reset",
            "hang",
            "slow",
        ),
        *("accept, drop", "accept, reset", "accept, hang", "accept, slow"),
    ),
    "rset": ("421 4.3.2 bye", "drop", "hang", "500 5.5.1 what"),
    "quit": ("drop", "hang", "reset"),
    # Of what the client writes at once a part is read; its replies arrive, or none of them does.
    "bytes": ("drop", "reset", "silent reset"),
}
_MESSAGE = re.compile(rb"^Message-ID: *<([^>]*)>", re.IGNORECASE | re.MULTILINE)
_DATE = re.compile(rb"^Date: *(.*)$", re.IGNORECASE | re.MULTILINE)
_ORIGINAL = re.compile(rb"^X-Original-To: *((?:.|\r\n[ \t])*)$", re.IGNORECASE | re.MULTILINE)
_OUTBOX_ID = re.compile(r"outbox-(\d+)-")


def _addressed(envelope: Sequence[str], body: bytes) -> tuple[str, ...]:
    """The recipients whom the envelope stands for."""
    stand_ins = redirects()
    found = _ORIGINAL.search(body) if stand_ins else None
    if found is None:
        return tuple(envelope)
    through = [address for address in envelope if address not in stand_ins]
    named = "".join(found[1].decode().split()).split(",") if len(through) < len(envelope) else []
    return (*through, *named)


@dataclass
class Copy:
    """One message that the server accepted."""

    message: int
    message_id: str
    #: Who has it: with ``REDIRECT_TO`` the recipients that the header names, in place of the envelope's.
    recipients: tuple[str, ...]
    envelope: tuple[str, ...]
    #: When its MAIL and its final dot were read, on the clock of uptime.
    mail_at: float
    at: float
    client: str
    date: str
    #: Its text is there.
    is_whole: bool
    #: The final 250 has reached the client.
    answered: bool = False


@dataclass
class RefusedAhead:
    """An envelope that a server refused since it was written ahead, on the clock of uptime."""

    client: str
    connection: int
    opened_at: float
    at: float


class SimulatedServer:
    """One mail server; ``rates`` says how often a stage goes wrong while the trouble lasts."""

    def __init__(
        self,
        world: World,
        *,
        rates: Mapping[str, float],
        pipelining: bool,
        auth: bool,
        latency: float,
        chunking: str = "",
    ) -> None:
        """``chunking``: what becomes of a refused BDAT, ``""``: none is offered.

        ``discards``: its body; ``keeps``: its envelope is kept until RSET, as in Exim; ``reads``: its body is read as
        commands.
        """
        self.chunking = chunking
        self.world = world
        self.rates = rates
        self.pipelining = pipelining
        self.auth = auth
        #: Who knows which access tokens are good; None: logins are by password.
        self.tokens: TokenServer | None = None
        self.latency = latency
        self.most_recipients = 100
        #: Each connection leads to another machine, which may offer less.
        self.varies = False
        #: Takes an envelope behind a body that is not answered yet; what it refused otherwise.
        self.bears_ahead = True
        self.refused_ahead: list[RefusedAhead] = []
        #: Refuses every message.
        self.is_refusing = False
        #: Seconds that every final reply takes while the trouble lasts.
        self.thinks = 0.0
        self.in_trouble = True
        self.copies: list[Copy] = []
        #: Envelope addresses that were refused for good, and senders whose message was.
        self.refused: set[str] = set()
        self.connections = 0
        #: When which client wrote MAIL with which sender, on the clock of uptime, and how many RCPT it wrote then.
        self.mails: list[tuple[float, str, str]] = []
        self.rcpts: list[int] = []
        self.open: set[ServerConnection] = set()
        #: Connections that clients have open, and the most at once.
        self.live = self.most_live = 0
        #: Called with each copy, before its reply is written.
        self.on_copy: Callable[[Copy], object] = lambda copy: None

    def fault(self, stage: str) -> str:
        """What goes wrong at this stage now; empty: nothing."""
        if not self.in_trouble or self.world.random.random() >= self.rates.get(stage, 0.0):
            return ""
        found = self.world.random.choice(FAULTS[stage])
        self.world.meet(found, stage)
        self.world.story.append((self.world.uptime() - 1000.0, "server", f"{stage}: {found}"))
        return found

    def accept(self, client: str) -> ServerConnection:
        """A new connection."""
        self.connections += 1
        connection = ServerConnection(self, self.connections, client)
        self.open.add(connection)
        return connection

    def refuse_all(self) -> None:
        """Refuse every message, as where the account is suspended."""
        self.world.story.append((self.world.uptime() - 1000.0, "server", "refuses every message"))
        self.is_refusing = True

    def end_refusal(self) -> None:
        """Take messages again."""
        if self.is_refusing:
            self.world.story.append((self.world.uptime() - 1000.0, "server", "takes messages again"))
            self.is_refusing = False

    def calm(self) -> None:
        """End all trouble; what hangs is reset."""
        self.in_trouble = False
        self.end_refusal()
        for connection in sorted(self.open, key=lambda connection: connection.number):
            connection.calm()


class ServerConnection:
    """The server's end of one connection."""

    def __init__(self, server: SimulatedServer, number: int, client: str) -> None:
        self.server = server
        self.world = server.world
        self.number = number
        self.client = client
        self.stalled = False
        self._transport: SimulatedTransport | None = None
        self._buffer = b""
        self._in_body = False
        #: Bytes of the BDAT that is being read.
        self._chunk = 0
        self._hangs = False
        self._closed = False
        self._busy = False
        self._silent = False
        #: Bytes that were written ahead, and are refused; and when it was opened, on the clock of uptime.
        self._ahead = 0
        self._opened_at = self.world.uptime()
        self._token = ""
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._mail_at = 0.0

    def attach(self, transport: SimulatedTransport) -> None:
        """The client's end exists: greet."""
        self._transport = transport
        self._answer("greeting", "220 mx.example.org")

    # The network

    def transmit(self, data: bytes) -> None:
        """The client has written."""
        fault = self.server.fault("bytes")
        if fault:
            data = data[: self.world.random.randrange(len(data) + 1)]
        self.world.after(self.server.latency, lambda: self._receive(data, fault))

    def client_closed(self) -> None:
        """The client has closed, or is gone."""
        self.world.after(self.server.latency, self._close)

    def calm(self) -> None:
        """Break what hangs, and let go what is stalled."""
        if self._hangs:
            self._drop("reset")
        self._let_go()

    def _let_go(self) -> None:
        if self.stalled:
            self.stalled = False
            if self._transport is not None:
                self._transport.resume()

    def _close(self) -> None:
        self._closed = True
        self.server.open.discard(self)

    def _drop(self, how: str) -> None:
        self._close()
        transport = self._transport
        if transport is not None:
            self.world.after(self.server.latency, transport.receive_reset if how == "reset" else transport.receive_eof)

    def _say(self, text: str, *, after: float = 0.0, copy: Copy | None = None) -> None:
        def speak() -> None:
            if not self._closed and not self._silent and self._transport is not None:
                data = text.encode() + b"\r\n"
                transport = self._transport

                def arrive() -> None:
                    heard = transport.receive(data)
                    if copy is not None:
                        copy.answered = heard

                self.world.after(self.server.latency, arrive)
                if text.startswith("421"):
                    self._drop("drop")

        if not after:
            speak()
            return
        self._busy = True

        def later() -> None:
            speak()
            self._busy = False
            self._work()

        self.world.after(after, later)

    # SMTP

    def _receive(self, data: bytes, fault: str) -> None:
        if self._closed or self._hangs:
            return
        self._silent = fault == "silent reset"
        self._buffer += data
        self._work()
        if fault and not self._closed:
            self._drop(fault.removeprefix("silent "))

    def _work(self) -> None:
        while not (self._closed or self._hangs or self._busy):
            if self._chunk:
                if len(self._buffer) < self._chunk:
                    return
                body, self._buffer, self._chunk = self._buffer[: self._chunk], self._buffer[self._chunk :], 0
                self._end_chunk(body)
                continue
            if self._in_body:
                if self._buffer.startswith(b".\r\n"):  # an empty message
                    body, rest = b"", self._buffer[3:]
                else:
                    body, dot, rest = self._buffer.partition(b"\r\n.\r\n")
                    if not dot:
                        return
                self._buffer, self._in_body = rest, False
                self._final(body)
                if self._buffer and not self.server.bears_ahead:
                    self._refuse_ahead()
                continue
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                return
            self._buffer = rest
            if self._ahead:
                self._ahead -= len(line) + 2
                self._say(REFUSED_AHEAD)
            else:
                self._command(line.decode())

    def _refuse_ahead(self) -> None:
        """Refuse the commands that have arrived behind the body."""
        self._ahead = len(self._buffer)
        now = self.world.uptime()
        self.server.refused_ahead.append(RefusedAhead(self.client, self.number, self._opened_at, now))
        self.world.meet("refused ahead", "body")
        self.world.story.append((now - 1000.0, "server", f"refuses what {self.client} has written ahead"))

    def _answer(self, stage: str, text: str) -> bool:
        """Answer a command, or misbehave; True: all went well."""
        fault = self.server.fault(stage)
        if not fault:
            self._say(text)
            return True
        if fault == "slow":
            self._say(text, after=self.world.random.choice([0.3, 2.0, 4.0]))
            return True
        if fault == "stall":
            self.stalled = True
            self.world.after(self.world.random.choice([0.2, 3.0, 12.0]), self._let_go)
            self._say(text)
            return True
        if fault == "hang":
            self._hangs = True
        elif fault in ("drop", "reset"):
            self._drop(fault)
        else:
            self._say(fault)
        return False

    def _command(self, line: str) -> None:
        verb = line[:4].upper()
        handle = getattr(self, f"_{verb.lower()}", None)
        if handle is None:
            self._say("502 5.5.1 not implemented")
        else:
            handle(line)

    def _ehlo(self, line: str) -> None:
        extensions = ["mx.example.org", "SIZE 1000000", "8BITMIME", "SMTPUTF8"]
        less = self.server.varies and self.world.random.random() < 0.5
        extensions += ["PIPELINING"] if self.server.pipelining and not less else []
        extensions += ["CHUNKING"] if self.server.chunking and not less else []
        mechanisms = "XOAUTH2" if self.server.tokens else "PLAIN LOGIN"
        extensions += [f"AUTH {mechanisms}"] if self.server.auth else []
        lines = [f"250-{extension}" for extension in extensions[:-1]] + [f"250 {extensions[-1]}"]
        self._answer("ehlo", "\r\n".join(lines))

    def _auth(self, line: str) -> None:
        tokens = self.server.tokens
        if tokens is None:
            self._answer("auth", "235 2.7.0 welcome")
            return
        self._token = token_of(line)
        if not tokens.accepts(self._token):
            self._say("535 5.7.8 the token is not valid")
            return
        before = len(self.world.story)
        if not self._answer("auth", "235 2.7.0 welcome") and any(
            ": 535" in text for _, _, text in self.world.story[before:]
        ):
            tokens.refuse(self._token)

    def _rset(self, line: str) -> None:
        self._forget()
        self._answer("rset", "250 2.0.0 ok")

    def _quit(self, line: str) -> None:
        if self._answer("quit", "221 2.0.0 bye"):
            self._drop("drop")

    def _mail(self, line: str) -> None:
        address = line[line.index("<") + 1 : line.index(">")]
        if self._sender is not None:
            self._say("503 5.5.1 nested MAIL")
            return
        if self.server.tokens is not None and not self.server.tokens.accepts(self._token):
            self._say("530 5.7.0 authentication required")
            return
        self._mail_at = self.world.uptime()
        before = len(self.world.story)
        if self._answer("mail", "250 2.1.0 ok"):
            self._sender = address
        self._note_refusal(before, address)

    def _rcpt(self, line: str) -> None:
        address = line[line.index("<") + 1 : line.index(">")]
        if self._sender is None:
            self._say("503 5.5.1 need MAIL")
        elif address.startswith("bad"):
            self.server.refused.add(address)
            self._say("550 5.1.1 no such user")
        elif len(self._recipients) >= self.server.most_recipients:
            self._say("452 4.5.3 too many recipients")
        else:
            before = len(self.world.story)
            if self._answer("rcpt", "250 2.1.5 ok"):
                self._recipients.append(address)
            self._note_refusal(before, address)

    def _note_refusal(self, before: int, address: str) -> None:
        if any(": 5" in text for _, _, text in self.world.story[before:]):
            self.server.refused.add(address)

    def _data(self, line: str) -> None:
        if not self._recipients:
            self._say("503 5.5.1 need RCPT" if self._sender is None else "554 5.5.1 no valid recipients")
            return
        before = len(self.world.story)
        self._in_body = self._answer("data", "354 go ahead")
        self._note_refusal(before, self._sender or "")

    def _bdat(self, line: str) -> None:
        if self._recipients or self.server.chunking != "reads":
            self._chunk = int(line.split()[1])
        else:
            self._say("503 5.5.1 need RCPT")

    def _end_chunk(self, body: bytes) -> None:
        if self._recipients:
            self._final(body)
            return
        if self.server.chunking != "keeps":
            self._forget()
        self._say("503 5.5.1 need RCPT")

    def _noop(self, line: str) -> None:
        self._say("250 2.0.0 ok")

    def _final(self, body: bytes) -> None:
        if self.server.is_refusing:
            self.server.refused.add(self._sender or "")
            self._forget()
            self._say(SUSPENDED)
            return
        fault = self.server.fault("final")
        accepts = not fault or fault == "slow" or fault.startswith("accept")
        if fault.startswith("5"):
            self.server.refused.add(self._sender or "")
        copy = self._keep(body) if accepts else None
        self._forget()
        how = fault.removeprefix("accept, ")
        seconds = self.world.random.choice([1.0, 8.0, 25.0, 45.0])
        if how in ("drop", "reset"):
            self._drop(how)
        elif how == "hang":
            self._hangs = True
        elif how == "slow":
            self._say("250 2.0.0 queued", after=seconds, copy=copy)
        else:
            thinks = self.server.thinks if self.server.in_trouble else 0.0
            self._say(fault or "250 2.0.0 queued", after=thinks, copy=copy)

    def _keep(self, body: bytes) -> Copy:
        found = _MESSAGE.search(body)
        message_id = found[1].decode() if found else ""
        number, dated = _OUTBOX_ID.search(message_id), _DATE.search(body)
        copy = Copy(
            message=int(number[1]) if number else 0,
            message_id=message_id,
            recipients=_addressed(self._recipients, body),
            envelope=tuple(self._recipients),
            mail_at=self._mail_at,
            date=dated[1].decode().strip() if dated else "",
            is_whole=b"Hi." in body,
            at=self.world.uptime(),
            client=self.client,
        )
        self.server.copies.append(copy)
        names = ", ".join(copy.recipients)
        text = f"accepts message {copy.message} from {self.client} for {names} ({copy.message_id})"
        self.world.story.append((self.world.uptime() - 1000.0, "server", text))
        self.server.on_copy(copy)
        return copy

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []
