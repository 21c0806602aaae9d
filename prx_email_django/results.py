"""Values that the public functions return."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class FailureMode(StrEnum):
    """A failure to simulate without a network, so that callers can test how they handle it."""

    #: Like a lost connection: tried again with backoff.
    NETWORK = "network"
    #: Like a temporary refusal (451): tried again with backoff.
    PROVIDER = "provider"
    #: Like a permanent refusal (550): at rest.
    PROVIDER_PERMANENT = "provider_permanent"


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of an attempt.

    ``status`` is ``"sent"`` or ``"failed"``.  If no attempt could be made, it is the status of the row; ``error_code``
    is then ``limited`` or ``paused`` (for a known idempotency key: the row's ``last_error_code``), and ``error`` gives
    the reason in the active language.
    ``provider_message_id`` is the Message-ID header under which the server accepted the message, None until then.
    ``next_attempt_at`` is None if no further attempt is planned.
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
    """How many messages an operation changed, and how many it refused, by code.

    Codes: ``not_found``, ``sent``, ``sending``, ``waiting``, ``at_rest``, ``not_unknown``.
    """

    changed: int = 0
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderedMail:
    """A message that ``render_mail`` made; ``enqueue(**rendered)`` takes all three fields.

    ``body_html`` is empty where the templates have no HTML; ``body_text`` never is, unless the HTML has no words.
    """

    subject: str
    body_text: str
    body_html: str = ""

    def keys(self) -> tuple[str, ...]:
        """The names of the fields: with ``__getitem__`` this makes ``**rendered`` work."""
        return ("subject", "body_text", "body_html")

    def __getitem__(self, name: str) -> str:
        """The field of this name."""
        if name not in self.keys():
            raise KeyError(name)
        return str(getattr(self, name))


@dataclass(frozen=True, slots=True)
class DrainReport:
    """Numbers of messages of a drain, and its duration in seconds.

    ``deferred``: will be tried again; ``failed``: at rest; ``recovered``: claims of lost workers; ``released``: claims
    released without an attempt, or taken from this worker before one; ``expired``: too old to be sent.
    """

    claimed: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    recovered: int = 0
    released: int = 0
    expired: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What ``erase_address`` did, as numbers of rows.

    ``deleted``: messages to nobody else; ``emptied``: sent messages whose content is gone; ``withdrawn``: messages that
    do not go to the address any more; ``received``: deleted records of received mail; ``texts``: rows in which the
    address was replaced (a dry run counts those of deleted messages too).  ``left``: ids of messages that are not sent
    yet and still hold the address: repeat the call.
    """

    deleted: int = 0
    emptied: int = 0
    withdrawn: int = 0
    received: int = 0
    texts: int = 0
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckStep:
    """One step of an account check.

    ``name``: ``resolve``, ``connect``, ``tls``, ``greeting``, ``extensions``, ``token``, ``login`` or ``message``.
    ``detail`` says what was found or what failed, ``advice`` what to do about a failure.
    """

    name: str
    ok: bool
    seconds: float
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class AccountReport:
    """The steps of an account check, up to the first that failed."""

    ok: bool
    steps: tuple[CheckStep, ...]
