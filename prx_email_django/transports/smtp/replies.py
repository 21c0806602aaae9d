"""Parser of SMTP replies (RFC 5321 §4.2, enhanced codes of RFC 3463).  Pure: bytes in, values out.

What a reply means for the message, its recipients and the account: ``reply_rules``.
"""

from __future__ import annotations

import re

from prx_email_django.rules.text import MAX_TEXT, clean

#: Bytes of one reply line; RFC 5321 §4.5.3.1.5 says 512, servers send more.
MAX_LINE = 8192
#: Lines of one reply.
MAX_LINES = 100
#: Replies that a connection keeps since they may come again.
MOST_KNOWN = 20

_CODES = {b"%d" % code: code for code in range(200, 600)}
_ENHANCED = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


#: What servers of other protocols say first, and what a page may say about them.
_OTHER_PROTOCOLS = (
    (re.compile(rb"HTTP/|\s*<(!doctype|html|\?xml)", re.IGNORECASE), "HTTP"),
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), "TLS"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"\* (OK|BYE|PREAUTH)", re.IGNORECASE), "IMAP"),
    (re.compile(rb"\+OK|-ERR", re.IGNORECASE), "POP3 or another protocol"),
)
#: What an SMTP server says first, and an FTP server too (RFC 959 §5.4).
_GREETING = re.compile(rb"(220|421|554)[ -][^\r\n]*")


def not_smtp(received: bytes) -> str:
    """Say what kind of server sent these bytes, without the bytes.

    People who may choose an account's host may not read what the services inside this network say.
    """
    kinds = (kind for pattern, kind in _OTHER_PROTOCOLS if pattern.match(received))
    return f"not an SMTP reply: the server answered with {next(kinds, 'another protocol')}"


def clear_text_protocol(received: bytes) -> str:
    """What kind of server sent these bytes where TLS should begin; empty if that is unknown."""
    if greeting := _GREETING.match(received):
        return "FTP" if b"ftp" in greeting[0].lower() else "SMTP"
    return next((kind for pattern, kind in _OTHER_PROTOCOLS if kind != "TLS" and pattern.match(received)), "")


class MalformedReply(ValueError):
    """What the server sent is not an SMTP reply, or exceeds the bounds; ``str()`` is shown to people.

    ``received`` is the beginning of what was sent, for the log only.
    """

    def __init__(self, text: str, received: bytes = b"") -> None:
        super().__init__(text)
        self.received = received


class Reply:
    """One reply: its code, and its lines without code and line end."""

    __slots__ = ("_enhanced", "_words", "code", "lines")

    def __init__(self, code: int, lines: list[bytes]) -> None:
        self.code = code
        self.lines = lines
        # Made when they are asked for, and once: a reply that comes again is the same object (``ReplyParser``).
        self._enhanced: str | None = None
        self._words: str | None = None

    @property
    def enhanced(self) -> str:
        """The enhanced code at the start of the first line (``5.1.1``), or ``""``."""
        if self._enhanced is None:
            match = _ENHANCED.match(self.lines[0])
            self._enhanced = match[1].decode("ascii") if match else ""
        return self._enhanced

    @property
    def text(self) -> str:
        """All lines joined and cleaned; only the first line keeps its enhanced code."""
        lines = self.lines
        if len(lines) > 1:
            lines = [lines[0], *(_ENHANCED.sub(b"", line, count=1) for line in lines[1:])]
        return clean(b" ".join(lines).decode("utf-8", "replace"))

    def __str__(self) -> str:
        if self._words is None:
            words = f"{self.code} {self.text}"
            self._words = words if len(words) <= MAX_TEXT else clean(words)
        return self._words

    def __repr__(self) -> str:
        return f"<Reply {self}>"


class ReplyParser:
    """Splits received bytes into replies; keeps at most one unfinished reply, and that within the bounds."""

    __slots__ = ("_code", "_known", "_lines", "_rest", "_size")

    def __init__(self) -> None:
        #: Replies of one line that came before, by that line: most of what a server says it says again.
        self._known: dict[bytes, Reply] = {}
        self._rest = b""
        self._code = 0
        self._lines: list[bytes] = []
        #: Bytes of these lines.
        self._size = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that are complete now.

        Raises:
            MalformedReply: not a reply, or a line or a reply too long.  Nothing more can be read from this connection.
        """
        replies: list[Reply] = []
        self.feed_into(data, replies)
        return replies

    def feed_into(self, data: bytes, replies: list[Reply]) -> None:
        """Do the same as ``feed``, but append to ``replies``: replies before a malformed one are kept."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        known = self._known
        for line in lines:
            is_first = not self._lines
            if is_first and (reply := known.get(line)) is not None:
                replies.append(reply)
            elif (reply := self._line(line)) is not None:
                replies.append(reply)
                if is_first and len(known) < MOST_KNOWN and len(line) < MAX_TEXT:
                    known[line] = reply
        if len(self._rest) > MAX_LINE:
            raise MalformedReply("reply line too long")

    def _line(self, line: bytes) -> Reply | None:
        if len(line) > MAX_LINE:
            raise MalformedReply("reply line too long")
        if line.endswith(b"\r"):
            line = line[:-1]
        code, mark = _CODES.get(line[:3]), line[3:4]
        if code is None or mark not in b" -":
            raise MalformedReply(not_smtp(line), line[:MAX_TEXT])
        if not self._lines and mark != b"-":
            return Reply(code, [line[4:]])
        if self._lines and code != self._code:
            raise MalformedReply("a reply whose lines have different codes")
        self._code = code
        # No text needs more bytes, and a message may have as many replies in memory as it has recipients.
        self._lines.append(line[4:] if self._size < MAX_LINE else b"")
        self._size += len(line)
        if len(self._lines) > MAX_LINES:
            raise MalformedReply("reply of too many lines")
        if mark == b"-":
            return None
        reply = Reply(code, self._lines)
        self._lines, self._size = [], 0
        return reply
