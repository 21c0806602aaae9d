"""Puts the app on the simulated world: its clocks, its sleep, its random numbers, its network.

Installed once in a process that does nothing else.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

import prx_email_django
from prx_email_django.store.outbox import wake_requested
from tests.simulation import begun, event_loop
from tests.simulation.database.faults import SimulatedDatabase
from tests.simulation.world import Actor, World

_SKIPPED = tuple(f"prx_email_django.{name}" for name in ("admin", "contrib", "testing", "migrations"))


class _Time:
    """The module ``time``, as far as the app uses it."""

    @staticmethod
    def monotonic() -> float:
        return World.current.monotonic()

    @staticmethod
    def time() -> float:
        return World.current.local().timestamp()

    @staticmethod
    def clock_gettime(_clock: int) -> float:
        return World.current.uptime()

    @staticmethod
    def sleep(seconds: float) -> None:
        World.current.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class _Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class _Datetime(datetime, metaclass=_Meta):
    """``datetime`` whose ``now`` is the clock of the machine of the process that runs."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return World.current.local().astimezone(tz)


class _Event:
    """``threading.Event`` on the world's clock."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        World.current.block(self.is_set, float("inf") if timeout is None else timeout)
        return self._is_set


class _Condition:
    """``threading.Condition``: nothing else runs while its owner does not wait."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        World.current.block(predicate, float("inf") if timeout is None else timeout)
        return predicate()

    def notify_all(self) -> None:
        pass


class _Thread:
    """``threading.Thread``: a further thread of the simulated process, which ends with it."""

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...] = (), **_options: Any) -> None:
        self._work = functools.partial(target, *args)
        self._actor: Actor | None = None

    def start(self) -> None:
        process = World.current.me.process
        self._actor = World.current.spawn(process.name, self._work, process=process)

    def is_alive(self) -> bool:
        return self._actor is not None and not self._actor.finished

    def join(self, timeout: float | None = None) -> None:
        World.current.block(lambda: not self.is_alive(), float("inf") if timeout is None else timeout)


class _Threading:
    """The module ``threading``, as far as the app uses it."""

    Condition = _Condition
    Event = _Event
    Thread = _Thread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _OfProcess:
    """A variable of a module that each simulated process has for itself."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def _own(self) -> Any:
        variables = World.current.me.process.variables
        if id(self) not in variables:
            variables[id(self)] = self._make()
        return variables[id(self)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._own()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._own()[key] = value

    def __contains__(self, value: object) -> bool:
        return value in self._own()

    def __iter__(self) -> Any:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())


#: Variables of modules that hold what one process knows: module, name, and what makes a new one.
_VARIABLES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("prx_email_django.store.absence", "unwritten", lambda value: type(value)()),
    ("prx_email_django.limits.slots", "_abandoned", lambda value: set()),
    ("prx_email_django.worker.heartbeat", "_last", lambda value: {}),
    ("prx_email_django.worker.claim_source", "empty_handed", lambda value: type(value)()),
)


def _monotonic() -> float:
    return World.current.monotonic()


def _uptime() -> float:
    return World.current.uptime()


def _database_now() -> datetime:
    return World.current.wall()


def _lease_until(clock: Any, length: timedelta) -> datetime:
    return max(clock.running, World.current.wall()) + length  # type: ignore[no-any-return]


def _worker_name() -> str:
    actor = World.current.me
    return f"{actor.name}:{actor.number}"


def _wait(self: Any, timeout: float) -> None:
    """``ResultQueue.wait``."""
    wake_ups = self._wake_ups
    World.current.block(lambda: not wake_ups.empty(), timeout)
    while not wake_ups.empty():
        wake_ups.get_nowait()


def _wait_for_wake_up(stop: Any, seconds: float, *, every: float, tick: Callable[[], None]) -> None:
    """``_loop.wait_for_wake_up``, which looks only when there may be something to see.

    A loop that polls less often is right too, and the schedule gets further: idle polls were two thirds of all
    statements.
    """
    world, database = World.current, SimulatedDatabase.current
    until = world.now + seconds * world.random.choice([1, 5, 20])
    while not stop() and not wake_requested() and (left := until - world.now) > 0:
        tick()
        seen = database.wake_row
        world.block(lambda seen=seen: stop.is_requested or database.wake_row != seen, left)


def install(server_of: Any, post: Any) -> None:
    """Replace what the modules of the app have bound, wherever they have bound it."""
    _import_all(prx_email_django)
    from prx_email_django.management.commands import flush_outbox
    from prx_email_django.oauth import token_server
    from prx_email_django.oauth.fetch import TokenFetch
    from prx_email_django.rules import clock
    from prx_email_django.store import db
    from prx_email_django.transports.smtp import connection
    from prx_email_django.worker import network, queues

    replaced = {
        id(time.monotonic): _monotonic,
        id(time.sleep): _Time.sleep,
        id(clock.uptime): _uptime,
        id(db.worker_name): _worker_name,
        id(db.database_now): _database_now,
        id(db.lease_until): _lease_until,
        id(time): _Time(),
        id(datetime): _Datetime,
        id(threading): _Threading(),
        id(token_server.post): post,
        id(network.Network): event_loop.SimulatedNetwork,
    }
    for name, attribute, make in _VARIABLES:
        value = vars(sys.modules.get(name, object)).get(attribute)
        if value is not None:
            replaced[id(value)] = _OfProcess(functools.partial(make, value))
    for name, module in list(sys.modules.items()):
        if name.startswith("prx_email_django"):
            for attribute, value in list(vars(module).items()):
                if id(value) in replaced:
                    setattr(module, attribute, replaced[id(value)])
    timezone.datetime = _Datetime  # type: ignore[misc]
    uuid.uuid4 = lambda: World.current.uuid4()
    queues.ResultQueue.wait = _wait  # type: ignore[method-assign]
    flush_outbox.wait_for_wake_up = _wait_for_wake_up
    connection.connect = event_loop.connector(server_of)
    begun.install()
    TokenFetch.result = _result_of(TokenFetch.result)  # type: ignore[method-assign]
    _number_objects()


def _result_of(result: Callable[..., Any]) -> Callable[..., Any]:
    """``TokenFetch.result``, which waits on the world's clock."""

    def waited(self: Any, *, wait: float = 0.0) -> Any:
        World.current.block(lambda: bool(self.is_answered), wait)
        return result(self)

    return waited


def _import_all(package: Any) -> None:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not found.name.startswith(_SKIPPED):
            module = importlib.import_module(found.name)
            if found.ispkg:
                _import_all(module)


def _number_objects() -> None:
    """Let the places of objects in sets depend on the order of their making, not on memory."""
    from prx_email_django.limits.slots import Slot
    from prx_email_django.store.lease import Lease
    from prx_email_django.worker.account import AccountWorker
    from prx_email_django.worker.connection import Connection

    def number(self: Any) -> int:
        known: int | None = self.__dict__.get("_simulated_number")
        if known is None:
            known = self.__dict__["_simulated_number"] = next(World.current.numbers)
        return known

    for kind in (Slot, Lease, AccountWorker, Connection):
        kind.__hash__ = number  # type: ignore[method-assign]
