"""What a schedule itself did, and what calls returned: the invariants judge by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prx_email_django.results import DrainReport, SendResult


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
    #: What ``send`` and ``retry_outbox`` returned.
    results: list[SendResult] = field(default_factory=list)
    #: Reports of drains that returned, and how many drains did not.
    reports: list[DrainReport] = field(default_factory=list)
    broken_drains: int = 0
    singles: int = 0
    late: set[int] = field(default_factory=set)
    progress: int = 0
    used: set[str] = field(default_factory=set)
