"""Sets the simulated world up once, and plays seeds in it."""

from __future__ import annotations

import gc
import logging
import os
import traceback
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from prx_email_django.limits import slots  # noqa: E402
from tests.simulation import audit, breaking, invariants, mutations, patches, plans, schedule, watching, workers  # noqa: E402
from tests.simulation.settings import DATABASE_FILE  # noqa: E402
from tests.simulation.world import ThreadPool, World  # noqa: E402

#: The kinds of trouble of every schedule, if ``--faults`` names none.
USUAL = schedule.KINDS


@dataclass(frozen=True)
class Story:
    """What happened in one schedule."""

    seed: int
    failures: list[str]
    text: str

    @property
    def failed(self) -> bool:
        """Whether something was wrong."""
        return bool(self.failures)

    @property
    def headline(self) -> str:
        """One line."""
        return f"seed {self.seed}: {self.failures[0]}"


class Runner:
    """Plays seeds; one in a process."""

    def __init__(self, *, kinds: Collection[str] | None = None, broken: str | None = None) -> None:
        self.kinds = USUAL if kinds is None else tuple(kinds)
        if unknown := set(self.kinds) - set(schedule.KINDS):
            raise SystemExit(f"no such trouble: {', '.join(sorted(unknown))}; there are {', '.join(schedule.KINDS)}")
        self._pool = ThreadPool(_end_of_process)
        self._now: schedule.Schedule
        self._counts: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        call_command("migrate", verbosity=0)
        audit.set_up()
        if "PRX_SIMULATION_PLAIN" not in os.environ:
            plans.keep()
        # As short as LEASE in the settings, so that leases run out within a schedule.
        slots.SLOT_LEASE, slots.SLOT_MARGIN = timedelta(seconds=24), 8.0
        patches.install(
            lambda host, port: self._now.servers[host],
            lambda request, *, timeout: self._now.tokens.post(request, timeout=timeout),
        )
        workers.let_loops_be_stopped()
        watching.watch(
            lambda: self._now.known, lambda text: World.current.tell(text), lambda text: World.current.fail(text)
        )
        gc.freeze()  # looking through Django's own objects again and again took a tenth of the time
        gc.set_threshold(20_000, 20, 20)
        if broken is not None:
            mutations.break_rule(broken)
        logging.getLogger("simulation").addHandler(logging.NullHandler())

    def find(self, name: str, *, most: int) -> tuple[int, Story | None]:
        """Break a rule, play schedules until one shows it, and mend the rule: how many it took, and what showed it."""
        _, kinds, words, first = mutations.MUTATIONS[name]
        usual, self.kinds = self.kinds, tuple(kinds.split(","))
        mutations.break_rule(name)
        try:
            for count in range(most):
                story = self.play(int(first) + count)
                if shown := [text for text in story.failures if words in text]:
                    return count + 1, replace(story, failures=shown)
            return most, None
        finally:
            breaking.mend()
            self.kinds = usual

    def close(self) -> None:
        """Remove the database."""
        connection.close()
        for suffix in ("", "-wal", "-shm"):
            DATABASE_FILE.with_name(DATABASE_FILE.name + suffix).unlink(missing_ok=True)

    def play(self, seed: int, *, always: bool = False) -> Story:
        """Play one seed; ``always``: tell its story although nothing is wrong."""
        self._now = now = schedule.Schedule(seed, kinds=self.kinds, pool=self._pool)
        try:
            now.run()
        except Exception as error:  # noqa: BLE001  (what the app or the simulation raised is the finding)
            now.world.fail(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        failures = [*now.world.failures, *invariants.check(now)]
        self._count(now)
        text = self._text(now, failures) if failures or always else ""
        return Story(seed, failures, text)

    def figures(self) -> str:
        """What the schedules had in them."""
        counts = ", ".join(f"{count:g} {name}" for name, count in self._counts.items())
        return f"{counts}; {self.troubles.total()} troubles of {len(self.troubles)} kinds"

    def _count(self, now: schedule.Schedule) -> None:
        self.troubles.update(now.world.troubles)
        self._counts["copies accepted"] += sum(len(server.copies) for server in now.servers.values())
        self._counts["connections"] += sum(server.connections for server in now.servers.values())
        self._counts["drains"] += len(now.known.reports)
        self._counts["kills"] += sum(actor.killed for actor in now.world.processes)
        self._counts["steps"] += now.world.steps
        self._counts["hours simulated"] += round((now.world.uptime() - 1000.0) / 36) / 100  # type: ignore[assignment]

    def _text(self, now: schedule.Schedule, failures: list[str]) -> str:
        committed = [(change.at - 1000.0, change.actor, str(change)) for change in audit.changes()]
        lines = sorted(chain(now.world.story, committed), key=lambda line: line[0])
        told = [f"{at:10.4f} {who:<10} {what}" for at, who, what in lines]
        told += [f"seed {now.world.seed} WRONG: {text}" for text in failures]
        faults = "" if self.kinds == USUAL else f" --faults {','.join(self.kinds)}"
        told.append(f"run it again: python -m tests.simulation --only {now.world.seed}{faults}")
        return "\n".join(told)


def _end_of_process() -> None:
    """A process has ended, and its connection with it: no schedule may depend on the schedules before it."""
    connection.close()
