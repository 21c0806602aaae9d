"""Rules for every test: connections only to loopback, no hypothesis deadline, marks by folder, one database a worker.

A test marked ``engine_free`` does not depend on the database, and ``make test`` runs it once.  A test marked
``stateful`` tries other steps in every run, and ``make test`` runs it on one database, another one each time.  A test
marked ``long`` takes long and has the same result on every Python and Django, and ``make matrix`` leaves it out.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A deadline would measure the machine, not the code; pytest-timeout limits the whole test.
hypothesis.settings.register_profile(
    "outbox", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("outbox")

#: Mark -> files and folders below ``tests`` whose tests get it.
MARKS = {
    "acceptance": ("acceptance",),
    "engine_free": (
        *("unit", "simulation", "acceptance/transports"),
        *("acceptance/test_demo.py", "integration/test_docs_run.py"),
    ),
    "stateful": ("integration/test_stateful.py",),
    "long": ("integration/test_docs_run.py", "integration/test_stateful.py", "integration/test_claim_plan.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their file or folder."""
    here = Path(__file__).parent
    for item in items:
        for mark, paths in MARKS.items():
            if any(item.path.is_relative_to(here / path) for path in paths):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def django_db_modify_db_settings_parallel_suffix() -> None:
    """Replace pytest-django's own suffix for parallel runs: ``tests/settings.py`` has named the database already.

    pytest-django changes the settings of the worker only.  The processes that a test starts read ``DATABASE_NAME``, and
    waited for ever on an empty database of the old name.
    """


def is_loopback(address: object) -> bool:
    """Whether a socket address is on this machine; an address that is not a tuple belongs to a Unix socket."""
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    except ValueError:
        return address[0] in {"localhost", ""}


def _refuse_other_machines(event: str, args: tuple[Any, ...]) -> None:  # pragma: no cover  (hooks are not traced)
    if event in {"socket.connect", "socket.sendto"} and not is_loopback(args[1]):
        raise RuntimeError(f"a test connects to {args[1]!r}; tests may connect to loopback only")


sys.addaudithook(_refuse_other_machines)
