"""Claims of messages that a connection of this worker has already, since somebody wrote their status by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prx_email_django.limits.rate_windows import Permits
from prx_email_django.rules.clock import Clock
from prx_email_django.store.claimed import Claim
from prx_email_django.worker.outgoing import ClaimedMessage


class DoubleClaims:
    """Keeps such claims back: the MAIL of the older claim may be written, and its result decides.

    ``claims`` are those without a recorded result, by message.
    """

    def __init__(self, claims: Mapping[int, Claim], *, clock: Clock) -> None:
        self._claims = claims
        self._clock = clock
        self._kept: dict[int, ClaimedMessage] = {}

    def keep_back(self, claims: Sequence[Claim], *, waiting: Iterable[ClaimedMessage], permits: Permits) -> list[Claim]:
        """Keep back new claims of what a connection has, each with its ``permits``; returns the others.

        An older claim is lost; what no connection has yet (``waiting``) is therefore not written under it.
        """
        again = [claim for claim in claims if claim.id in self._claims]
        if not again:
            return list(claims)
        untaken = {message.id for message in waiting}
        for claim in again:
            self._claims[claim.id].is_lost = True
            if claim.id not in untaken:
                self._kept[claim.id] = ClaimedMessage(claim, clock=self._clock, permits=(permits,))
        return [claim for claim in claims if claim.id not in self._kept]

    def claims(self) -> list[Claim]:
        """What is kept back."""
        return [message.claim for message in self._kept.values()]

    def pop(self, message_id: int) -> ClaimedMessage | None:
        """The claim that was kept back, which the caller releases; None: there is none."""
        return self._kept.pop(message_id, None)
