"""What the public functions return."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class FailureMode(StrEnum):
    """A failure to simulate, without touching the network, so that callers can test their own handling."""

    #: As a broken connection: tried again with backoff.
    NETWORK = "network"
    #: As a temporary refusal (451): tried again with backoff.
    PROVIDER = "provider"
    #: As a permanent refusal (550): at rest.
    PROVIDER_PERMANENT = "provider_permanent"


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of one attempt.

    ``status`` is ``"sent"`` or ``"failed"``; only where no attempt could be made it is the row's own, with
    ``error_code`` ``limited`` or ``paused`` (for a known idempotency key: the row's ``last_error_code``) and the reason
    in words as ``error``, in the active language.
    ``provider_message_id`` is the Message-ID header under which the server accepted the message, None until then.
    ``next_attempt_at`` None: never due by itself.
    """

    outbox_id: int
    status: str
    retries: int
    provider_message_id: str | None
    next_attempt_at: datetime | None
    error: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """How many messages a person's verb changed, and how many it refused, by code.

    Codes: ``not_found``, ``sent``, ``sending``, ``waiting``, ``at_rest``, ``not_unknown``.
    """

    changed: int = 0
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What one drain did, in messages, and how long it took in seconds.

    ``deferred`` will be tried again, ``failed`` are at rest, ``recovered`` were left by lost workers, ``released`` were
    given back untouched, ``expired`` were too old.
    """

    claimed: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    recovered: int = 0
    released: int = 0
    expired: int = 0
    seconds: float = 0.0
