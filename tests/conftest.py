"""What holds for every test: no address but loopback is reached, and hypothesis has no stopwatch."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import hypothesis

# A deadline would judge the machine, not the code; pytest-timeout bounds the whole test.
hypothesis.settings.register_profile("outbox", deadline=None, print_blob=True)
hypothesis.settings.load_profile("outbox")


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
