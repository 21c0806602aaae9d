"""The task of a candidate, passed by environment variables, and its result, printed as its last line."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """The number of messages and connections, the server and the database."""

    messages: int
    connections: int
    host: str
    port: int
    database: str
    tuned: bool = False
    #: Seconds after which a candidate prints its traceback and exits; 0: never.
    timeout: int = 0

    def variables(self) -> dict[str, str]:
        """Return the environment variables for the candidate's process."""
        return {
            "BENCH_MESSAGES": str(self.messages),
            "BENCH_CONNECTIONS": str(self.connections),
            "BENCH_HOST": self.host,
            "BENCH_PORT": str(self.port),
            "BENCH_DATABASE": self.database,
            "BENCH_TUNED": "1" if self.tuned else "",
            "BENCH_TIMEOUT": str(self.timeout),
            "DJANGO_SETTINGS_MODULE": "benchmark.settings",
        }

    @classmethod
    def from_environment(cls) -> Task:
        """Read the task in the candidate's process, and start its timeout."""
        env = os.environ
        if timeout := int(env["BENCH_TIMEOUT"]):
            faulthandler.dump_traceback_later(timeout, exit=True)
        return cls(
            messages=int(env["BENCH_MESSAGES"]),
            connections=int(env["BENCH_CONNECTIONS"]),
            host=env["BENCH_HOST"],
            port=int(env["BENCH_PORT"]),
            database=env["BENCH_DATABASE"],
            tuned=bool(env["BENCH_TUNED"]),
            timeout=timeout,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    ``statements``: SQL statements, without BEGIN and COMMIT.  ``cpu``: seconds of the candidate's processes.
    ``database``: seconds of CPU of its database session, where that is a process of this machine (PostgreSQL).
    """

    seconds: float
    messages: int
    statements: int = 0
    cpu: float = 0.0
    database: float = 0.0

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


def cpu_seconds() -> float:
    """CPU that this process and its ended children have used until now."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def session_seconds(connection: Any) -> float:
    """CPU that the session of this connection has used until now; 0 where it has no process on this machine."""
    if connection.vendor != "postgresql" or connection.connection is None:
        return 0.0
    process = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")
    return int(process.read_text().split()[0]) / 1e9 if process.exists() else 0.0


class Stopwatch:
    """Measures a block: time, CPU, that of the database session, SQL statements, those of forked children too."""

    def __init__(self) -> None:
        self.seconds = self.cpu = self.database = 0.0
        self._statements = multiprocessing.get_context("fork").Value("Q", 0)

    @property
    def statements(self) -> int:
        """SQL statements that were counted in the block."""
        return int(self._statements.value)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure this block."""
        from django.db import connection
        from django.db.backends.signals import connection_created

        # Close the present connection: it opens again with the counter, as those of children and threads do, and its
        # session's CPU is that of the block.
        connection_created.connect(self._watch)
        connection.close()
        begun, used = perf_counter(), cpu_seconds()
        yield
        self.seconds, self.cpu = perf_counter() - begun, cpu_seconds() - used
        self.database = session_seconds(connection)
        connection_created.disconnect(self._watch)

    def _watch(self, connection: Any, **_: object) -> None:
        if self._count not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._count)

    def _count(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        with self._statements.get_lock():
            self._statements.value += 1
        return execute(sql, params, many, context)


def print_result(result: Result) -> None:
    """Print the candidate's last line."""
    print(json.dumps(asdict(result)), flush=True)
