"""What holds for every test: no address but loopback is reached, and hypothesis has no stopwatch.

Tests to which the database makes no difference are marked ``engine_free``: ``make test`` runs them once.  Those that
say the same on every Python and Django and take their time are marked ``long``: ``make matrix`` leaves them out.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A deadline would judge the machine, not the code; pytest-timeout bounds the whole test.
hypothesis.settings.register_profile(
    "outbox", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("outbox")


ENGINE_FREE = (
    "unit",
    "acceptance/transports",
    "acceptance/test_demo.py",
    "integration/test_docs_run.py",
)


LONG = ("integration/test_docs_run.py", "integration/test_stateful.py", "integration/test_claim_plan.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their place."""
    here = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / place) for place in ENGINE_FREE):
            item.add_marker("engine_free")
        if any(item.path.is_relative_to(here / place) for place in LONG):
            item.add_marker("long")


def is_loopback(address: object) -> bool:
    """Whether a socket address stays on this machine; what is not an (IP, port) pair is a local socket."""
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    except ValueError:
        return address[0] in {"localhost", ""}


def _refuse_other_machines(event: str, args: tuple[Any, ...]) -> None:  # pragma: no cover  (hooks are not traced)
    if event in {"socket.connect", "socket.sendto"} and not is_loopback(args[1]):
        raise RuntimeError(f"a test reaches for {args[1]!r}: tests speak to loopback only")


sys.addaudithook(_refuse_other_machines)
