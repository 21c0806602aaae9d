"""Rules for every test: connections only to loopback, no hypothesis deadline, marks by folder, one database a worker.

Marks that ``make test`` and ``make matrix`` select by:

- ``engine_free``: does not depend on the database; ``make test`` runs it once.
- ``simulation``: starts processes that nothing measures; ``make test`` runs it once.
- ``stateful``: tries other steps in every run; ``make test`` runs it on one database, another one each time.
- ``long``: takes long and has the same result on every Python and Django; ``make matrix`` leaves it out.
- ``pair``: may depend on the pair of a Python and a Django, because objects of Django go through Python's own packages;
  ``make matrix`` runs it on every pair, and all other tests on the oldest and on the newest pair.
"""

from __future__ import annotations

import ipaddress
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.smtp_server import SmtpServer

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
        # pages in a browser: the queries of these pages are tested by integration tests
        *("acceptance/test_account_form_browser.py", "acceptance/test_sign_in_browser.py"),
        *("acceptance/test_admin_browser.py", "acceptance/test_admin_accessible.py"),
        # libraries of token servers, and projects with a database of their own
        *("acceptance/test_token_libraries.py", "acceptance/test_one_line_switch.py"),
        *("acceptance/test_demo.py", "acceptance/test_example_shop.py", "acceptance/test_provider_presets.py"),
        *("integration/test_docs_run.py", "integration/test_admin_sites.py"),
        # what a server or the network does to a connection, and the clock of a call
        *("acceptance/test_attempt_phase.py", "acceptance/test_drain_smtputf8.py", "acceptance/test_drain_window.py"),
        *("acceptance/test_login_pauses.py", "acceptance/test_network.py", "acceptance/test_overlap_fallback.py"),
        *("acceptance/test_patched_threads.py", "acceptance/test_send_deadline.py", "acceptance/test_throttling.py"),
        # a login and a check of it, signatures, and what is refused before anything is written
        *("integration/test_account_check.py", "integration/test_check_advice.py", "integration/test_sign_in.py"),
        *("integration/test_outbox_authorize.py", "integration/test_dkim_wire.py", "integration/test_signed_wire.py"),
        *("integration/test_account_check_asgi.py", "integration/test_check_without_login.py"),
        *(
            "integration/test_check_odd_servers.py",
            "integration/test_head_bounds.py",
        ),
    ),
    "simulation": ("simulation",),
    "stateful": ("integration/test_stateful.py",),
    "long": ("integration/test_docs_run.py", "integration/test_stateful.py", "integration/test_claim_plan.py"),
    "pair": (
        # Django's messages, rendered by Python's email package; connections, in Python's threads and event loop
        *("integration/test_backend.py", "integration/test_backend_checks.py", "integration/test_backend_django.py"),
        *("integration/test_backend_wire.py", "unit/test_mime_rendering.py", "unit/test_mime_raw.py"),
        *("integration/test_sending.py", "integration/test_rules_drain.py", "integration/test_rules_transactions.py"),
        # arguments, forms, fields and pages of Django, read by Python's argparse, html and json
        *("integration/test_commands.py", "integration/test_checks.py", "integration/test_fields.py"),
        *("integration/test_admin_accounts.py", "integration/test_admin_preview.py", "integration/test_tasks.py"),
        *("integration/test_testing_kit.py", "unit/test_packaging.py"),
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--part``."""
    parser.addoption("--part", metavar="N/ALL", help="run the N-th of ALL equal parts of the selected tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only the files of the mark ``pair`` where nothing else is wanted: all take four seconds.

    Returns:
        True: the file is not collected; None: pytest decides.
    """
    pair_only = config.option.markexpr.startswith("pair ") and collection_path.name.startswith("test_")
    return True if pair_only and not _has_mark(collection_path, "pair") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their file or folder, and select the part of them that ``--part`` names."""
    _mark(items)
    if wanted := config.getoption("part"):
        number, parts = map(int, wanted.split("/"))
        assert 1 <= number <= parts, f"--part={wanted}"
        # A test stays in its part whatever other tests there are.
        chosen = [item for item in items if zlib.crc32(item.nodeid.encode()) % parts == number - 1]
        config.hook.pytest_deselected(items=sorted(set(items) - set(chosen), key=lambda item: item.nodeid))
        items[:] = chosen


def _mark(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in MARKS:
            if _has_mark(item.path, mark):
                item.add_marker(mark)


def _has_mark(path: Path, mark: str) -> bool:
    return any(path.is_relative_to(Path(__file__).parent / marked) for marked in MARKS[mark])


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A scripted SMTP server without TLS."""
    with SmtpServer() as running:
        yield running


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
