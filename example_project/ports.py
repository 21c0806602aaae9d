"""Ports of this machine."""

from __future__ import annotations

import socket


def free_port(*, prefer: int | None = None) -> int:
    """A port of loopback on which nobody listens: the preferred one if it can be had."""
    if prefer is not None and is_free(prefer):
        return prefer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody answers on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
