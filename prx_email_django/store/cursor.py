"""How far the claims of one drain have come: a keyset, so that no claim reads what an earlier one has passed.

A claimed row stays in the claim's index until the database has cleaned up, which a transaction that is open anywhere
prevents.  Claims that began at the start read 40 328 buffers after 20 000 messages, 217 before the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import NamedTuple, TypeAlias

from prx_email_django.models import OutboxMessage

#: Seconds until a claim looks from the start again: rows may have come in front of the bounds (a late commit, a
#: message that was released or was locked by another worker).
FROM_START_EVERY = 1.0


class Bound(NamedTuple):
    """The place of a message within its rank."""

    next_attempt_at: datetime
    pk: int


Bounds: TypeAlias = Mapping[int, Bound]


class ClaimCursor:
    """The last claimed message of each rank of one account within a drain."""

    def __init__(self) -> None:
        self.bounds: dict[int, Bound] = {}
        self._started_at = -math.inf

    def begin(self) -> None:
        """Look from the start if the last look from there is a second ago."""
        if monotonic() - self._started_at >= FROM_START_EVERY:
            self.restart()

    def restart(self) -> None:
        """Look from the start."""
        self.bounds = {}
        self._started_at = monotonic()

    def passed(self, messages: Iterable[OutboxMessage]) -> None:
        """Note what was claimed, in the order of the claim."""
        last = {message.claim_rank: message for message in messages if message.next_attempt_at is not None}
        for rank, message in last.items():
            if message.next_attempt_at is not None:
                self.bounds[rank] = Bound(message.next_attempt_at, message.id)
