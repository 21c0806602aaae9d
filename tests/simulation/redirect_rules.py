"""What must be true where messages are redirected."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from prx_email_django.conf import outbox_settings
from tests.simulation.findings import Findings
from tests.simulation.host import redirects


def redirected_reach_nobody(found: Findings) -> Iterator[str]:
    """With ``REDIRECT_TO`` only those who stand in, and those who pass, are in an envelope."""
    if not redirects():
        return
    passing = outbox_settings().redirect_except
    for server in found.servers.values():
        for copy in server.copies:
            for address in copy.envelope:
                if address not in redirects() and not any(fnmatchcase(address, pattern) for pattern in passing):
                    yield f"{address} got message {copy.message} although it is redirected"


RULES = (redirected_reach_nobody,)
