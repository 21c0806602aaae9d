"""What a benchmark needs: a virtual environment, a mail sink, a delaying proxy and a database."""

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
#: Seconds until a server must listen.
START_TIMEOUT = 10.0


class Missing(Exception):
    """The machine lacks something; the text says what, and how to install it."""


def python(engine: str = "postgresql") -> str:
    """Return the interpreter of the candidates' virtual environment; build that if it is missing or out of date."""
    interpreter, stamp = VENV / "bin" / "python", VENV / ".ready"
    wanted = "\n".join([sys.version, *dependencies(engine)])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"building {VENV.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [str(interpreter), "-m", "pip", "install", "-qq", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *dependencies(engine)], check=True)
        stamp.write_text(wanted)
    return str(interpreter)


def dependencies(engine: str = "postgresql") -> list[str]:
    """Return the requirements of the project and of the candidates; MariaDB's driver needs a compiler."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    extras = project["optional-dependencies"]
    drivers = [*extras["postgres"], *(extras["mysql"] if engine == "mariadb" else [])]
    return [*project["dependencies"], *drivers, *others]


def variables() -> dict[str, str]:
    """Return environment variables for processes that import this package and the project."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}


class Sink:
    """Postfix's smtp-sink: accepts, counts and discards every message."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._counters = folder / f"sink_{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the sink during the block.

        Raises:
            Missing: it is not installed, or did not start.
        """
        with self._counters.open("wb") as out:
            process = subprocess.Popen(self._command(), stdout=out, stderr=out, env=variables())
        with ended(process):
            wait_for_port(self.port, process)
            yield

    def _command(self) -> list[str]:
        found = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None:
            raise Missing("smtp-sink is missing; it comes with Postfix: apt-get install postfix")
        # Started by root, smtp-sink demands another user.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [found, *user, "-c", f"127.0.0.1:{self.port}", "256"]

    @property
    def messages(self) -> int:
        """Messages accepted so far."""
        counts = re.findall(rb"mesg=(\d+)", self._counters.read_bytes())
        return int(counts[-1]) if counts else 0


class ChunkingSink(Sink):
    """A sink of our own that offers CHUNKING, as most servers do (``chunking_sink``)."""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "benchmark.chunking_sink", str(self.port)]


@contextmanager
def delaying_proxy(upstream: int, seconds: float) -> Iterator[int]:
    """Run a proxy that delays each direction by ``seconds``; yields its port."""
    command = [sys.executable, "-m", "benchmark.proxy", str(upstream), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=variables()) as process, ended(process):
        yield int(process.stdout.readline() if process.stdout else b"")


@contextmanager
def database(interpreter: str, engine: str, folder: Path) -> Iterator[str]:
    """Create a database with all tables for the block; yields its name."""
    name = f"prx_bench_{os.getpid()}"
    if engine == "sqlite":
        name = str(folder / f"{name}.sqlite3")
    else:
        _statement(interpreter, engine, f"CREATE DATABASE {name}")
    try:
        settings = {"BENCH_DATABASE": name, "BENCH_ENGINE": engine, "BENCH_HOST": "127.0.0.1", "BENCH_PORT": "25"}
        subprocess.run(
            [interpreter, "-m", "django", "migrate", "--verbosity", "0", "--settings", "benchmark.settings"],
            env=variables() | settings,
            check=True,
        )
        os.environ["BENCH_ENGINE"] = engine
        yield name
    finally:
        if engine != "sqlite":
            _statement(interpreter, engine, f"DROP DATABASE {name}{' WITH (FORCE)' if engine == 'postgresql' else ''}")


#: Programs that execute a statement outside a transaction, in a database that is there in any case.
_PROGRAMS = {
    "postgresql": (
        "import sys, psycopg; from benchmark.settings import POSTGRESQL as s;"
        "psycopg.connect(host=s['HOST'], port=s['PORT'], user=s['USER'], password=s['PASSWORD'], dbname='postgres',"
        "autocommit=True).execute(sys.argv[1])"
    ),
    "mariadb": (
        "import sys, MySQLdb; from benchmark.settings import MARIADB as s;"
        "c = MySQLdb.connect(host=s['HOST'], port=int(s['PORT']), user=s['USER'], password=s['PASSWORD']);"
        "c.query(sys.argv[1])"
    ),
}


def _statement(interpreter: str, engine: str, sql: str) -> None:
    """Execute a statement outside a transaction."""
    program = _PROGRAMS[engine]
    settings = {"BENCH_DATABASE": "postgres", "BENCH_HOST": "", "BENCH_PORT": "0"}
    process = subprocess.run(
        [interpreter, "-c", program, sql], env=variables() | settings, check=False, capture_output=True, text=True
    )
    if process.returncode:
        variables_of = "POSTGRES_HOST, POSTGRES_PORT…" if engine == "postgresql" else "MARIADB_HOST, MARIADB_PORT…"
        raise Missing(f"{engine} cannot be used ({variables_of}): {process.stderr.strip().splitlines()[-1]}")


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process listens.

    Raises:
        Missing: it ended or did not listen in time.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Missing(f"{process.args!r} did not start")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process after the block."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT)


@contextmanager
def folder() -> Iterator[Path]:
    """Create a temporary folder for the block."""
    with tempfile.TemporaryDirectory(prefix="prx_bench_") as name:
        yield Path(name)
