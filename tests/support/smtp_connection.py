"""One connection of the scripted SMTP server: reads commands (pipelined or not) and answers as the rules say."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.smtp_script import Received, Rule

if TYPE_CHECKING:
    from tests.support.smtp_server import SmtpServer

CRAM_CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
END = b"\r\n.\r\n"
CHALLENGE = {"status": "401", "schemes": "bearer", "scope": "https://mail.example.org/"}


def _nothing() -> None:
    pass


class Connection(asyncio.Protocol):
    """State of one client."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self.number = 0
        self.buffer = b""
        self.out: list[bytes] = []
        self.body: bytearray | None = None
        #: Size of the BDAT chunk that is being read; 0: none.
        self.chunk = 0
        self.searched = 0
        self.blocked = False
        self.secure = server.tls == "implicit"
        self.authenticated = not (server.users or server.tokens)
        self.dialogue: Callable[[bytes], None] | None = None
        self.forget()

    def forget(self) -> None:
        """Remove sender and recipients, as RSET does."""
        self.sender: str | None = None
        self.options: tuple[str, ...] = ()
        self.recipients: list[str] = []

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        again = self.number != 0  # after STARTTLS
        self.transport = transport
        if not again:
            self.number = self.server.opened(self)
            self.answer("greeting", b"220 test.example.org ESMTP\r\n")
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.blocked = True
        self.server.closed(self)

    def data_received(self, data: bytes) -> None:
        self.server.bursts += 1
        self.buffer += data
        if not self.blocked:
            self.process()

    def process(self) -> None:
        """Execute what has been read, then write all answers at once."""
        while self.buffer and not self.blocked:
            if self.chunk:
                if not self.read_chunk():
                    break
                continue
            if self.body is not None:
                self.read_body()
                continue
            line, end, rest = self.buffer.partition(b"\r\n")
            if not end:
                break
            self.buffer = rest
            if rest and not self.server.pipelining and line[:4].upper() != b"DATA":
                self.server.violations += 1
            self.command(line)
        self.flush()

    def flush(self) -> None:
        """Write the answers that are buffered."""
        if self.out and not self.transport.is_closing():
            self.transport.write(b"".join(self.out))
        self.out.clear()

    def say(self, data: bytes, *, close: bool) -> None:
        """Send ``data`` although no command asked for it."""
        self.out.append(data)
        self.flush()
        if close:
            self.blocked = True
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # Answers

    def answer(self, stage: str, usual: bytes, *, address: str = "", effect: Callable[[], None] = _nothing) -> None:
        """Answer as the first matching rule says, or else as usual, with the usual effect."""
        rule = self.server.match(stage, self.number, address)
        if rule is None:
            effect()
            self.out.append(usual)
        elif rule.stall or rule.delay:
            self.flush()
            self.blocked = True

            def resume() -> None:
                self.blocked = False
                self.finish(rule, usual, effect)
                self.process()

            if rule.stall:
                rule.hold(resume)
            else:
                asyncio.get_running_loop().call_later(rule.delay, resume)
        else:
            self.finish(rule, usual, effect)

    def finish(self, rule: Rule, usual: bytes, effect: Callable[[], None]) -> None:
        """Execute a rule."""
        if self.transport.is_closing():
            return
        if rule.accept:
            effect()
        if rule.raw is not None:
            self.out.append(rule.raw)
        elif rule.reply is not None:
            if not rule.accept and rule.reply[0] in "23":
                effect()
            self.out.append(rule.reply.encode() + b"\r\n")
        elif not rule.drop and not rule.reset:
            effect()
            self.out.append(usual)
        if rule.drop or rule.reset or (rule.reply or "").startswith("421"):
            self.blocked = True
            self.flush()
            if rule.reset:
                self.transport.abort()
            else:
                self.transport.close()

    # Commands

    def command(self, line: bytes) -> None:
        """Execute one line."""
        if self.dialogue is not None:
            dialogue, self.dialogue = self.dialogue, None
            dialogue(line)
            return
        text = line.decode("utf-8", "replace")
        self.server.commands.append((self.number, text))
        verb, _, rest = text.partition(" ")
        handler = COMMANDS.get(verb.upper())
        if handler is None:
            self.out.append(b"500 5.5.2 unknown command\r\n")
        else:
            handler(self, rest)

    def ehlo(self, _rest: str) -> None:
        server = self.server
        words = ["test.example.org"]
        if server.pipelining:
            words.append("PIPELINING")
        if server.chunking:
            words.append("CHUNKING")
        if server.eight_bit:
            words.append("8BITMIME")
        if server.utf8:
            words.append("SMTPUTF8")
        if server.size is not None:
            words.append(f"SIZE {server.size}")
        if server.tls == "starttls" and not self.secure:
            words.append("STARTTLS")
        if (server.users or server.tokens) and (self.secure or server.tls is None):
            words.append("AUTH " + " ".join(server.mechanisms))
        words.append("ENHANCEDSTATUSCODES")
        lines = [f"250-{word}\r\n" for word in words[:-1]] + [f"250 {words[-1]}\r\n"]
        self.answer("ehlo", "".join(lines).encode(), effect=self.forget)

    def helo(self, _rest: str) -> None:
        self.answer("helo", b"250 test.example.org\r\n", effect=self.forget)

    def starttls(self, _rest: str) -> None:
        if self.server.tls != "starttls" or self.secure:
            self.out.append(b"502 5.5.1 not here\r\n")
            return
        self.answer("starttls", b"220 2.0.0 go ahead\r\n", effect=self.upgrade)

    def upgrade(self) -> None:
        self.blocked = True
        self.buffer = b""
        # The client's next bytes belong to TLS: nothing is read before the TLS protocol is in place.
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.begin_tls)

    def begin_tls(self) -> None:
        self.upgrading = asyncio.ensure_future(self.handshake())

    async def handshake(self) -> None:
        loop, context = asyncio.get_running_loop(), self.server.ssl_context
        assert context is not None
        try:
            transport = await loop.start_tls(self.transport, self, context, server_side=True)
        except OSError:
            self.transport.abort()
            self.server.closed(self)
            return
        assert transport is not None
        self.transport = transport
        self.secure, self.blocked = True, False
        self.process()

    def mail(self, rest: str) -> None:
        if not self.authenticated:
            self.out.append(b"530 5.7.0 authentication required\r\n")
            return
        if self.sender is not None:
            self.out.append(b"503 5.5.1 nested MAIL command\r\n")
            return
        path, _, options = rest[5:].partition(" ")
        address = path.strip("<>")

        def effect() -> None:
            self.sender, self.options = address, tuple(options.split())

        self.answer("mail", b"250 2.1.0 ok\r\n", address=address, effect=effect)

    def rcpt(self, rest: str) -> None:
        if self.sender is None:
            self.out.append(b"503 5.5.1 MAIL first\r\n")
            return
        address = rest[3:].strip("<>")
        if 0 < self.server.max_recipients <= len(self.recipients):
            self.out.append(b"452 4.5.3 too many recipients\r\n")
            return
        self.answer("rcpt", b"250 2.1.5 ok\r\n", address=address, effect=lambda: self.recipients.append(address))

    def data(self, _rest: str) -> None:
        if not self.recipients and not self.server.data_without_recipients:
            self.out.append(b"554 5.5.1 no valid recipients\r\n")
            return
        self.answer("data", b"354 go ahead\r\n", effect=self.begin_body)

    def begin_body(self) -> None:
        self.body, self.searched = bytearray(b"\r\n"), 0

    def read_body(self) -> None:
        """Read what has arrived of a body; answer at its end."""
        body = self.body
        assert body is not None
        body += self.buffer
        self.buffer = b""
        end = body.find(END, self.searched)
        self.searched = max(0, len(body) - len(END))
        if end < 0:
            self.mid_body(len(body) - 2)
            return
        self.buffer = bytes(body[end + len(END) :])
        self.body = None
        text = bytes(body[: end + 2]).replace(b"\r\n..", b"\r\n.")[2:]
        sender, recipients, options = self.sender, tuple(self.recipients), self.options
        self.forget()
        if not recipients:
            self.answer("dot", b"554 5.5.1 no valid recipients\r\n")
            return
        if self.server.senders is not None and sender not in self.server.senders:
            self.answer("final", f"{self.server.sender_refusal}\r\n".encode())
            return
        message = Received(sender or "", recipients, text, self.number, options)
        self.answer("final", b"250 2.0.0 queued\r\n", effect=lambda: self.server.accepted(message))

    def bdat(self, rest: str) -> None:
        if not self.server.chunking:
            self.out.append(b"500 5.5.2 unknown command\r\n")
            return
        size, _, last = rest.partition(" ")
        assert last.upper() == "LAST" and int(size) > 0
        if self.recipients or self.server.discards:
            self.chunk = int(size)
        else:
            self.refuse_bdat()

    def refuse_bdat(self) -> None:
        if not self.server.keeps_sender:
            self.forget()
        self.answer("bdat", b"503 5.5.1 no transaction\r\n")

    def read_chunk(self) -> bool:
        """Read a body of BDAT when it is complete, and answer; False: it is not."""
        if len(self.buffer) < self.chunk:
            return False
        text, self.buffer = self.buffer[: self.chunk], self.buffer[self.chunk :]
        self.chunk = 0
        if not self.recipients:
            self.refuse_bdat()
            return True
        message = Received(self.sender or "", tuple(self.recipients), text, self.number, self.options)
        self.forget()
        self.answer("final", b"250 2.0.0 queued\r\n", effect=lambda: self.server.accepted(message))
        return True

    def mid_body(self, size: int) -> None:
        rules = self.server._rules.get("body", ())
        if not any(size >= rule.after for rule in rules):
            return
        rule = self.server.match("body", self.number)
        if rule is None:
            return
        if rule.stall:
            self.blocked = True
            self.transport.pause_reading()
            rule.hold(self.resume_body)
        else:
            self.finish(rule, b"", _nothing)

    def resume_body(self) -> None:
        if not self.transport.is_closing():
            self.blocked = False
            self.transport.resume_reading()

    def rset(self, _rest: str) -> None:
        self.answer("rset", b"250 2.0.0 ok\r\n", effect=self.forget)

    def noop(self, _rest: str) -> None:
        self.answer("noop", b"250 2.0.0 ok\r\n")

    def quit(self, _rest: str) -> None:
        self.answer("quit", b"221 2.0.0 bye\r\n", effect=self.leave)

    def leave(self) -> None:
        self.blocked = True
        asyncio.get_running_loop().call_soon(self.transport.close)

    # AUTH

    def auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        mechanism = mechanism.upper()
        self.server.auth_attempts.append(mechanism)
        if mechanism == "PLAIN":
            _, user, password = base64.b64decode(initial).decode().split("\0")
            self.verdict(self.server.users.get(user) == password)
        elif mechanism == "XOAUTH2":
            fields = base64.b64decode(initial).decode().split("\x01")
            self.bearer(fields[0].removeprefix("user="), fields[1].removeprefix("auth=Bearer "))
        elif mechanism == "OAUTHBEARER":
            header, *pairs = base64.b64decode(initial).decode().split("\x01")
            user = header.removeprefix("n,a=").removesuffix(",").replace("=2C", ",").replace("=3D", "=")
            token = next(pair for pair in pairs if pair.startswith("auth=")).removeprefix("auth=Bearer ")
            self.bearer(user, token)
        elif mechanism == "CRAM-MD5":
            self.out.append(b"334 " + base64.b64encode(CRAM_CHALLENGE) + b"\r\n")
            self.dialogue = self.cram_md5
        elif mechanism == "LOGIN" and not initial:
            self.out.append(b"334 VXNlcm5hbWU6\r\n")
            self.dialogue = self.login_user
        else:
            self.out.append(b"504 5.5.4 unknown mechanism\r\n")

    def login_user(self, line: bytes) -> None:
        user = base64.b64decode(line).decode()
        self.out.append(b"334 UGFzc3dvcmQ6\r\n")

        def password(line: bytes) -> None:
            self.verdict(self.server.users.get(user) == base64.b64decode(line).decode())

        self.dialogue = password

    def cram_md5(self, line: bytes) -> None:
        user, _, digest = base64.b64decode(line).decode().rpartition(" ")
        expected = hmac.new(self.server.users.get(user, "").encode(), CRAM_CHALLENGE, "md5").hexdigest()
        self.verdict(user in self.server.users and hmac.compare_digest(digest, expected))

    def bearer(self, user: str, token: str) -> None:
        if self.server.tokens.get(user) == token:
            self.verdict(True)
            return
        self.out.append(b"334 " + base64.b64encode(json.dumps(CHALLENGE).encode()) + b"\r\n")
        self.dialogue = lambda _line: self.verdict(False)

    def verdict(self, good: bool) -> None:
        def effect() -> None:
            self.authenticated = good

        refusal = f"{self.server.login_refusal}\r\n".encode()
        self.answer("auth", b"235 2.7.0 welcome\r\n" if good else refusal, effect=effect)


COMMANDS: dict[str, Callable[[Connection, str], None]] = {
    "EHLO": Connection.ehlo,
    "HELO": Connection.helo,
    "STARTTLS": Connection.starttls,
    "AUTH": Connection.auth,
    "MAIL": Connection.mail,
    "RCPT": Connection.rcpt,
    "DATA": Connection.data,
    "BDAT": Connection.bdat,
    "RSET": Connection.rset,
    "NOOP": Connection.noop,
    "QUIT": Connection.quit,
}
