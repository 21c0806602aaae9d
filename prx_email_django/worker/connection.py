"""One connection of an account, from opening to its end: it takes messages, reports outcomes and sends events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from prx_email_django.limits.slots import Slot
from prx_email_django.models import Account
from prx_email_django.rules.outcomes import Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import (
    ConnectError,
    ConnectionSettings,
    OutgoingMessage,
    Session,
    SessionEnd,
    Transport,
)
from prx_email_django.worker.idle import IdleConnection
from prx_email_django.worker.outgoing import ClaimedMessage
from prx_email_django.worker.queues import ReadyQueue, ResultQueue

logger = logging.getLogger("prx_email_django")


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection has greeted and logged in."""

    connection: Connection
    session: Session


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    """No connection could be opened."""

    connection: Connection
    error: ConnectError


@dataclass(frozen=True, slots=True)
class OpeningCancelled:
    """An opening was given up; ``reached`` says how far it had come."""

    connection: Connection
    reached: ConnectError | None


@dataclass(frozen=True, slots=True)
class Ended:
    """An open connection is over, or idle; the outcomes of all its messages were reported before."""

    connection: Connection
    end: SessionEnd


ConnectionEvent: TypeAlias = Opened | OpeningFailed | OpeningCancelled | Ended
#: Called with an event, on the network's thread.
Listener: TypeAlias = Callable[[ConnectionEvent], None]


class Connection:
    """The ``Feed`` of one session."""

    def __init__(
        self,
        slot: Slot,
        *,
        ready: ReadyQueue,
        results: ResultQueue,
        listener: Listener,
        idle: IdleConnection | None = None,
    ) -> None:
        self.slot = slot
        #: The connection that an earlier drain has kept in this slot.
        self._kept = idle
        self.ready = ready
        self.results = results
        self.listener = listener
        #: What lets the session look again, while it waits for a message.
        self._changed: Callable[[], None] | None = None
        self._slot_timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None
        #: The server has completed a transaction; a connection that was kept has completed some before.
        self.has_completed = idle is not None
        self.idle = False
        self.stopping = False
        #: Messages that it has taken and not reported.
        self.taken: dict[OutgoingMessage, ClaimedMessage] = {}
        #: Caller: an outcome has named the trouble of its end already.
        self.trouble_noted = False
        #: The account as it was when it began to open; None: not set yet.
        self.account: Account | None = None
        #: The access token that it logs in with.
        self.token = ""
        #: The server refused the token after the login, and a fresh token is fetched.
        self.token_ended = False
        self._opening: asyncio.Task[Any] | None = None

    async def run(self, transport: Transport, settings: ConnectionSettings) -> None:
        """Open a session and run it to its end; the listener gets an event for each step."""
        session = await self._open(transport, settings)
        if session is None:
            return
        self.session = session
        self.ready.connections.add(self)
        self.listener(Opened(self, session))
        end = SessionEnd(trouble=Trouble.CONNECTION, error_code=ErrorCode.NETWORK, error="the connection was cut")
        try:
            end = await session.run(self)
        except Exception as error:  # a connection never takes the drain down with it
            logger.exception("a connection died unexpectedly")
            text = f"{type(error).__name__} in the connection"
            end = SessionEnd(trouble=Trouble.CONNECTION, error_code=ErrorCode.NETWORK, error=text)
            session.abort()
        finally:
            self.ready.connections.discard(self)
            self._leave()
            for message in list(self.taken.values()):
                self.report(message, message.cut_off())
            self.listener(Ended(self, end))

    async def _open(self, transport: Transport, settings: ConnectionSettings) -> Session | None:
        self._opening = asyncio.current_task()
        if self.stopping:  # it was given up before it began
            if self._kept is not None:
                self._kept.abort()
            self.listener(OpeningCancelled(self, None))
            return None
        try:
            kept = await self._kept.take(settings) if self._kept is not None else None
            return kept or await transport.open(settings)
        except asyncio.CancelledError as cancelled:
            reached = cancelled.__cause__ if isinstance(cancelled.__cause__, ConnectError) else None
            self.listener(OpeningCancelled(self, reached))
            raise
        except ConnectError as error:
            refused = error
        except Exception as error:  # a connection never takes the drain down with it
            logger.exception("opening a connection failed unexpectedly")
            refused = _unexpected(error)
        self.listener(OpeningFailed(self, refused))
        return None

    def give_up(self) -> None:
        """Network: take nothing more, and end an opening that is under way, whether or not it has begun."""
        self.stopping = True
        if self.session is None and self._opening is not None:
            self._opening.cancel()
        self.wake()

    def take(self) -> ClaimedMessage | None:
        """The next message, if the slot still holds."""
        if self.stopping or not self.slot.has_time_left():
            return None
        message = self.ready.take()
        if message is not None:
            message.connection = self
            self.taken[message] = message
            self.idle = False
        return message

    def take_or_listen(self, changed: Callable[[], None]) -> ClaimedMessage | None:
        """The next message; without one, ``changed`` is called when something has changed, or the slot runs out."""
        if self._changed is None and (message := self.take()) is not None:
            return message
        self._listen(changed)  # before the last look, see ``ReadyQueue.waiting``
        message = self.take()
        if message is None and self.slot.remaining() <= 0:
            self.stopping = True  # from now on: the calling thread may renew the slot at any moment
        if message is not None or self.is_over:
            self._listen(None)
        elif not self.idle:
            self.idle = True
            self.results.wake()
        return message

    @property
    def is_over(self) -> bool:
        """Whether the account is done, the slot was found run out, or the connection was given up."""
        return self.ready.closing or self.stopping

    def wake(self) -> None:
        """Network: let the session look again, if it waits for a message."""
        if self._changed is not None:
            self._changed()

    def _listen(self, changed: Callable[[], None] | None) -> None:
        self.ready.waiting += (changed is not None) - (self._changed is not None)
        self._changed = changed
        if changed is not None and self._slot_timer is None:
            self._slot_timer = asyncio.get_running_loop().call_later(self.slot.remaining(), self._look_at_slot)

    def _look_at_slot(self) -> None:
        """The slot has run out, or would have, had it not been renewed: who listens looks again, and sets a timer."""
        self._slot_timer = None
        self.wake()

    def _leave(self) -> None:
        self._listen(None)
        if self._slot_timer is not None:
            self._slot_timer.cancel()

    def report(self, message: OutgoingMessage, outcome: Outcome) -> None:
        """Leave an outcome for the calling thread."""
        claimed = self.taken.pop(message, None)
        if claimed is None:
            return  # reported already: the connection was cut while it was given back
        claimed.finish(outcome)
        self.has_completed = self.has_completed or outcome.is_completed
        self.ready.heard(outcome)
        self.results.put(claimed)
        if self.idle and not self.taken:
            self.results.wake()  # it became idle when it had written its last message; nothing follows this result

    def keeps_session(self) -> bool:
        """Whether the connection stays open until the next drain: the first that asks, where the caller wants one."""
        if not self.ready.keeps_one or self.stopping or not self.has_completed or not self.slot.has_time_left():
            return False
        self.ready.keeps_one = False
        return True


def _unexpected(error: Exception) -> ConnectError:
    """An exception that no transport should raise, as the error that a transport may raise."""
    return ConnectError(
        f"unexpected {type(error).__name__}",
        phase=Phase.CONNECT,
        trouble=Trouble.CONNECTION,
        error_code=ErrorCode.NETWORK,
    )
