"""What a contestant is told, through the environment, and what it answers, as the last line that it prints."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """Send so many letters over so many connections to this server."""

    messages: int
    connections: int
    host: str
    port: int
    database: str
    tuned: bool = False
    #: Seconds after which a contestant that hangs prints where, and ends.
    patience: int = 0

    def environment(self) -> dict[str, str]:
        """For the contestant's process."""
        return {
            "BENCH_MESSAGES": str(self.messages),
            "BENCH_CONNECTIONS": str(self.connections),
            "BENCH_HOST": self.host,
            "BENCH_PORT": str(self.port),
            "BENCH_DATABASE": self.database,
            "BENCH_TUNED": "1" if self.tuned else "",
            "BENCH_PATIENCE": str(self.patience),
            "DJANGO_SETTINGS_MODULE": "benchmark.settings",
        }

    @classmethod
    def given(cls) -> Task:
        """In the contestant's process."""
        env = os.environ
        if patience := int(env["BENCH_PATIENCE"]):
            faulthandler.dump_traceback_later(patience, exit=True)
        return cls(
            messages=int(env["BENCH_MESSAGES"]),
            connections=int(env["BENCH_CONNECTIONS"]),
            host=env["BENCH_HOST"],
            port=int(env["BENCH_PORT"]),
            database=env["BENCH_DATABASE"],
            tuned=bool(env["BENCH_TUNED"]),
            patience=patience,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """One timed run; ``statements``: SQL statements while sending, without BEGIN and COMMIT."""

    seconds: float
    messages: int
    statements: int = 0

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


class Stopwatch:
    """Time and SQL statements of what is run inside; children by fork are counted too."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._statements = multiprocessing.get_context("fork").Value("Q", 0)

    @property
    def statements(self) -> int:
        """Counted while running."""
        return int(self._statements.value)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count and time."""
        from django.db import connection
        from django.db.backends.signals import connection_created

        # A connection that exists already, and those that children and threads will open.
        connection_created.connect(self._watch)
        connection.close()
        begun = perf_counter()
        yield
        self.seconds = perf_counter() - begun
        connection_created.disconnect(self._watch)

    def _watch(self, connection: Any, **_: object) -> None:
        if self._count not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._count)

    def _count(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001
        with self._statements.get_lock():
            self._statements.value += 1
        return execute(sql, params, many, context)


def tell(score: Score) -> None:
    """The contestant's answer."""
    print(json.dumps(asdict(score)), flush=True)
