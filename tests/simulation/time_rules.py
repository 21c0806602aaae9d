"""What must be true of messages that grow too old."""

from __future__ import annotations

from collections.abc import Iterator

from prx_email_django.conf import outbox_settings
from tests.simulation import audit
from tests.simulation.findings import PEOPLE, Findings
from tests.simulation.host import give_up_after

#: Seconds: a drain reads the database's clock once, and carries it on.
EXACT_TO = 1.0


def nothing_goes_after_its_time(found: Findings) -> Iterator[str]:
    """What had expired, or was due for longer than ``GIVE_UP_AFTER``, when it was claimed is sent to nobody."""
    if not found.is_prompt or "conflicts" in found.schedule.kinds:
        return
    for server in found.servers.values():
        for copy in server.copies:
            claims = found.claims_of(copy)
            if not claims or claims[0].actor in PEOPLE or copy.message in found.known.by_hand:
                continue
            late = min(claim.at - ends_at(claim) for claim in claims)
            if late > EXACT_TO:
                yield f"message {copy.message} was claimed {late:.3f} s after its time, and sent: {copy}"


def nothing_expires_early(found: Findings) -> Iterator[str]:
    """What rests as expired had expired."""
    for change in found.changes:
        is_expiry = change.rests and change.code == "expired" and change.old_status == "sending"
        early = ends_at(change) - change.at
        if is_expiry and early > EXACT_TO and found.is_prompt:
            yield f"{change} by {change.actor} {early:.3f} s before its time"


def ends_at(change: audit.Change) -> float:
    """When a message is too old, on the clock of uptime."""
    since, age = audit.uptime_of(change.since), give_up_after().total_seconds()
    postponed = since + age + 2 * outbox_settings().max_backoff.total_seconds()
    if change.due is not None and audit.uptime_of(change.due) > postponed:
        since = audit.uptime_of(change.due)  # a person has postponed it
    expires = float("inf") if change.expires is None else audit.uptime_of(change.expires)
    return min(since + age, expires)


RULES = (nothing_goes_after_its_time, nothing_expires_early)
