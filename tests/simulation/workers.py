"""Simulated worker processes: ``flush_outbox --loop``, and drains that a scheduler starts."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connection

from prx_email_django import api
from prx_email_django.management._loop import Stop
from prx_email_django.management.commands import flush_outbox
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

#: The stop of a loop by the name of its process: ``flush_outbox`` makes its own.
_STOPS: dict[str, Stop] = {}
_made = flush_outbox.Stop


def let_loops_be_stopped() -> None:
    """Let a simulated loop get the stop that its schedule knows."""
    flush_outbox.Stop = lambda **_options: _STOPS.get(World.current.me.name) or _made()  # type: ignore[assignment,misc]


class Workers:
    """The workers of one schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.world = schedule.world
        self.random = schedule.random
        self.stops: list[Stop] = []
        self.are_stopped = False

    def stop(self) -> None:
        """Tell every worker to finish."""
        self.are_stopped = True
        for stop in self.stops:
            stop.request()

    def start(self, name: str, *, delay: float) -> None:
        """Start a worker, which may be killed, and started again."""
        run = self._loop if self.random.random() < 0.6 else self._drains
        actor = self.world.spawn(name, lambda: self._until_signalled(lambda: run(delay)))
        if "signals" in self.schedule.kinds and self.random.random() < 0.7:
            self.schedule.sometime(actor.interrupt)
        if "kills" not in self.schedule.kinds or self.random.random() < 0.2:
            return
        if self.random.random() < 0.5:
            actor.dies_in = self.random.randrange(5, 150)
        else:
            self.schedule.sometime(actor.kill)
        if self.random.random() < 0.7:
            again = self.random.uniform(1, self.schedule.length)
            self.world.after(again, lambda: self.schedule.is_calm or self.start(f"{name}'", delay=0.0))

    def _until_signalled(self, work: Callable[[], object]) -> None:
        try:
            work()
        except SystemExit:
            self.world.tell("ends by the signal")

    def _loop(self, delay: float) -> None:
        self.world.sleep(delay)
        stop = _STOPS[self.world.me.name] = _made()
        self.stops.append(stop)
        options = {"account": None, "limit": None, "time_budget": None, "loop": True, "heartbeat": None}
        command = flush_outbox.Command(stdout=StringIO(), stderr=StringIO())
        try:
            command.handle(**options, dry_run=False, json=True, no_progress=True)
        except CommandError as error:
            self.world.fail(f"{self.world.me.name}: the loop ended by itself: {error}")

    def _drains(self, delay: float) -> None:
        """Drain once in a while, as django-q2 does."""
        self.world.sleep(delay)
        stop = _made()
        self.stops.append(stop)
        budget = self.random.choice([None, 2.0, 20.0])
        while not stop():
            self._drain(time_budget=budget, wait=budget is not None and self.random.random() < 0.3, stop=stop)
            stop.wait(self.random.choice([1.0, 5.0, 15.0]))

    def _drain(self, **options: Any) -> None:
        try:
            api.drain(**options)
        except DatabaseError as error:
            self.schedule.may_break(error)
            connection.close()
