"""How the mail server treats everyone just now: a person chooses it on the operator's page.

The choice is a small file beside the inbox, not a command of SMTP: the mail server reads it at each message, and no
client of the mail server can change it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Mode(StrEnum):
    """A provider's behaviour, with a name for its button and what happens then."""

    WELL = "well"
    REFUSE = "refuse"
    DEFER = "defer"
    DROP = "drop"
    SLOW = "slow"
    THROTTLE = "throttle"

    @property
    def label(self) -> str:
        """Text of the button."""
        return _WORDS[self][0]

    @property
    def effect(self) -> str:
        """What the provider does, and what becomes of the mail."""
        return _WORDS[self][1]


_WORDS = {
    Mode.WELL: (
        "All well",
        "The provider accepts every message. What waits is sent, after a pause when it ends or by Resume.",
    ),
    Mode.REFUSE: (
        "Refuse",
        "The provider says 550 to every recipient: for good. The message rests until a person acts.",
    ),
    Mode.DEFER: (
        "Defer",
        "The provider says 450, try later. The outbox tries again by itself, and waits longer each time.",
    ),
    Mode.DROP: (
        "Drop",
        "The provider hangs up before it confirms a message. Nobody can know whether it arrived; it is tried again "
        "under the same Message-ID.",
    ),
    Mode.SLOW: ("Go slow", "The provider takes three seconds for each message. Orders do not wait for it."),
    Mode.THROTTLE: (
        "Throttle",
        "The provider accepts one message in two seconds, and says “sending rate exceeded” to the others. The outbox "
        "slows down, and no message fails.",
    ),
}


class ModeFile:
    """The file that holds the mode; without it all is well."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "provider-mode"

    def read(self) -> Mode:
        """Return the present mode."""
        try:
            return Mode(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return Mode.WELL

    def write(self, mode: Mode) -> None:
        """Change the mode for the messages that come now; a reader sees the old or the new one, never half of it."""
        temporary = self._path.with_suffix(".new")
        temporary.write_text(mode)
        temporary.rename(self._path)
