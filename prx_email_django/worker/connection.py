"""Where the two threads meet: jobs go out through a pool to its lanes, results come back through a mailbox.

Every counter here has one writing thread: the caller's, or the network's.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prx_email_django.limits.slots import Slot
from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import (
    ConnectError,
    ConnectionSettings,
    OutgoingMessage,
    Session,
    SessionEnd,
    Transport,
)
from prx_email_django.worker.outgoing import Job

if TYPE_CHECKING:
    from prx_email_django.worker.account import AccountRun

logger = logging.getLogger("prx_email_django")


@dataclass(slots=True)
class Result:
    """An outcome on its way back."""

    lane: Lane
    job: Job
    outcome: Outcome
    finished_at: datetime


class Mailbox:
    """Results for the calling thread, which wake it only when there is a group of them, and other reasons to wake."""

    def __init__(self, group: int) -> None:
        self._alarm: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.results: deque[Result] = deque()
        self.group = group

    def put(self, result: Result) -> None:
        """Leave a result; a full group wakes the caller, others wait for company or for an idle lane."""
        self.results.append(result)
        if len(self.results) == self.group:
            self.wake()

    def wake(self) -> None:
        """Wake the calling thread: there is something to do."""
        self._alarm.put(None)

    def wait(self, timeout: float) -> None:
        """Wait to be woken, at most ``timeout`` seconds."""
        try:
            self._alarm.get(timeout=max(0.0, timeout))
            while True:
                self._alarm.get_nowait()
        except queue.Empty:
            return


class Pool:
    """The jobs of one account that are ready for its lanes."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.ready: deque[Job] = deque()
        self.lanes: set[Lane] = set()
        self.closing = False
        self.pushed_bytes = 0  # caller
        self.recorded = 0  # caller
        self.taken = 0  # network
        self.taken_bytes = 0  # network
        self.reported = 0  # network
        self.accepted = 0  # network
        #: Lanes that wait: raised before such a lane looks for the last time, so that a caller who has brought
        #: something and sees none here need wake nobody (waking was a tenth of its time).
        self.waiting = 0  # network

    @property
    def in_flight(self) -> int:
        """Jobs that a lane has taken and not reported."""
        return self.taken - self.reported

    @property
    def ready_bytes(self) -> int:
        """Octets that wait for a lane."""
        return self.pushed_bytes - self.taken_bytes

    @property
    def unrecorded(self) -> int:
        """Acceptances that are not in the database yet: what a kill would send again."""
        return self.accepted - self.recorded

    def push(self, jobs: Iterable[Job]) -> None:
        """Caller: hand over jobs."""
        for job in jobs:
            self.pushed_bytes += len(job.outgoing.body)
            self.ready.append(job)

    def withdraw(self) -> list[Job]:
        """Caller: take back what no lane has taken."""
        jobs: list[Job] = []
        while True:
            try:
                job = self.ready.popleft()
            except IndexError:
                return jobs
            self.pushed_bytes -= len(job.outgoing.body)
            job.let_go()
            jobs.append(job)

    def take(self) -> Job | None:
        """Network: the next job, unless too much is accepted and unrecorded: a kill copies at most 5 × connections."""
        if self.unrecorded >= 4 * self.connections or self.unrecorded + self.in_flight >= 5 * self.connections:
            return None
        try:
            job = self.ready.popleft()
        except IndexError:
            return None
        self.taken += 1
        self.taken_bytes += len(job.outgoing.body)
        return job

    def kick(self) -> None:
        """Network: something has changed for waiting lanes."""
        for lane in self.lanes:
            lane.changed.set()


class Lane:
    """One connection of an account, from opening to its end; the ``Feed`` of its session."""

    def __init__(self, run: AccountRun, pool: Pool, slot: Slot, mailbox: Mailbox) -> None:
        self.run = run
        self.pool = pool
        self.slot = slot
        self.mailbox = mailbox
        self.changed = asyncio.Event()
        self.session: Session | None = None
        self.idle = False
        self.stopping = False
        self.taken: dict[int, Job] = {}
        #: Caller: an outcome has told of trouble already.
        self.trouble_noted = False
        self.token = ""
        self._opening: asyncio.Task[Any] | None = None

    async def live(self, transport: Transport, login: ConnectionSettings) -> None:
        """Open a session, run it to its end, and tell the calling thread of each step."""
        session = await self._open(transport, login)
        if session is None:
            return
        self.session = session
        self.pool.lanes.add(self)
        self._tell(lambda: self.run.opened(self, session))
        end = SessionEnd(trouble=Trouble.CONNECTION, error_code=ErrorCode.NETWORK, error="the connection was cut")
        try:
            end = await session.run(self)
        except Exception as error:  # a lane never takes the drain down with it
            logger.exception("a connection died unexpectedly")
            end = SessionEnd(
                trouble=Trouble.CONNECTION, error_code=ErrorCode.NETWORK, error=f"{type(error).__name__} in the lane"
            )
            session.abort()
        finally:
            self.pool.lanes.discard(self)
            self._report_left()
            ended = end
            self._tell(lambda: self.run.ended(self, ended))

    async def _open(self, transport: Transport, login: ConnectionSettings) -> Session | None:
        self._opening = asyncio.current_task()
        if self.stopping:  # given up before it began
            self._tell(lambda: self.run.connect_cancelled(self, None))
            return None
        try:
            return await transport.open(login)
        except asyncio.CancelledError as cancelled:
            reached = cancelled.__cause__ if isinstance(cancelled.__cause__, ConnectError) else None
            self._tell(lambda: self.run.connect_cancelled(self, reached))
            raise
        except ConnectError as error:
            refused = error
        except Exception as error:  # a lane never takes the drain down with it
            logger.exception("opening a connection failed unexpectedly")
            refused = unexpected(error)
        self._tell(lambda: self.run.connect_failed(self, refused))
        return None

    def give_up(self) -> None:
        """Network: take nothing more; an opening that is under way ends, whether or not it has begun."""
        self.stopping = True
        if self.session is None and self._opening is not None:
            self._opening.cancel()
        self.changed.set()

    def _tell(self, news: Callable[[], None]) -> None:
        """Leave news for the account, behind the results that this lane left before."""
        self.run.news.append(news)
        self.mailbox.wake()

    def take(self) -> OutgoingMessage | None:
        """The next parcel, if the slot still holds."""
        if self.stopping or not self.slot.holds():
            return None
        job = self.pool.take()
        if job is None:
            return None
        job.slot = self.slot
        self.taken[id(job.outgoing)] = job
        self.idle = False
        return job.outgoing

    async def wait(self) -> OutgoingMessage | None:
        """The next parcel; None when the account is done, or the slot runs out."""
        self.pool.waiting += 1
        try:
            return await self._wait()
        finally:
            self.pool.waiting -= 1

    async def _wait(self) -> OutgoingMessage | None:
        while True:
            self.changed.clear()
            outgoing = self.take()
            if outgoing is not None:
                return outgoing
            left = self.slot.remaining()
            if self.pool.closing or self.stopping or left <= 0:
                return None
            if not self.idle:
                self.idle = True
                self.mailbox.wake()
            try:
                async with asyncio.timeout(left):
                    await self.changed.wait()
            except TimeoutError:
                continue

    def report(self, outgoing: OutgoingMessage, outcome: Outcome) -> None:
        """Leave an outcome for the calling thread."""
        job = self.taken.pop(id(outgoing))
        job.let_go()
        if outcome.ending is Ending.ACCEPTED:
            self.pool.accepted += 1
        self.pool.reported += 1
        self.mailbox.put(Result(self, job, outcome, job.clock.now))

    def _report_left(self) -> None:
        """The lane died: what it had taken is released, or unknown where a body was on its way."""
        for job in list(self.taken.values()):
            self.report(job.outgoing, cut_off(job))


def cut_off(job: Job) -> Outcome:
    """The outcome of a job whose lane died: untouched, or unknown where its body was on the way."""
    if not job.body_written:
        return Outcome(Ending.UNTOUCHED, mail_written=job.mail_written)
    return Outcome(
        Ending.UNKNOWN,
        recipients=dict.fromkeys(job.route.envelope, RecipientOutcome(Answer.UNKNOWN)),
        error_code=ErrorCode.UNKNOWN_OUTCOME,
        error="the connection was cut while the message was on its way",
        phase=Phase.BODY,
        mail_written=True,
    )


def unexpected(error: Exception) -> ConnectError:
    """An exception that no transport should raise, as one that it may."""
    return ConnectError(
        f"unexpected {type(error).__name__}",
        phase=Phase.CONNECT,
        trouble=Trouble.CONNECTION,
        error_code=ErrorCode.NETWORK,
    )
