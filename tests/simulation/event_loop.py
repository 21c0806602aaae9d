"""The network side of a simulated process: an event loop on the world's clock, and its TCP connections."""

from __future__ import annotations

import asyncio
import re
from asyncio import events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prx_email_django.worker.network import Network, _wind_up
from tests.simulation.world import Actor, Killed, World

if TYPE_CHECKING:
    from tests.simulation.server import ServerConnection, SimulatedServer

_ENVELOPE = re.compile(rb"MAIL FROM:<([^>]*)>|RCPT TO:<([^>]*)>")


class _Future(asyncio.Future[Any]):
    """A future whose place in a set does not depend on memory: the same seed does the same again."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._number = next(World.current.numbers)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    def __init__(self, coroutine: Any, **options: Any) -> None:
        self._number = next(World.current.numbers)
        super().__init__(coroutine, **options)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number


class _NoSelector:
    def select(self, timeout: float | None) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs one turn when the world chooses it."""

    def __init__(self, world: World, actor: Actor) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self.world = world
        self.actor = actor
        self.dead = False
        self.transports: list[SimulatedTransport] = []
        self.set_task_factory(lambda loop, coroutine, **options: _Task(coroutine, loop=loop, **options))
        self.set_exception_handler(self._unexpected)
        world.loops.append(self)
        actor.loops.append(self)

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def time(self) -> float:
        return self.world.now

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:
            self.world.fail(
                f"the event loop of {self.actor.name}: {context.get('message')} {context.get('exception')!r}"
            )

    def has_work(self) -> bool:
        """Whether a turn would run something now."""
        if self.actor.is_frozen:
            return False
        if self._ready:  # type: ignore[attr-defined]
            return True
        when = self.next_timer()
        return when is not None and when <= self.world.now

    def next_timer(self) -> float | None:
        """When the next timer fires."""
        if self.actor.is_frozen:
            return self.actor.frozen_until
        scheduled = self._scheduled  # type: ignore[attr-defined]
        # Only the first handle is looked at: a turn removes it if it was cancelled.
        return scheduled[0]._when if scheduled else None

    def turn(self) -> None:
        """Run what is ready."""
        before = self.world.me
        self.world.me = self.actor
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)
            self.world.me = before

    def die(self) -> None:
        """The process is gone: nothing runs any more, and the system closes its connections."""
        if self in self.world.loops:
            self.world.loops.remove(self)
        if self in self.actor.loops:
            self.actor.loops.remove(self)
        for transport in list(self.transports):
            transport.vanish()
        self.dead = True

    def bury(self) -> None:
        """End what a killed process left in memory, after the schedule."""
        for _ in range(100):
            tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not tasks and not self._ready:  # type: ignore[attr-defined]
                break
            for task in tasks:
                task.cancel()
            self.turn()
        self.close()

    async def create_connection(self, factory: Callable[[], Any], *args: Any, sock: Any = None, **options: Any) -> Any:
        """Wrap the connected socket of ``connect``, as asyncio does."""
        protocol = factory()
        transport = SimulatedTransport(self, protocol, sock)
        protocol.connection_made(transport)
        sock.remote.attach(transport)
        return transport, protocol


class SimulatedNetwork(Network):
    """``Network`` on the world's clock, in the thread of its caller."""

    def __init__(self) -> None:
        self.world = World.current
        self.loop: SimulatedLoop = SimulatedLoop(self.world, self.world.me)  # type: ignore[assignment]
        BURIED.append(self.loop)

    def start_thread(self) -> None:
        """Do nothing: the world runs it."""

    @property
    def is_running(self) -> bool:
        """Whether it was not closed."""
        return not (self.loop.is_closed() or self.loop.dead)

    def close(self) -> None:
        """Cancel everything, let it end, and stop."""
        if self.loop.is_closed() or self.loop.dead:
            return
        ended = self.loop.create_task(_wind_up())
        try:
            self.world.block(ended.done, float("inf"))
        except Killed:
            return
        self.world.loops.remove(self.loop)
        self.loop.actor.loops.remove(self.loop)
        for transport in list(self.loop.transports):
            self.world.fail(f"{transport} is open after its network was closed")
            transport.vanish()
        self.loop.close()


#: Loops of the running schedule; those that are not closed at its end belong to killed processes.
BURIED: list[SimulatedLoop] = []


class SimulatedSocket:
    """A connected socket, as far as the app looks at one."""

    def __init__(self, remote: ServerConnection) -> None:
        self.remote = remote

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 25)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 40000)

    def shutdown(self, how: int) -> None:
        self.remote.client_closed()

    def close(self) -> None:
        self.remote.client_closed()


class SimulatedTransport(asyncio.Transport):
    """The client's end of a TCP connection."""

    def __init__(self, loop: SimulatedLoop, protocol: Any, sock: SimulatedSocket) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._remote = sock.remote
        self._sock = sock
        self._closing = False
        self._gone = False
        #: The number of the last MAIL that was written.
        self._mail = 0
        #: Bytes that the system does not take at the moment.
        self._unsent = b""
        loop.transports.append(self)
        server = self._remote.server
        server.live += 1
        server.most_live = max(server.most_live, server.live)

    def __repr__(self) -> str:
        return f"connection {self._remote.number} of {self._loop.actor.name}"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self._sock.getpeername(), "socket": self._sock}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: Any) -> None:
        if self._gone or self._loop.dead:
            return
        for sender, recipient in _ENVELOPE.findall(data):
            server = self._remote.server
            if recipient:
                server.rcpts[self._mail] += 1
            else:
                self._mail = len(server.mails)
                server.mails.append((self._loop.world.uptime(), self._remote.client, sender.decode()))
                server.rcpts.append(0)
        if self._remote.stalled or self._unsent:
            self._unsent += bytes(data)
        else:
            self._remote.transmit(bytes(data))

    def resume(self) -> None:
        """The system takes bytes again."""
        data, self._unsent = self._unsent, b""
        if data and not self._gone:
            self._remote.transmit(data)
        if self._closing and not self._gone:
            self._end(None)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._unsent:
            self._end(None)

    def abort(self) -> None:
        self._closing = True
        self._unsent = b""
        self._end(None)

    def vanish(self) -> None:
        """The process is gone; the system closes the connection."""
        if not self._gone:
            self._remote.server.live -= 1
        self._closing = self._gone = True
        if self in self._loop.transports:
            self._loop.transports.remove(self)
        self._remote.client_closed()

    def _end(self, error: Exception | None) -> None:
        if self._gone:
            return
        self._gone = self._closing = True
        self._remote.server.live -= 1
        self._remote.client_closed()
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        if self in self._loop.transports:
            self._loop.transports.remove(self)
        self._protocol.connection_lost(error)

    # What the other end does

    def receive(self, data: bytes) -> bool:
        """Give bytes to the client; True: its system has taken them."""
        if self._gone or self._loop.dead:
            return False
        self._loop.call_soon(self._received, data)
        return True

    def _received(self, data: bytes) -> None:
        if not self._gone:
            self._protocol.data_received(data)

    def receive_eof(self) -> None:
        """The server has closed its end."""
        if not self._gone and not self._loop.dead:
            self._loop.call_soon(self._eof)

    def _eof(self) -> None:
        if not self._gone:
            keep = self._protocol.eof_received()
            if not keep:
                self.close()

    def receive_reset(self) -> None:
        """The connection is broken."""
        if not self._gone and not self._loop.dead:
            self._unsent = b""
            self._loop.call_soon(self._reset)

    def _reset(self) -> None:
        self._end(ConnectionResetError("Connection reset by peer"))


def connector(server_of: Callable[[str, int], SimulatedServer]) -> Callable[..., Any]:
    """``transports.smtp.connect.connect`` in the simulated world."""

    async def connect(
        host: str, port: int, *, timeout: float, allowed: object = None, resolved: Any = None
    ) -> SimulatedSocket:
        world = World.current
        server = server_of(host, port)
        await asyncio.sleep(server.latency)
        fault = server.fault("connect")
        if fault == "refuse":
            raise ConnectionRefusedError("Connection refused")
        if fault == "hang":
            await asyncio.sleep(timeout)
            raise TimeoutError
        return SimulatedSocket(server.accept(world.me.name))

    return connect
