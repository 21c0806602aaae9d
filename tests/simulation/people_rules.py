"""What must be true where people act on messages while they are being sent."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation import audit
from tests.simulation.findings import PEOPLE, Findings


def what_rests_stays_at_rest(found: Findings) -> Iterator[str]:
    """What is at rest is due or claimed again only where a person asked, or where its account was refused, not it."""
    before: dict[int, audit.Change] = {}
    for change in found.changes:
        last, before[change.message] = before.get(change.message), change
        if last is None or not last.rests or change.rests or change.actor in (*PEOPLE, "hand"):
            continue
        is_refused = last.code in ("provider", "recipients_refused")
        is_reinstated = is_refused and change.new_status == "failed" and change.retries < last.retries
        # An acceptance that comes late counts, whatever has become of the message.
        if change.new_status != "sent" and not is_reinstated:
            yield f"{change} by {change.actor} at {change.at - 1000:.3f}, although it was at rest"


def moved_go_over_their_account(found: Findings) -> Iterator[str]:
    """A message goes over the account that it had when it was claimed."""
    for pk, server in found.servers.items():
        for copy in server.copies:
            # Who stood still may have written it under an earlier claim.
            claims = found.claims_of(copy)[: 1 if found.is_prompt else None]
            if claims and pk not in {claim.account for claim in claims}:
                yield f"message {copy.message} was claimed for account {claims[0].account}, and went over {pk}"


def only_what_is_over_is_deleted(found: Findings) -> Iterator[str]:
    """A purge deletes what is sent or at rest, an erasure nothing that is being sent."""
    last: dict[int, audit.Change] = {}
    for change in found.changes:
        is_over = change.old_status == "sent" or (change.old_status == "failed" and change.due is None)
        if change.is_deletion and change.actor == "purge" and not is_over:
            yield f"{change}: it was purged, and not over"
        if change.is_deletion and change.old_status == "sending" and change.message not in found.known.deleted:
            yield f"{change} by {change.actor}: it was being sent by {last[change.message].actor}"
        last[change.message] = change


RULES = (what_rests_stays_at_rest, moved_go_over_their_account, only_what_is_over_is_deleted)
