"""The stage: a virtual environment of its own, the sink, the delaying proxy and the database."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".bench"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
#: Seconds for a server to listen.
START_TIMEOUT = 10.0


class Missing(Exception):
    """This machine lacks something; the text says what, and how to get it."""


def python() -> str:
    """The interpreter of the contestants' environment, which is built where it is absent or out of date."""
    interpreter, stamp = VENV / "bin" / "python", VENV / ".ready"
    wanted = "\n".join([sys.version, *dependencies()])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"building {VENV.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [str(interpreter), "-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *dependencies()], check=True)
        stamp.write_text(wanted)
    return str(interpreter)


def dependencies() -> list[str]:
    """The project's own, with those of PostgreSQL, and the contestants'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    theirs = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    return [*project["dependencies"], *project["optional-dependencies"]["postgres"], *theirs]


def environment() -> dict[str, str]:
    """For processes that import this package and the project's."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}


class Sink:
    """Postfix's smtp-sink: takes everything and throws it away; counts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._counters = folder / "sink"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start, and end by its process id."""
        found = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None:
            raise Missing("smtp-sink is missing; it comes with Postfix: apt-get install postfix")
        # It demands somebody to become, where it is started by root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._counters.open("wb") as out:
            process = subprocess.Popen([found, *user, "-c", f"127.0.0.1:{self.port}", "256"], stdout=out, stderr=out)
        with ended(process):
            wait_for_port(self.port, process)
            yield

    @property
    def messages(self) -> int:
        """Taken so far."""
        counts = re.findall(rb"mesg=(\d+)", self._counters.read_bytes())
        return int(counts[-1]) if counts else 0


@contextmanager
def delaying_proxy(upstream: int, seconds: float) -> Iterator[int]:
    """A proxy that delays by so many seconds each way; gives its port."""
    command = [sys.executable, "-m", "benchmark.proxy", str(upstream), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process, ended(process):
        yield int(process.stdout.readline() if process.stdout else b"")


@contextmanager
def database(interpreter: str, engine: str, folder: Path) -> Iterator[str]:
    """A fresh database with all tables; gives its name."""
    name = f"prx_bench_{os.getpid()}"
    if engine == "sqlite":
        name = str(folder / f"{name}.sqlite3")
    else:
        _statement(interpreter, f"CREATE DATABASE {name}")
    try:
        settings = {"BENCH_DATABASE": name, "BENCH_HOST": "127.0.0.1", "BENCH_PORT": "25"}
        subprocess.run(
            [interpreter, "-m", "django", "migrate", "--verbosity", "0", "--settings", "benchmark.settings"],
            env=environment() | settings,
            check=True,
        )
        yield name
    finally:
        if engine != "sqlite":
            _statement(interpreter, f"DROP DATABASE {name} WITH (FORCE)")


def _statement(interpreter: str, sql: str) -> None:
    """One statement outside a transaction, on the server's own database."""
    program = (
        "import sys, psycopg; from benchmark.settings import POSTGRESQL as s;"
        "psycopg.connect(host=s['HOST'], port=s['PORT'], user=s['USER'], password=s['PASSWORD'], dbname='postgres',"
        "autocommit=True).execute(sys.argv[1])"
    )
    settings = {"BENCH_DATABASE": "postgres", "BENCH_HOST": "", "BENCH_PORT": "0"}
    done = subprocess.run(
        [interpreter, "-c", program, sql], env=environment() | settings, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise Missing(
            f"PostgreSQL cannot be used (POSTGRES_HOST, POSTGRES_PORT…): {done.stderr.strip().splitlines()[-1]}"
        )


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Missing(f"{process.args!r} did not start")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End this very process at the end."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT)


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="prx_bench_") as name:
        yield Path(name)
