"""Why no attempt can be made now: a value that the refusal itself makes, for whoever must say it in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self


@dataclass(frozen=True, slots=True)
class ReachedLimit:
    """A rate limit that is used up, and when its next permit is free."""

    limit: str
    free_at: datetime
    #: It is a limit per second: its next permit is free within a second and the longest life of a permit.
    is_short: bool = False


class ObstacleKind(StrEnum):
    """What is in the way."""

    RATE = "rate"  #: a rate limit is used up
    RECIPIENTS = "recipients"  #: a limit has too little left for all recipients of the message
    CONNECTIONS = "connections"  #: every connection of the account is in use
    PROBE = "probe"  #: after a pause one message is tried first
    NO_PERMIT = "no_permit"  #: no permit was free at that moment
    SLOW = "slow"  #: the server says that the account sends too fast, or over too many connections
    LEASE_ENDED = "lease_ended"  #: the claim's lease was about to end before the message was sent
    CONNECTION_LOST = "connection_lost"  #: the connection was lost, and other workers use all others


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason, with what a sentence about it needs."""

    kind: ObstacleKind
    reached: ReachedLimit | None = None
    max_connections: int = 1
    #: The account's limits as text.
    limits: str = ""

    @classmethod
    def too_little_left(cls, limits: str, reached: ReachedLimit | None = None) -> Self:
        """The limits of recipients have room, but not for all recipients of the message; ``reached`` has the least."""
        return cls(ObstacleKind.RECIPIENTS, reached=reached, limits=limits)

    @classmethod
    def no_permit(cls) -> Self:
        """No permit was free at that moment."""
        return cls(ObstacleKind.NO_PERMIT)
