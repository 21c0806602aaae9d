"""The simulated world: one clock, a queue of events, and actors of which exactly one runs at a time.

An actor is a process of its own (a worker, a web process, a person): a thread with its own database connection.  It
runs until it waits, or until the seed takes the turn away at a statement; then the world's random numbers choose who
goes on: an actor, an event loop of an actor, or the next event of the network.  Time passes only when nobody can run.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.event_loop import SimulatedLoop

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
#: Steps after which a schedule that does not end is a failure: something runs in circles.
MOST_STEPS = 40_000


class Killed(BaseException):
    """The actor's process was killed: nothing that it does from now on happens."""


class Actor:
    """One simulated process, or a further thread of one."""

    def __init__(self, world: World, name: str, number: int, process: Actor | None = None) -> None:
        self.world = world
        #: The first thread of the process, which stands for the process.
        self.process = process or self
        #: Module variables of the process, by the number of the variable.
        self.variables: dict[int, Any] = {}
        self.name = name
        self.number = number
        #: Held by the actor itself while it waits for its turn.
        self.baton = threading.Lock()
        self.baton.acquire()
        #: Waits for this, or until then; None: it can run at once.
        self.ready: Callable[[], bool] | None = None
        self.until = 0.0
        self.killed = False
        self.finished = False
        #: A signal that its next call or wait meets as SystemExit, as a task of django-q2 that takes too long does.
        self.signal = False
        self.was_interrupted = False
        #: Seconds by which the clock of its machine is ahead of the database's.
        self.clock_off = 0.0
        #: Stopped until then (SIGSTOP, a machine that is moved): time passes for the others only.
        self.frozen_until = 0.0
        self.error: BaseException | None = None
        #: The statement that it reached last.
        self.statement = "its beginning"
        #: Statements until the process is killed; None: it is not.
        self.dies_in: int | None = None
        self.loops: list[SimulatedLoop] = []

    def is_runnable(self) -> bool:
        """Whether it has something to do now."""
        process = self.process
        if process.killed or (process.finished and process is not self):  # is_gone
            return True
        if process.frozen_until > self.world.now:  # is_frozen
            return False
        return self.signal or self.until <= self.world.now or (self.ready is not None and self.ready())

    @property
    def is_gone(self) -> bool:
        """Whether its process was killed, or has ended without waiting for this thread."""
        return self.process.killed or (self.process.finished and self.process is not self)

    @property
    def is_frozen(self) -> bool:
        """Whether neither its calls nor its network go on."""
        return self.process.frozen_until > self.world.now

    def is_left_unwritten(self) -> bool:
        """Whether the process has ended with results that it could not write."""
        return self.finished and any(getattr(value, "_writes", None) for value in self.variables.values())

    def freeze(self, seconds: float) -> None:
        """Stop the process for so many seconds."""
        if not (self.killed or self.finished):
            self.world.tell(f"{self.name} stands still for {seconds:g} s")
            self.world.meet("freeze", self.statement)
            self.frozen_until = self.world.now + seconds

    def interrupt(self) -> None:
        """Raise SystemExit in the first thread of the process, wherever it is."""
        if not (self.killed or self.finished):
            self.world.tell(f"{self.name} gets a signal")
            self.world.meet("signal", self.statement)
            self.signal = self.was_interrupted = True

    def heed_signals(self) -> None:
        """Raise what the process has to meet now."""
        if self.is_gone:
            raise Killed
        if self.signal:
            self.signal = False
            raise SystemExit

    def kill(self) -> None:
        """Kill the process: its connections break, and its calls never return."""
        if self.killed or self.finished:
            return
        self.world.tell(f"{self.name} is killed")
        self.world.meet("kill", self.statement)
        self.killed = True
        for loop in list(self.loops):
            loop.die()


@dataclass(order=True)
class Event:
    """Something that happens at an instant."""

    at: float
    number: int
    happen: Callable[[], object] = field(compare=False)


class World:
    """Clock, events and actors of one schedule."""

    current: World

    def __init__(self, seed: int, *, pool: ThreadPool) -> None:
        World.current = self
        self.seed = seed
        self.random = random.Random(seed)
        random.seed(seed)
        self.pool = pool
        #: Seconds on the monotonic clock.
        self.now = 1000.0
        #: Seconds for which the machine slept: clocks of uptime and wall count them, the monotonic clock does not.
        self.slept = 0.0
        self.steps = 0
        self.numbers = itertools.count()
        self.events: list[Event] = []
        self.actors: list[Actor] = []
        self.loops: list[SimulatedLoop] = []
        self.story: list[tuple[float, str, str]] = []
        #: Trouble that something met, with the place where.
        self.troubles: Counter[str] = Counter()
        #: What went wrong, in words.
        self.failures: list[str] = []
        #: How often a statement gives the turn away.
        self.switching = 0.1
        self.me = Actor(self, "director", 0)
        self.actors.append(self.me)
        self._unfinished = [self.me]
        self._has_finished = False

    # Clocks

    def monotonic(self) -> float:
        """``time.monotonic``."""
        return self.now

    def uptime(self) -> float:
        """A clock that goes on while the machine sleeps."""
        return self.now + self.slept

    def wall(self) -> datetime:
        """The database's clock."""
        return BEGIN + timedelta(seconds=self.now - 1000.0 + self.slept)

    def local(self) -> datetime:
        """The clock of the machine of the process that runs."""
        return self.wall() + timedelta(seconds=self.me.process.clock_off)

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append((self.now + self.slept - 1000.0, self.me.name, text))

    def meet(self, trouble: str, where: str) -> None:
        """Count trouble that something met."""
        self.troubles[f"{trouble} at {where}"] += 1

    def fail(self, text: str) -> None:
        """Note what is wrong; the schedule goes on."""
        self.failures.append(text)
        self.tell(f"!!! {text}")

    def uuid4(self) -> uuid.UUID:
        """A random UUID of this seed."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    # Events

    def at(self, when: float, happen: Callable[[], object]) -> None:
        """Let something happen at an instant of the monotonic clock."""
        heapq.heappush(self.events, Event(max(when, self.now), next(self.numbers), happen))

    def after(self, seconds: float, happen: Callable[[], object]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now + seconds, happen)

    # Actors

    @property
    def processes(self) -> list[Actor]:
        """All processes but the director's, ended ones too."""
        return [actor for actor in self.actors[1:] if actor.process is actor]

    def spawn(self, name: str, work: Callable[[], object], *, process: Actor | None = None) -> Actor:
        """Begin a process, or a further thread of ``process``; it runs when it is chosen."""
        actor = Actor(self, name, process.number if process else len(self.actors), process)
        actor.until = self.now
        self.actors.append(actor)
        self._unfinished.append(actor)

        def run() -> None:
            actor.baton.acquire()
            try:
                if not actor.is_gone:
                    work()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001  (the schedule judges it)
                actor.error = error
            finally:
                self.pool.end_of_process()
                actor.finished = self._has_finished = True
                for loop in list(actor.loops):
                    loop.die()
                self._run_others(actor)

        self.pool.start(run)
        return actor

    def sleep(self, seconds: float) -> None:
        """``time.sleep``, and the pause of a person."""
        self.block(None, seconds)

    def block(self, ready: Callable[[], bool] | None, seconds: float) -> None:
        """Let others run until ``ready`` or until so many seconds have passed.

        Raises:
            Killed: this process was killed meanwhile.
            SystemExit: it got a signal.
        """
        actor = self.me
        actor.heed_signals()
        actor.ready, actor.until = ready, self.now + max(0.0, seconds)
        self._run_others(actor)
        actor.ready = None
        actor.heed_signals()

    def checkpoint(self) -> None:
        """The actor reaches a statement: it may be killed here, or others may run first."""
        actor = self.me
        if actor.dies_in is not None:
            actor.dies_in -= 1
            if actor.dies_in < 0:
                actor.kill()
        actor.heed_signals()
        if actor.is_frozen or self.random.random() < self.switching:
            self.block(None, 0.0)

    def _run_others(self, actor: Actor) -> None:
        """Run the world until ``actor`` is chosen (never, once it has finished)."""
        while True:
            chosen = self._choose()
            if isinstance(chosen, Actor):
                if chosen is actor:
                    self.me = actor
                    return
                self.me = chosen
                chosen.baton.release()
                if not actor.finished:
                    actor.baton.acquire()
                return
            chosen()

    def _choose(self) -> Actor | Callable[[], object]:
        while True:
            self.steps += 1
            choices: list[Any] = [actor for actor in self._living() if actor.is_runnable()]
            for loop in self.loops:
                if loop.has_work():
                    choices.append(loop.turn)  # noqa: PERF401  (mostly there is none)
            if self.events and self.events[0].at <= self.now:
                choices.append(self._next_event)
            if self.steps > MOST_STEPS:
                return self._give_up("it does not end: something runs in circles")
            if len(choices) == 1:
                return choices[0]  # type: ignore[no-any-return]
            if choices:
                return self.random.choice(choices)  # type: ignore[no-any-return]
            if not self._pass_time():
                return self._give_up("everybody waits for ever")

    def _living(self) -> list[Actor]:
        """Actors that have not finished; those that have do not come back."""
        if self._has_finished:
            self._has_finished = False
            self._unfinished = [actor for actor in self._unfinished if not actor.finished]
        return self._unfinished

    def _next_event(self) -> None:
        heapq.heappop(self.events).happen()

    def _pass_time(self) -> bool:
        moments = [actor.process.frozen_until if actor.is_frozen else actor.until for actor in self._living()]
        moments += [moment for moment in (loop.next_timer() for loop in self.loops) if moment is not None]
        if self.events:
            moments.append(self.events[0].at)
        earliest = min(moments, default=float("inf"))
        if earliest == float("inf"):
            return False
        self.now = max(self.now, earliest)
        return True

    def _give_up(self, reason: str) -> Actor:
        """End every process, and let the director say why."""
        if self.steps < 2 * MOST_STEPS:
            self.fail(reason)
            self.steps = 2 * MOST_STEPS
        living = [actor for actor in self.actors if not actor.finished]
        for actor in living:
            if actor.number:
                actor.kill()
        self.actors[0].killed = True  # its next call raises
        return living[-1]


class ThreadPool:
    """Threads that carry actors, one schedule after the other; each keeps its database connection."""

    def __init__(self, end_of_process: Callable[[], object]) -> None:
        self.end_of_process = end_of_process
        self._idle: queue.SimpleQueue[queue.SimpleQueue[Callable[[], object]]] = queue.SimpleQueue()
        self._running = threading.Semaphore(0)

    def start(self, run: Callable[[], object]) -> None:
        """Run a function on a thread of the pool."""
        try:
            jobs = self._idle.get_nowait()
        except queue.Empty:
            jobs = queue.SimpleQueue()
            threading.Thread(target=self._carry, args=(jobs,), daemon=True).start()
        jobs.put(run)

    def _carry(self, jobs: queue.SimpleQueue[Callable[[], object]]) -> None:
        while True:
            jobs.get()()
            self._idle.put(jobs)
