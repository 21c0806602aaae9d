"""What the mail server answers in each mode."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from example_project.catcher.mode import Mode, ModeFile

REFUSED = "550 5.1.1 no such mailbox here"
DEFERRED = "450 4.2.1 mailbox busy, try again later"
#: As Amazon SES says it.
THROTTLED = "454 4.7.0 Throttling failure: Maximum sending rate exceeded."
#: Seconds between two accepted messages of a provider that throttles, and seconds for a message of a slow one.
INTERVAL, SLOW = 2.0, 3.0


@dataclass
class Behaviour:
    """The provider's answers by its mode; ``None`` where the mode has nothing to say."""

    mode: ModeFile
    _accepted_at: float = field(default=float("-inf"))

    def to_sender(self) -> str | None:
        """Answer MAIL."""
        is_early = time.monotonic() < self._accepted_at + INTERVAL
        return THROTTLED if is_early and self.mode.read() is Mode.THROTTLE else None

    def to_recipient(self) -> str | None:
        """Answer RCPT."""
        return {Mode.REFUSE: REFUSED, Mode.DEFER: DEFERRED}.get(self.mode.read())

    def hangs_up(self) -> bool:
        """Whether to close the connection instead of confirming a message."""
        return self.mode.read() is Mode.DROP

    def seconds(self) -> float:
        """Seconds to wait before a message is confirmed."""
        return SLOW if self.mode.read() is Mode.SLOW else 0.0

    def note_accepted(self) -> None:
        """Remember when a message was accepted."""
        self._accepted_at = time.monotonic()
