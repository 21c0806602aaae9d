"""Probes for what tests need: database servers with their drivers, Redis, Chromium.

Each probe returns a version to print, or raises ``NotReached`` with the reason.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

CONNECT_TIMEOUT = 5


class NotReached(Exception):
    """The machine lacks something; the text says what."""


def _server(prefix: str, port: int, user: str) -> dict[str, Any]:
    # The same variables and defaults as in tests/settings.py.
    return {
        "host": os.environ.get(f"{prefix}_HOST", "127.0.0.1"),
        "port": int(os.environ.get(f"{prefix}_PORT", port)),
        "user": os.environ.get(f"{prefix}_USER", user),
        "password": os.environ.get(f"{prefix}_PASSWORD", ""),
        "connect_timeout": CONNECT_TIMEOUT,
    }


def _driver(module: str, extra: str, hint: str) -> Any:
    if find_spec(module) is None:
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--constraint", "constraints.txt"]
        if subprocess.run([*pip, "--editable", f".[{extra}]"], capture_output=True, check=False).returncode:
            raise NotReached(f"the driver {module} cannot be installed ({hint})")
        importlib.invalidate_caches()
    return importlib.import_module(module)


def sqlite() -> str:
    """Return the version of SQLite, which comes with Python."""
    return sqlite3.sqlite_version


def postgresql() -> str:
    """Return the version of the server at POSTGRES_HOST and POSTGRES_PORT."""
    driver = _driver("psycopg", "postgres", "is there no wheel for this machine?")
    server = _server("POSTGRES", 5432, "postgres")
    try:
        with driver.connect(dbname="postgres", **server) as connection:
            return str(connection.execute("SHOW server_version").fetchone()[0])
    except driver.Error as error:
        raise NotReached(f"no PostgreSQL at {server['host']}:{server['port']} ({_first_line(error)})") from error


def mariadb() -> str:
    """Return the version of the server at MARIADB_HOST and MARIADB_PORT."""
    driver = _driver("MySQLdb", "mysql", "mysqlclient builds only with libmariadb-dev, pkg-config and a C compiler")
    server = _server("MARIADB", 3306, "root")
    try:
        connection = driver.connect(**server)
    except driver.Error as error:
        raise NotReached(f"no MariaDB at {server['host']}:{server['port']} ({_first_line(error)})") from error
    try:
        return str(connection.get_server_info())
    finally:
        connection.close()


def redis() -> str:
    """Return the version of the server at REDIS_URL."""
    driver = importlib.import_module("redis")
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    try:
        with driver.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT) as client:
            return str(client.info("server")["redis_version"])
    except driver.RedisError as error:
        raise NotReached(f"no Redis at {url} ({_first_line(error)})") from error


def browser() -> str:
    """Return the path of Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise NotReached("no chromium on PATH")
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":  # installs the drivers; ``scripts/test.py`` says which servers are missing
    for probe in (postgresql, mariadb):
        try:
            print(f"{probe.__name__} {probe()}")
        except NotReached as reason:
            print(f"{probe.__name__} not reached: {reason}")
