"""What the connections of one account have found out about their server, shared among them within one drain."""

from __future__ import annotations

from enum import StrEnum


class Ahead(StrEnum):
    """What is written ahead of the server's replies (RFC 2920)."""

    #: RCPT and DATA, before MAIL is answered.
    ENVELOPE = "envelope"
    #: The envelope of the next message, behind a body that is not answered.
    OVERLAP = "full"
    #: The body, behind an envelope that is not answered (BDAT, RFC 3030).
    CHUNKING = "chunked"
    #: Whole messages, behind messages that are not answered.
    WINDOW = "window"


# Python 3.11 takes as long to look up a member of an enum as to call four functions.
_CHUNKING = Ahead.CHUNKING


class Window:
    """How many messages of one connection may be unanswered at once; the account's connections share it."""

    #: Completed transactions in a row after which the window doubles.
    GROWS_AFTER = 10

    def __init__(self) -> None:
        self.size = 1
        self._most = 1
        self._in_a_row = 0
        self._has_fallen = False

    def remember(self, size: int, *, most: int) -> None:
        """Begin with what was known before, at most ``most``."""
        self._most = 1 if self._has_fallen else max(1, most)
        self.size = min(max(size, self.size), self._most)

    def note_completed(self) -> None:
        """Count a transaction that the server has answered."""
        self._in_a_row += 1
        if self._in_a_row >= self.GROWS_AFTER:
            self._in_a_row = 0
            self.size = min(2 * self.size, self._most)

    def fall(self) -> None:
        """A connection was lost with more than one message unanswered: one at a time from now on."""
        self._has_fallen = True
        self.size = self._most = 1
        self._in_a_row = 0


class FoundOut:
    """Used on the network's thread; the calling thread only asks for ``in_flight``.

    A way of writing ahead is tried by one connection; the others do without it until the server has answered that
    connection in step.  So a server that does not bear it costs an account one broken connection, not one for each.
    """

    def __init__(self) -> None:
        self._proven: set[Ahead] = set()
        self._broken: set[Ahead] = set()
        #: Who is trying what; most of the time nobody tries anything.
        self.trials: dict[Ahead, object] = {}
        #: Nobody tries anything, and the server bears envelopes ahead of its replies, also behind a body.
        self.bears_overlap = False
        self.window = Window()
        #: Recipients that the server takes in one transaction; 0: no limit was met.
        self.max_recipients = 0

    def may_use(self, ahead: Ahead, by: object) -> bool:
        """Whether ``by`` may write ahead, or begin to try it."""
        return ahead not in self._broken and (ahead in self._proven or self.trials.get(ahead, by) is by)

    def is_proven(self, ahead: Ahead) -> bool:
        """Whether the server has answered in step."""
        return ahead in self._proven

    @property
    def may_chunk(self) -> bool:
        """Whether the server was seen to discard the body of a BDAT that it refuses, and bears BDAT since."""
        return Ahead.CHUNKING in self._proven and Ahead.CHUNKING not in self._broken

    @property
    def in_flight(self) -> int:
        """How many messages whose body is written one connection may have unanswered."""
        return self.window.size if _CHUNKING in self._proven and self.may_chunk else 1

    def remember(self, window: int, *, most: int) -> None:
        """Begin with the window that the account had before; 0: its server has not been probed."""
        if window and Ahead.CHUNKING not in self._broken:
            self._proven.add(Ahead.CHUNKING)
            self.trials.pop(Ahead.CHUNKING, None)
        self._look_at_overlap()
        self.window.remember(window, most=most)

    def use(self, ahead: Ahead, by: object) -> None:
        """Begin to try it, where nothing is known yet."""
        if ahead not in self._proven:
            self.trials[ahead] = by
            self._look_at_overlap()

    def is_trying(self, ahead: Ahead, by: object) -> bool:
        """Whether ``by`` tries it, and the server has not answered in step yet."""
        return self.trials.get(ahead) is by

    def tries(self, by: object) -> bool:
        """Whether ``by`` tries anything."""
        return any(trying is by for trying in self.trials.values())

    def prove(self, ahead: Ahead, by: object) -> None:
        """The server has answered in step."""
        if self.is_trying(ahead, by):
            del self.trials[ahead]
            self._proven.add(ahead)
            self._look_at_overlap()

    def give_up(self, ahead: Ahead) -> None:
        """The server does not bear it."""
        self._broken.add(ahead)
        self.trials.pop(ahead, None)
        self._look_at_overlap()

    def leave(self, by: object) -> None:
        """End the trials of a connection that has ended without an answer, so that another may try."""
        self.trials = {ahead: trying for ahead, trying in self.trials.items() if trying is not by}
        self._look_at_overlap()

    def _look_at_overlap(self) -> None:
        self.bears_overlap = not self.trials and {Ahead.ENVELOPE, Ahead.OVERLAP} <= self._proven - self._broken
