"""What the connections of one account have found out about their server, shared among them within one drain."""

from __future__ import annotations

from enum import StrEnum


class Ahead(StrEnum):
    """What is written ahead of the server's replies (RFC 2920)."""

    #: RCPT and DATA, before MAIL is answered.
    ENVELOPE = "envelope"
    #: The envelope of the next message, behind a body that is not answered.
    OVERLAP = "full"


class FoundOut:
    """Used on the network's thread only.

    A way of writing ahead is tried by one connection; the others do without it until the server has answered that
    connection in step.  So a server that does not bear it costs an account one broken connection, not one for each.
    """

    def __init__(self) -> None:
        self._proven: set[Ahead] = set()
        self._broken: set[Ahead] = set()
        #: Who is trying what.
        self._trials: dict[Ahead, object] = {}
        #: Recipients that the server takes in one transaction; 0: no limit was met.
        self.max_recipients = 0

    def may_use(self, ahead: Ahead, by: object) -> bool:
        """Whether ``by`` may write ahead, or begin to try it."""
        return ahead not in self._broken and (ahead in self._proven or self._trials.get(ahead, by) is by)

    def use(self, ahead: Ahead, by: object) -> None:
        """Begin to try it, where nothing is known yet."""
        if ahead not in self._proven:
            self._trials[ahead] = by

    def is_trying(self, ahead: Ahead, by: object) -> bool:
        """Whether ``by`` tries it, and the server has not answered in step yet."""
        return self._trials.get(ahead) is by

    def prove(self, ahead: Ahead, by: object) -> None:
        """The server has answered in step."""
        if self.is_trying(ahead, by):
            del self._trials[ahead]
            self._proven.add(ahead)

    def give_up(self, ahead: Ahead) -> None:
        """The server does not bear it."""
        self._broken.add(ahead)
        self._trials.pop(ahead, None)

    def leave(self, by: object) -> None:
        """End the trials of a connection that has ended without an answer, so that another may try."""
        self._trials = {ahead: trying for ahead, trying in self._trials.items() if trying is not by}
