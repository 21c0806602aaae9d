"""One schedule: what a seed makes happen, from the first message until nothing waits any more."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from django.db import connection

from prx_email_django import api
from prx_email_django.limits.pauses import WITHOUT
from prx_email_django.models import (
    Account,
    AccountState,
    ConnectionSlot,
    DeliveryAttempt,
    HourlyCount,
    OutboxMessage,
    OutboxState,
    PauseRecord,
    RateWindow,
    Recipient,
    RefusedMessage,
    Worker,
)
from prx_email_django.transports.found import Ahead
from tests.simulation import audit, event_loop, host
from tests.simulation.clerk import Clerk, Purge
from tests.simulation.database.faults import SimulatedDatabase
from tests.simulation.known import Known
from tests.simulation.people import Hand, Person, Web
from tests.simulation.server import FAULTS, Copy, SimulatedServer
from tests.simulation.settings import DATABASE_FILE
from tests.simulation.tokens import LIFETIMES, LOSES_ANSWERS, TokenServer
from tests.simulation.workers import Workers
from tests.simulation.world import Killed, ThreadPool, World

#: What may happen beside the work itself; ``--faults`` names some of them.
KINDS = (
    "network",
    "conflicts",
    "delays",
    "kills",
    "signals",
    "freezes",
    "people",
    "sleep",
    "by_hand",
    "read_only",
    "absence",
    "clocks",
    "refusing",
    "operators",
    "clerks",
    "patience",
    "quotas",
    "redirect",
    "tokens",
    "ahead",
)
#: Seconds for which the database may be away, or read-only.
SPANS = (0.2, 2.0, 8.0, 40.0)
#: Most accounts have none: a limit is met by many messages only.
RATE_LIMITS = (*[""] * 30, "4/minute", "6 recipients/minute", "3/second", "2/second, 5/minute")
#: Drains after which a quiet world must have nothing that waits.
MOST_DRAINS = 250
#: Limits of providers; ``quotas`` gives each account one.
QUOTAS = ("3/hour", "5 recipients/hour", "2/hour, 4/day", "8 recipients/day")
#: The longest wait for a drain that may send what a limit held back, in seconds.
LONGEST_PATIENCE, PATIENCE_WITH_QUOTAS = 30.0, 3600.0
_WAITING = """FROM prx_email_django_outboxmessage
 WHERE status = 'sending' OR (status <> 'sent' AND next_attempt_at IS NOT NULL)"""
_PAUSED = ("outboxstate", "accountstate")
_TABLES = (
    RefusedMessage,
    DeliveryAttempt,
    Recipient,
    OutboxMessage,
    AccountState,
    ConnectionSlot,
    RateWindow,
    PauseRecord,
    HourlyCount,
    Worker,
    Account,
)


class Schedule:
    """The director of one world."""

    def __init__(self, seed: int, *, kinds: Collection[str], pool: ThreadPool) -> None:
        self.world = World(seed, pool=pool)
        self.random: Random = self.world.random
        self.known = Known()
        self.database = SimulatedDatabase(self.world)
        self.tokens = TokenServer(self.world)
        # Most schedules have few kinds of trouble: two that meet are found sooner than eight that drown each other.
        share = 0.3 if len(kinds) > 3 else 0.8
        self.kinds = {kind for kind in kinds if self.random.random() < share}
        self.length = self.random.choice([4.0, 10.0, 30.0])
        self.accounts: list[Account] = []
        self.servers: dict[str, SimulatedServer] = {}
        #: What happens about the time at which the nth message is accepted.
        self._at_copies: list[tuple[int, Callable[[], object]]] = []
        self._copies = 0
        self._last_client = ""
        self.is_calm = False
        #: The web process has queued its last message.
        self.is_queued = False
        #: Seconds until the next look at what is due and could not go.
        self._patience = 3.0
        self.workers = Workers(self)

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
        self._configure()
        rates = self._rates()
        if "tokens" in self.kinds:
            self.tokens = self._token_server()
        # A message is moved from one account to another.
        count = 2 if "clerks" in self.kinds else self.random.choice([1, 1, 2])
        for name in ("first", "second")[:count]:
            auth = self.random.random() < 0.3
            host = f"127.0.0.{len(self.servers) + 1}"
            server = SimulatedServer(
                self.world,
                rates=rates,
                pipelining=self.random.random() < 0.7,
                auth=auth,
                latency=self.random.choice([0.001, 0.02, 0.15]),
                chunking=self.random.choice(["", "discards", "discards", "keeps", "reads"]),
            )
            server.on_copy = self._copy
            server.most_recipients = self.random.choice([2] if "clerks" in self.kinds else [100, 100, 2])
            server.varies = self.random.random() < 0.1
            if "network" in self.kinds:
                server.thinks = self.random.choice([0.0, 0.0, 0.0, 8.0])
            if "ahead" in self.kinds:
                server.bears_ahead, server.pipelining, server.chunking = False, True, ""
            self.servers[host] = server
            login = self._login(name, server, auth=auth)
            self.accounts.append(
                Account.objects.create(
                    name=name,
                    email=f"{name}@example.com",
                    host=host,
                    port=25,
                    security="none",
                    **login,
                    max_connections=self.random.choice([1, 2, 3]),
                    max_messages_per_connection=self.random.choice([2, 100]),
                    pipelining=self.random.choice(["auto", "chunked", "chunked", "full", "envelope", "off"]),
                    max_in_flight=self.random.choice([1, 4, 32]),
                    rate_limits=self.random.choice(QUOTAS if "quotas" in self.kinds else RATE_LIMITS),
                )
            )
            if server.chunking in ("discards", "keeps"):  # its server was probed before
                AccountState.objects.create(account=self.accounts[-1], window=self.random.choice([0, 4, 4, 32]))
        if self.random.random() < 0.9:  # one schedule in ten purges too
            OutboxState.objects.create(pk=1, last_purge_at=self.world.wall())
        self.world.switching = self.random.choice([0.0, 0.02, 0.2])
        self.world.tell(f"kinds of trouble: {', '.join(sorted(self.kinds)) or 'none'}, for {self.length:g} s")
        for account in self.accounts:
            fields = ("name", "max_connections", "max_messages_per_connection", "pipelining", "max_in_flight")
            fields += ("rate_limits",)
            self.world.tell("account " + ", ".join(f"{name} {getattr(account, name)}" for name in fields))

    def _token_server(self) -> TokenServer:
        return TokenServer(
            self.world,
            rate=self.random.choice([0.1, 0.5]) if "network" in self.kinds else 0.0,
            lifetime=self.random.choice(LIFETIMES),
            rotates=self.random.random() < 0.6,
            # Who loses the answer has lost the account: no worker can help it.
            is_strict=not self.kinds & LOSES_ANSWERS,
        )

    def _login(self, name: str, server: SimulatedServer, *, auth: bool) -> dict[str, str]:
        """Fields of the account: how it logs in."""
        if "tokens" not in self.kinds:
            return {"auth_method": "password", "user": "app", "password": "secret"} if auth else {"auth_method": "none"}
        server.auth, server.tokens = True, self.tokens
        return {
            "auth_method": "xoauth2",
            "user": "app",
            "oauth_provider": "custom",
            "oauth_client_id": name,
            "oauth_refresh_token": self.tokens.issue_refresh_token(name),
            "oauth_token_url": "https://127.0.0.1/token",
        }

    def _configure(self) -> None:
        """Set what the host project has set."""
        changes: dict[str, Any] = {}
        # As short as the leases, so that what was learned is learned again within a schedule.
        memory = timedelta(seconds=6) if "ahead" in self.kinds else timedelta(days=7)
        WITHOUT[Ahead.OVERLAP] = ("envelope_until", memory)
        if "patience" in self.kinds:
            changes["GIVE_UP_AFTER"] = self.random.choice([3, 10, 40])
        if "redirect" in self.kinds:
            changes["REDIRECT_TO"] = list(host.STAND_INS[: self.random.choice([1, 1, 2])])
            changes["REDIRECT_EXCEPT"] = self.random.choice([[], [host.PASSING]])
        host.configure(**changes)
        if changes:
            self.world.tell(f"PRX_EMAIL {changes}")

    def _rates(self) -> dict[str, float]:
        if "network" not in self.kinds:
            return {}
        if self.random.random() < 0.5:  # one stage that fails often
            return {self.random.choice([*FAULTS, "final", "final"]): self.random.choice([0.3, 0.7])}
        return dict.fromkeys(FAULTS, self.random.choice([0.05, 0.15]))

    # The time of trouble

    def _trouble(self) -> None:
        for number in range(self.random.choice([1, 1, 2, 3])):
            self.workers.start(f"worker{number + 1}", delay=self.random.choice([0.0, 1.0, 4.0]))
        self.world.spawn("web", Web(self).run)
        if self.kinds & {"people", "operators"}:
            self.world.spawn("person", Person(self).run)
        if "clerks" in self.kinds:
            self.world.spawn("clerk", Clerk(self).run)
            if self.random.random() < 0.3:
                self.world.spawn("purge", Purge(self).run)
        if "by_hand" in self.kinds:
            self.world.spawn("hand", Hand(self).run)
        self._trouble_of_the_database()
        self._trouble_of_machines()
        ends = self.world.now + self.length
        while self.world.now < ends and not self._is_all_over():
            self.world.sleep(1.0)

    def _trouble_of_machines(self) -> None:
        if "freezes" in self.kinds:
            for _ in range(self.random.choice([1, 2, 4])):
                self.sometime(self._freeze)
        if "sleep" in self.kinds:
            self.sometime(self._machine_sleeps)
        if "clocks" in self.kinds:
            for _ in range(self.random.choice([1, 3])):
                self.sometime(self._clock_is_set)
        if "tokens" in self.kinds and self.random.random() < 0.3:
            self.sometime(self.tokens.revoke)
        if "refusing" in self.kinds:
            server = self.random.choice(list(self.servers.values()))
            self._span(server.refuse_all, server.end_refusal)

    def _is_all_over(self) -> bool:
        """Whether nothing more is queued and nothing waits: from now on the workers would only sleep."""
        callers = [actor for actor in self.world.processes if actor.name == "person"]
        return self.is_queued and all(actor.finished for actor in callers) and not _look(f"SELECT 1 {_WAITING} LIMIT 1")

    def _trouble_of_the_database(self) -> None:
        if "conflicts" in self.kinds:
            self.database.conflicts = self.random.choice([0.05, 0.25])
        if "delays" in self.kinds:
            self.database.delays = self.random.choice([0.03, 0.1])
        if "absence" in self.kinds:
            self._plan_absence()
        if "read_only" in self.kinds:
            self._span(lambda: self.database.set_read_only(True), lambda: self.database.set_read_only(False))

    def _span(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        seconds = self.random.choice(SPANS)

        def span() -> None:
            begin()
            self.world.after(seconds, end)

        self.sometime(span)

    def sometime(self, happen: Callable[[], object]) -> None:
        """Let it happen at an instant by chance, or about the time at which a message is accepted."""

        def unless_calm() -> None:
            if not self.is_calm:
                happen()

        if self.random.random() < 0.4:
            self.world.after(self.random.uniform(0, self.length), unless_calm)
        else:
            self._at_copies.append((self.random.choice([1, 1, 2, 3, 5]), unless_calm))

    def _copy(self, copy: Copy) -> None:
        self._copies += 1
        self._last_client = copy.client
        for number, happen in self._at_copies:
            if number == self._copies:
                # Before its reply, between reply and result, or later.
                self.world.after(self.random.choice([0.0, 0.001, 0.01, 0.15, 0.2, 0.35]), happen)

    def _plan_absence(self) -> None:
        come_back = self.database.come_back
        how = self.random.choice(["at an instant", "at a statement", "lost answers"])
        if how == "at an instant":
            self._span(self.database.go_away, come_back)
        elif how == "at a statement":
            seconds = self.random.choice(SPANS)
            self.database.leave_at(self.random.randrange(10, 200), lambda: self.world.after(seconds, come_back))
        else:
            self.database.lost_answers = self.random.choice([0.03, 0.15])

    def _freeze(self) -> None:
        """Stop the process that has just had a message accepted, else one by chance."""
        living = [actor for actor in self.world.processes if not (actor.finished or actor.killed)]
        last = [actor for actor in living if actor.name == self._last_client]
        if living:
            (last or living)[0].freeze(self.random.choice([3.0, 13.0, 13.0, 30.0]))

    def _machine_sleeps(self) -> None:
        seconds = self.random.choice([5.0, 25.0, 90.0])
        self.world.story.append((self.world.uptime() - 1000.0, "machine", f"sleeps for {seconds:g} s"))
        self.world.meet("sleep", self.world.processes[-1].statement if self.world.processes else "the beginning")
        self.world.slept += seconds

    def _clock_is_set(self) -> None:
        """Set the clock of one machine by chance, or of the process that was served last, to another time."""
        living = [actor for actor in self.world.processes if not (actor.finished or actor.killed)]
        if living:
            actor = self.random.choice(living)
            actor.clock_off = self.random.choice([-300.0, -20.0, 20.0, 300.0])
            self.world.tell(f"the clock of {actor.name} is {actor.clock_off:g} s off")
            self.world.meet("clock", actor.statement)

    def may_break(self, error: Exception) -> None:
        """Without trouble of the database no call may raise."""
        self.world.tell(f"ends with {type(error).__name__}: {error}")
        # A process that stands still keeps its transaction open.
        waits = "freezes" in self.kinds and "locked" in str(error)
        if not (waits or self.kinds & {"conflicts", "absence", "read_only"}):
            self.world.fail(f"{self.world.me.name} ends with {type(error).__name__}: {error}")

    # The end

    def resume(self) -> None:
        """End every person's pause."""
        self.known.end_stops(self.world.uptime())
        for account in (None, *self.accounts):
            api.resume_outbox(account)
        self.world.tell("resumes everything")

    def _calm(self) -> None:
        """End all trouble, and tell every worker to finish."""
        self.world.tell("all trouble ends")
        self.is_calm = True
        self.database.calm()
        self.tokens.rate = 0.0
        for server in self.servers.values():
            server.calm()
        if self.kinds & {"absence", "read_only"}:
            self.world.sleep(8.0)  # what could not be written is written as long as a process lives
        self.workers.stop()
        others = [actor for actor in self.world.actors[1:] if not actor.finished]

        def all_ended() -> bool:
            self.workers.stop()
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
        if "operators" in self.kinds:
            self.known.end_stops(self.world.uptime())
            for account in Account.objects.filter(is_active=False):
                account.is_active = True
                account.save(update_fields=["is_active"])
            self.resume()
        if any(_look(f"SELECT 1 FROM prx_email_django_{table} WHERE pause_reason <> ''") for table in _PAUSED):
            self.resume()

    def _drain_until_quiet(self) -> None:
        """Drain whenever something becomes due, as a scheduler does, until nothing waits."""
        world = self.world
        world.switching = 0.0
        if not self._waiting() and self.random.random() < 0.9:  # a drain that finds nothing is one like the others
            return
        for _ in range(MOST_DRAINS):
            report = api.drain()
            factor, longest = (8.0, PATIENCE_WITH_QUOTAS) if "quotas" in self.kinds else (2.0, LONGEST_PATIENCE)
            self._patience = 3.0 if report.claimed > report.released else min(factor * self._patience, longest)
            moments = self._moments()
            if not moments:
                return
            world.sleep(max(0.05, min(moments) - (world.uptime() - 1000.0)))
        world.fail(f"messages wait after {MOST_DRAINS} drains without trouble: {self._waiting()}")

    def _waiting(self) -> list[Any]:
        return [
            (pk, status, _instant(due), _instant(lease))
            for pk, status, due, lease in _look(
                f"SELECT id, status, next_attempt_at, claim_expires_at {_WAITING} ORDER BY id"
            )
        ]

    def _moments(self) -> list[float]:
        """When something may go on, in seconds since the beginning."""
        waiting = self._waiting()
        if not waiting:
            return []
        now, begin = self.world.wall(), self.world.wall() - timedelta(seconds=self.world.uptime() - 1000.0)
        moments = [moment for _, _, due, lease in waiting for moment in (lease or due,) if moment is not None]
        later = [moment for moment in moments if moment > now]
        # What is due did not go: a pause, a slot, a rate.
        pauses = _look("SELECT paused_until FROM prx_email_django_accountstate WHERE paused_until IS NOT NULL")
        later += [until for (text,) in pauses for until in (_instant(text),) if until is not None and until > now]
        if len(later) < len(moments) or not later:
            later.append(now + timedelta(seconds=self._patience))
        return [(moment - begin).total_seconds() for moment in later]


def _look(statement: str) -> list[tuple[Any, ...]]:
    """Read past the simulated database: it neither takes time nor meets trouble."""
    return _looking().execute(statement).fetchall()


@functools.cache
def _looking() -> sqlite3.Connection:
    return sqlite3.connect(DATABASE_FILE, isolation_level=None)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def _empty() -> None:
    with connection.cursor() as cursor:
        for model in _TABLES:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        cursor.execute("DELETE FROM sqlite_sequence")
        for table in audit.TABLES:
            cursor.execute(f"DELETE FROM {table}")
    OutboxState.objects.all().delete()
