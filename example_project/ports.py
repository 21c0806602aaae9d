"""Free ports on loopback."""

from __future__ import annotations

import socket


def free_port(*, prefer: int | None = None) -> int:
    """Return a free port on loopback: the preferred port if it is free."""
    if prefer is not None and is_free(prefer):
        return prefer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Return whether no process listens on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
