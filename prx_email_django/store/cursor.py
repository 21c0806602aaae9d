"""How far the claims of one drain have come: a keyset, so that no claim reads what an earlier one has passed.

A claimed row stays in the claim's index until the database has cleaned up, which a transaction that is open anywhere
prevents.  Claims that began at the start read 40 328 buffers after 20 000 messages, 217 before the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from prx_email_django.models import OutboxMessage

#: Seconds until a claim looks from the start again: rows may have come in front of the bounds (a late commit, a
#: message that was released or was locked by another worker).
FROM_START_EVERY = 1.0


class Bound(NamedTuple):
    """The place of a message within its rank."""

    next_attempt_at: datetime
    pk: int


class ClaimCursor:
    """The last claimed message of each rank of one account within a drain.

    ``ranks``: where a look from the start, a moment ago, found something due.
    """

    def __init__(self, ranks: Sequence[int] | None = None) -> None:
        self.bounds: dict[int, Bound] = {}
        #: Only these ranks are read; None: all.
        self.ranks = ranks
        self._started_at = -math.inf if ranks is None else monotonic()

    @property
    def is_at_start(self) -> bool:
        """Whether a claim would see all that is due."""
        return not self.bounds and self.ranks is None

    def begin(self) -> None:
        """Look from the start if the last look from there is a second ago."""
        if monotonic() - self._started_at >= FROM_START_EVERY:
            self.restart()

    def restart(self) -> None:
        """Look from the start."""
        self.bounds, self.ranks = {}, None
        self._started_at = monotonic()

    def passed(self, messages: Iterable[OutboxMessage]) -> None:
        """Note what was claimed, in the order of the claim."""
        for message in messages:
            if message.next_attempt_at is not None:
                self.bounds[message.claim_rank] = Bound(message.next_attempt_at, message.id)
