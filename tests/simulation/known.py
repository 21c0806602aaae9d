"""What a schedule itself did, and what calls returned: the invariants judge by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prx_email_django.results import DrainReport, SendResult


@dataclass
class Stop:
    """A time in which nothing may be claimed for an account (None: for any)."""

    account: int | None
    begins: float
    ends: float = float("inf")


@dataclass
class Known:
    """What the schedule itself did to messages, by primary key."""

    cancelled: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)
    #: Instants (on the clock of uptime) at which a person wrote ``pending`` over a message that was being sent.
    by_hand: dict[int, list[float]] = field(default_factory=dict)
    #: Messages that calls have queued, by what they returned.
    queued: set[int] = field(default_factory=set)
    #: Senders of messages that calls refused.
    refused_senders: set[str] = field(default_factory=set)
    with_expiry: set[int] = field(default_factory=set)
    #: When a message may go at the earliest, on the clock of uptime, as its caller said.
    not_before: dict[int, float] = field(default_factory=dict)
    #: Messages for which a person asked for an attempt.
    asked: set[int] = field(default_factory=set)
    #: Adoptions: when each was done, and the newest message by then.
    adoptions: list[tuple[float, int]] = field(default_factory=list)
    #: Addresses that a person erased, and when that was done; messages that were deleted, or left as they were.
    erased: dict[str, float] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    #: Messages that a person deleted in a shell, and whether any may have been deleted while others work with them.
    deleted: set[int] = field(default_factory=set)
    may_vanish: bool = False
    #: Accounts whose limits a person has changed.
    changed: set[int] = field(default_factory=set)
    #: By account (None: all): from when to when nothing may be claimed, since a person paused it or switched it off.
    stops: list[Stop] = field(default_factory=list)
    #: What ``send`` and ``retry_outbox`` returned.
    results: list[SendResult] = field(default_factory=list)
    #: Reports of drains that returned, and how many drains did not.
    reports: list[DrainReport] = field(default_factory=list)
    broken_drains: int = 0
    singles: int = 0
    late: set[int] = field(default_factory=set)
    progress: int = 0
    used: set[str] = field(default_factory=set)

    def end_stops(self, at: float) -> None:
        """Everything may be claimed again."""
        for stop in self.stops:
            stop.ends = min(stop.ends, at)
