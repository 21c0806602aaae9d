"""A delaying TCP proxy: ``python -m benchmark.proxy UPSTREAM_PORT SECONDS`` prints its port and runs until killed.

It delays all data by ``SECONDS`` in each direction, and the handshake as a real line would.  It does not limit the
bandwidth.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import cast

Step = Callable[[], None]


class Line:
    """One direction of a connection: runs steps after a delay, in their order."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._steps: deque[tuple[float, Step]] = deque()

    def later(self, step: Step) -> None:
        """Run the step after the delay."""
        self._steps.append((self._loop.time() + self._delay, step))
        if len(self._steps) == 1:
            self._loop.call_at(self._steps[0][0], self._run)

    def _run(self) -> None:
        now = self._loop.time()
        while self._steps and self._steps[0][0] <= now:
            self._steps[0][1]()
            self._steps.popleft()
        if self._steps:
            self._loop.call_at(self._steps[0][0], self._run)


class End(asyncio.Protocol):
    """One end of a proxied connection."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.peer: End | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        self.line.later(lambda: self.peer and self.peer.put(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.line.later(lambda: self.peer and self.peer.close())

    def put(self, data: bytes) -> None:
        """Write the data, or keep it until the connection is open."""
        if self.transport is None:
            self._early.append(data)
        else:
            self.transport.write(data)

    def close(self) -> None:
        """Close the connection after the buffered data is written."""
        if self.transport is not None:
            self.transport.close()


class Accepted(End):
    """The client's end; opens the server's end."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(Line(delay))
        self._delay = delay
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer = End(Line(self._delay))
        self.peer.peer = self
        # SYN, SYN-ACK, ACK: the server accepts a client after three one-way delays.
        self._handshake = asyncio.get_running_loop().call_later(3 * self._delay, self._open)

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_connection(lambda: self.peer, "127.0.0.1", self._port))


async def main(port: int, delay: float) -> None:
    """Serve until the process is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Accepted(delay, port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
