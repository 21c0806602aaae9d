"""One schedule: what a seed makes happen, from the first message until nothing waits any more."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from io import StringIO
from random import Random
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.models import F

from prx_email_django import api
from prx_email_django.errors import RetryRejected
from prx_email_django.limits.slots import SLOT_LEASE
from prx_email_django.management._loop import Stop
from prx_email_django.management.commands import flush_outbox
from prx_email_django.models import (
    Account,
    AccountState,
    ConnectionSlot,
    DeliveryAttempt,
    OutboxMessage,
    OutboxState,
    RateWindow,
    Recipient,
)
from prx_email_django.results import DrainReport, SendResult
from tests.simulation import event_loop
from tests.simulation.database.faults import SimulatedDatabase
from tests.simulation.server import FAULTS, SimulatedServer
from tests.simulation.world import Killed, ThreadPool, World

#: What may happen beside the work itself; ``--faults`` names some of them.
KINDS = ("network", "conflicts", "delays", "kills", "people", "sleep", "by_hand", "read_only", "absence")
#: Drains after which a quiet world must have nothing that waits.
MOST_DRAINS = 250
_TABLES = (DeliveryAttempt, Recipient, OutboxMessage, AccountState, ConnectionSlot, RateWindow, Account)


@dataclass
class Known:
    """What the schedule itself did to messages, by primary key."""

    cancelled: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)
    #: Instants (on the clock of uptime) at which a person wrote ``pending`` over a message that was being sent.
    by_hand: dict[int, list[float]] = field(default_factory=dict)
    with_expiry: set[int] = field(default_factory=set)
    #: What ``send`` and ``retry_outbox`` returned.
    results: list[SendResult] = field(default_factory=list)
    #: Reports of drains that returned, and how many drains did not.
    reports: list[DrainReport] = field(default_factory=list)
    broken_drains: int = 0
    singles: int = 0
    late: set[int] = field(default_factory=set)
    progress: int = 0
    used: set[str] = field(default_factory=set)


class Schedule:
    """The director of one world."""

    def __init__(self, seed: int, *, kinds: Collection[str], pool: ThreadPool) -> None:
        self.world = World(seed, pool=pool)
        self.random: Random = self.world.random
        self.known = Known()
        self.stops: list[Stop] = []
        self.database = SimulatedDatabase(self.world)
        # Most schedules have few kinds of trouble: two that meet are found sooner than eight that drown each other.
        self.kinds = {kind for kind in kinds if self.random.random() < 0.5}
        self.length = self.random.choice([5.0, 12.0, 25.0])
        self.accounts: list[Account] = []
        self.servers: dict[str, SimulatedServer] = {}

    # Running

    def run(self) -> None:
        """Play the schedule to its end; what is wrong stands in ``world.failures``."""
        SimulatedDatabase.current = None
        _empty()
        connection.close()
        SimulatedDatabase.current = self.database
        event_loop.BURIED.clear()
        try:
            self._prepare()
            self._trouble()
            self._calm()
            self._drain_until_quiet()
        except Killed:
            pass  # the world gave up, and said why
        finally:
            self.database.calm()
            SimulatedDatabase.current = None
            for loop in event_loop.BURIED:
                if not loop.is_closed():
                    loop.dead = True
                    loop.bury()

    def _prepare(self) -> None:
        rates = self._rates()
        for name in ("first", "second")[: self.random.choice([1, 1, 2])]:
            auth = self.random.random() < 0.3
            host = f"127.0.0.{len(self.servers) + 1}"
            server = SimulatedServer(
                self.world,
                rates=rates,
                pipelining=self.random.random() < 0.7,
                auth=auth,
                latency=self.random.choice([0.001, 0.02, 0.15]),
            )
            server.most_recipients = self.random.choice([100, 100, 2])
            self.servers[host] = server
            self.accounts.append(
                Account.objects.create(
                    name=name,
                    email=f"{name}@example.com",
                    host=host,
                    port=25,
                    security="none",
                    auth_method="password" if auth else "none",
                    user="app" if auth else "",
                    password="secret" if auth else "",
                    max_connections=self.random.choice([1, 2, 3]),
                    max_messages_per_connection=self.random.choice([2, 100]),
                    pipelining=self.random.choice(["auto", "full", "envelope", "off"]),
                    rate_limits=self.random.choice(["", "", "", "4/minute", "6 recipients/minute"]),
                )
            )
        self.world.switching = self.random.choice([0.0, 0.02, 0.2])
        self.world.tell(f"kinds of trouble: {', '.join(sorted(self.kinds)) or 'none'}, for {self.length:g} s")
        for account in self.accounts:
            fields = ("name", "max_connections", "max_messages_per_connection", "pipelining", "rate_limits")
            self.world.tell("account " + ", ".join(f"{name} {getattr(account, name)}" for name in fields))

    def _rates(self) -> dict[str, float]:
        if "network" not in self.kinds:
            return {}
        if self.random.random() < 0.5:  # one stage that fails often
            return {self.random.choice(list(FAULTS)): self.random.choice([0.3, 0.7])}
        return dict.fromkeys(FAULTS, self.random.choice([0.02, 0.08]))

    # The time of trouble

    def _trouble(self) -> None:
        for number in range(self.random.choice([1, 1, 2, 3])):
            self._start_worker(f"worker{number + 1}", delay=self.random.uniform(0, 4))
        self.world.spawn("web", self._web)
        if "people" in self.kinds or "by_hand" in self.kinds:
            self.world.spawn("person", self._person)
        if "conflicts" in self.kinds:
            self.database.conflicts = self.random.choice([0.02, 0.15])
        if "delays" in self.kinds:
            self.database.delays = self.random.choice([0.01, 0.05])
        if "sleep" in self.kinds:
            self.world.after(self.random.uniform(0, self.length), self._machine_sleeps)
        if "absence" in self.kinds:
            self._plan_absence()
        if "read_only" in self.kinds:
            self._span(lambda: self.database.set_read_only(True), lambda: self.database.set_read_only(False))
        self.world.sleep(self.length)

    def _span(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        at = self.random.uniform(0, self.length)
        self.world.after(at, begin)
        self.world.after(at + self.random.choice([0.2, 2.0, 8.0, 40.0]), end)

    def _plan_absence(self) -> None:
        if self.random.random() < 0.5:
            self._span(self.database.go_away, self.database.come_back)
        else:
            self.database.lost_answers = self.random.choice([0.01, 0.05])

    def _machine_sleeps(self) -> None:
        seconds = self.random.choice([5.0, 25.0, 90.0])
        self.world.story.append((self.world.uptime() - 1000.0, "machine", f"sleeps for {seconds:g} s"))
        self.world.slept += seconds

    # Workers

    def _start_worker(self, name: str, *, delay: float) -> None:
        loops = self.random.random() < 0.6
        actor = self.world.spawn(name, lambda: (self._loop if loops else self._drains)(delay))
        if "kills" in self.kinds and self.random.random() < 0.8:
            if self.random.random() < 0.5:
                actor.dies_in = self.random.randrange(10, 250)
            else:
                self.world.after(self.random.uniform(0, self.length), actor.kill)
            if self.random.random() < 0.7:
                again = self.random.uniform(1, self.length)
                self.world.after(again, lambda: self._start_worker(f"{name}'", delay=0.0))

    def _loop(self, delay: float) -> None:
        """``manage.py flush_outbox --loop``, until it is told to stop."""
        self.world.sleep(delay)
        stopped = _SIGNALS[self.world.me.name] = Stop()
        self.stops.append(stopped)
        options = {"account": None, "limit": None, "time_budget": None, "loop": True, "heartbeat": None}
        command = flush_outbox.Command(stdout=StringIO(), stderr=StringIO())
        try:
            command.handle(**options, dry_run=False, json=True, no_progress=True)
        except CommandError as error:
            self.world.fail(f"{self.world.me.name}: the loop ended by itself: {error}")

    def _drains(self, delay: float) -> None:
        """A scheduler that drains once in a while, as django-q2 does."""
        self.world.sleep(delay)
        stop = Stop()
        self.stops.append(stop)
        budget = self.random.choice([None, 2.0, 20.0])
        while not stop():
            self._drain(time_budget=budget, wait=budget is not None and self.random.random() < 0.3, stop=stop)
            stop.wait(self.random.choice([1.0, 5.0]))

    def _drain(self, **options: Any) -> None:
        try:
            api.drain(**options)
        except DatabaseError as error:
            self._may_break(error)
            connection.close()

    def _may_break(self, error: Exception) -> None:
        """Without trouble of the database no call may raise."""
        self.world.tell(f"ends with {type(error).__name__}: {error}")
        if not self.kinds & {"conflicts", "absence", "read_only"}:
            self.world.fail(f"{self.world.me.name} ends with {type(error).__name__}: {error}")

    # Others

    def _web(self) -> None:
        """A web process: it queues mail, and now and then sends at once."""
        for number in range(self.random.choice([1, 2, 4, 8, 12])):
            self.world.sleep(self.random.choice([0.0, 0.0, 0.3, 3.0]))
            if self.world.now - 1000.0 > self.length:
                return
            try:
                self._queue(number)
            except DatabaseError as error:
                self._may_break(error)
                connection.close()

    def _queue(self, number: int) -> None:
        world = self.world
        account = self.random.choice(self.accounts)
        kinds = [f"m{number}r{index}@x.org" for index in range(self.random.choice([1, 1, 1, 2, 3]))]
        if self.random.random() < 0.1:
            kinds.append(f"bad{number}@x.org")
        arguments: dict[str, Any] = {
            "account": account,
            "to": kinds,
            "subject": f"message {number}",
            "body_text": "Hi.\n" + "x" * self.random.choice([0, 0, 100_000]),
            "envelope_from": f"from{number}@example.com",
            "on_unknown": self.random.choice([None, None, None, "hold"]),
            "priority": self.random.choice([0, 0, 5]),
        }
        if "people" in self.kinds and self.random.random() < 0.1:
            arguments["expires_at"] = world.wall() + timedelta(seconds=self.random.choice([0.5, 10]))
        if self.random.random() < 0.15:
            self.known.singles += 1
            result = api.send(**arguments)
            self.known.results.append(result)
            world.tell(f"send gives {result.status} {result.error_code} {result.error} for message {result.outbox_id}")
            if "expires_at" in arguments:
                self.known.with_expiry.add(result.outbox_id)
            return
        row = api.enqueue(**arguments)
        if "expires_at" in arguments:
            self.known.with_expiry.add(row.pk)

    def _person(self) -> None:
        acts: list[Callable[[], object]] = []
        if "people" in self.kinds:
            acts += [self._cancel, self._requeue, self._retry, self._pause, self._resume, self._confirm]
        if "by_hand" in self.kinds:
            acts += [self._write_pending] * 2
        for _ in range(self.random.choice([1, 3, 6])):
            self.world.sleep(self.random.choice([0.1, 1.0, 5.0]))
            try:
                self.random.choice(acts)()
            except DatabaseError as error:
                self._may_break(error)
                connection.close()

    def _pick(self) -> int | None:
        ids = list(OutboxMessage.objects.exclude(status="sent").order_by("pk").values_list("pk", flat=True))
        return self.random.choice(ids) if ids else None

    def _cancel(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.known.cancelled.add(pk)
            self.world.tell(f"cancels message {pk}: {api.cancel_outbox(pk)}")

    def _requeue(self) -> None:
        pk = self._pick()
        if pk is not None:
            self.world.tell(f"requeues message {pk}: {api.requeue_outbox(pk, force=self.random.random() < 0.5)}")

    def _confirm(self) -> None:
        doubtful = OutboxMessage.objects.filter(status="failed", attempts__gt=F("retries")).order_by("pk").first()
        if doubtful is not None:
            self.known.confirmed.add(doubtful.pk)
            self.world.tell(f"confirms message {doubtful.pk}: {api.confirm_outbox(doubtful.pk)}")

    def _retry(self) -> None:
        pk = self._pick()
        if pk is None:
            return
        self.known.singles += 1
        try:
            result = api.retry_outbox(pk, force=self.random.random() < 0.7)
        except RetryRejected as error:
            self.world.tell(f"retries message {pk}: {error}")
        else:
            self.known.results.append(result)
            self.world.tell(f"retries message {pk}: {result.status} {result.error_code} {result.error}")

    def _pause(self) -> None:
        account = self.random.choice([None, *self.accounts])
        self.world.tell(f"pauses {account or 'everything'}")
        api.pause_outbox(account, reason="a person asked")

    def _resume(self) -> None:
        for account in (None, *self.accounts):
            api.resume_outbox(account)
        self.world.tell("resumes everything")

    def _write_pending(self) -> None:
        """Write the row by hand, as people do in a shell: while it is being sent too."""
        pk = self._pick()
        if pk is None:
            return
        changed = OutboxMessage.objects.filter(pk=pk).exclude(status="sent")
        self.known.by_hand.setdefault(pk, []).append(self.world.uptime())
        count = changed.update(status="pending", next_attempt_at=self.world.wall(), claim_expires_at=None)
        self.world.tell(f"writes pending over message {pk} by hand ({count} row)")

    # The end

    def _calm(self) -> None:
        """End all trouble, and tell every worker to finish."""
        self.world.tell("all trouble ends")
        self.database.calm()
        for server in self.servers.values():
            server.calm()
        for stop in self.stops:
            stop.request()
        others = [actor for actor in self.world.actors[1:] if not actor.finished]

        def all_ended() -> bool:
            for stop in self.stops:
                stop.request()
            return all(actor.finished for actor in others + self.world.actors[1:])

        self.world.block(all_ended, 3600.0)
        for actor in self.world.actors[1:]:
            if not actor.finished:
                self.world.fail(f"{actor.name} does not end although it was told to an hour ago")
            elif actor.error is not None:
                self.world.fail(f"{actor.name} ended with {type(actor.error).__name__}: {actor.error}")
                with contextlib.suppress(Exception):
                    logging.getLogger("simulation").error("%s", actor.name, exc_info=actor.error)
        connection.close()  # the director's own connection may be broken
        self._resume()

    def _drain_until_quiet(self) -> None:
        """Drain whenever something becomes due, as a scheduler does, until nothing waits."""
        world = self.world
        world.switching = 0.0
        for _ in range(MOST_DRAINS):
            api.drain()
            moments = self._moments()
            if not moments:
                return
            world.sleep(max(0.05, min(moments) - (world.uptime() - 1000.0)))
        world.fail(f"messages wait after {MOST_DRAINS} drains without trouble: {self._waiting()}")

    def _waiting(self) -> list[Any]:
        waiting = OutboxMessage.objects.exclude(status="sent").exclude(status="failed", next_attempt_at=None)
        return list(waiting.order_by("pk").values_list("pk", "status", "next_attempt_at", "claim_expires_at"))

    def _moments(self) -> list[float]:
        """When something may go on, in seconds since the beginning."""
        waiting = self._waiting()
        if not waiting:
            return []
        now, begin = self.world.wall(), self.world.wall() - timedelta(seconds=self.world.uptime() - 1000.0)
        moments = [moment for _, _, due, lease in waiting for moment in (lease or due,) if moment is not None]
        later = [moment for moment in moments if moment > now]
        # What is due did not go: a pause, a slot, a rate.
        later += AccountState.objects.filter(paused_until__gt=now).values_list("paused_until", flat=True)
        if len(later) < len(moments) or not later:
            later.append(now + timedelta(seconds=3))
        return [(moment - begin).total_seconds() for moment in later]


#: Stop signals by the name of the process: ``flush_outbox`` makes its own.
_SIGNALS: dict[str, Stop] = {}


def _empty() -> None:
    with connection.cursor() as cursor:
        for model in _TABLES:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        cursor.execute("DELETE FROM sqlite_sequence")
        cursor.execute("DELETE FROM simulated_changes")
    OutboxState.objects.all().delete()


def watch(known: Callable[[], Known], story: Callable[[str], None], fail: Callable[[str], None]) -> None:
    """Let the loop be stopped, keep each drain's report, and put log lines into the story."""
    from prx_email_django.worker import drain, recorder

    made = flush_outbox.Stop
    flush_outbox.Stop = lambda **_options: _SIGNALS.get(World.current.me.name) or made()  # type: ignore[assignment,misc]
    run, count = drain.Drain.run, recorder.Recorder._count

    def reporting(self: Any) -> DrainReport:
        try:
            report = run(self)
        except BaseException:
            known().broken_drains += 1
            raise
        known().reports.append(report)
        return report

    def counting(self: Any, attempt: Any) -> None:
        if attempt.late:
            known().late.add(attempt.message.pk)
        elif attempt.progress:
            known().progress += 1
        count(self, attempt)

    drain.Drain.run = reporting  # type: ignore[method-assign]
    recorder.Recorder._count = counting  # type: ignore[method-assign]

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            story(f"log {record.levelname}: {record.getMessage()}")
            if record.exc_info and record.exc_info[0] is not None:
                error = record.exc_info[1]
                story(f"    because of {type(error).__name__}: {error}")
                if not isinstance(error, DatabaseError):
                    fail(f"an unexpected error was logged: {record.getMessage()}: {type(error).__name__}: {error}")

    logger = logging.getLogger("prx_email_django")
    logger.handlers[:] = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


#: How long a slot of a killed worker blocks others.
LONGEST_SLOT = SLOT_LEASE.total_seconds()
