"""An SMTP sink that offers CHUNKING (RFC 3030): ``python -m benchmark.chunking_sink PORT``, until it is terminated.

It accepts and discards every message, by DATA as by BDAT, and prints their number when a client says QUIT.  Postfix's
``smtp-sink`` knows no BDAT, and Postfix itself takes more of the processor than what is to be measured.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

#: Replies that are the same for each command of that name.
REPLIES = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250-CHUNKING\r\n"
    b"250 ENHANCEDSTATUSCODES\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
    b"DATA": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
ACCEPTED, REFUSED, UNKNOWN = b"250 2.0.0 Ok\r\n", b"503 5.5.1 Error\r\n", b"502 5.5.2 Error\r\n"


class Sink(asyncio.Protocol):
    """One connection."""

    #: Messages of all connections.
    messages = 0

    def __init__(self) -> None:
        self._rest = b""
        #: MAIL was accepted, and its message has not come.
        self._has_sender = False
        #: The text of a message comes, up to its dot.
        self._is_data = False
        #: Bytes of a BDAT that are still to come, and the reply to it.
        self._bytes_left, self._verdict = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer what is complete, in one write."""
        data, start, replies = self._rest + data, 0, list[bytes]()
        while (end := self._next(data, start, replies)) > start:
            start = end
        self._rest = data[start:]
        if replies:
            self._transport.write(b"".join(replies))
        if replies and replies[-1] is REPLIES[b"QUIT"]:
            self._transport.close()

    def _next(self, data: bytes, start: int, replies: list[bytes]) -> int:
        """Answer what begins at ``start``; returns where it ends, or ``start`` where more of it must come."""
        if self._bytes_left:
            taken = min(self._bytes_left, len(data) - start)
            self._bytes_left -= taken
            if taken and not self._bytes_left:
                self._answer_message(replies, self._verdict)
            return start + taken
        if self._is_data:
            if (dot := data.find(b"\r\n.\r\n", start)) < 0:  # no message is empty
                return start
            self._is_data = False
            self._answer_message(replies, ACCEPTED)
            return dot + 5
        if (end := data.find(b"\r\n", start)) < 0:
            return start
        self._command(data[start:end], replies)
        return end + 2

    def _command(self, line: bytes, replies: list[bytes]) -> None:
        verb = line[:4].upper()
        if verb == b"BDAT":
            self._bytes_left = int(line.split()[1])
            # The bytes of a BDAT without a transaction are discarded too (RFC 3030 §2).
            self._verdict = ACCEPTED if self._has_sender else REFUSED
            return
        if verb in (b"MAIL", b"RSET"):
            self._has_sender = verb == b"MAIL"
        self._is_data = verb == b"DATA"
        if verb == b"QUIT":
            print(f"mesg={Sink.messages}", flush=True)
        replies.append(REPLIES.get(verb, UNKNOWN))

    def _answer_message(self, replies: list[bytes], verdict: bytes) -> None:
        Sink.messages += verdict is ACCEPTED
        self._has_sender = False
        replies.append(verdict)


async def main(port: int) -> None:
    """Serve until the process is terminated."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=256)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
