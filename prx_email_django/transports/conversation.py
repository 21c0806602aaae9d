"""What one connection is in the middle of: the messages under way, what was counted, and how they are reported."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from prx_email_django.outcomes import Outcome, Phase
from prx_email_django.transports.base import Feed, Login, Parcel, SessionEnd
from prx_email_django.transports.envelope import Abilities, Unfit, envelope
from prx_email_django.transports.flight import Flight, end_of
from prx_email_django.transports.replies import Reply, judge
from prx_email_django.transports.wire import Wire

#: Messages that ``auto`` sends before it overlaps.
TRIAL_MESSAGES = 3
#: Refusals after which a connection is given up: from about there on Postfix slows down, and at twenty it hangs up.
MAX_REFUSALS = 10
#: Octets a second that an upload must reach on average before its deadline passes.
MIN_RATE = 32768


class Over(Exception):
    """The session ends here; what was decided has been reported."""

    def __init__(self, end: SessionEnd) -> None:
        super().__init__(end.error)
        self.end = end


class Conversation:
    """State of one connection from its first message to its end."""

    def __init__(self, wire: Wire, *, abilities: Abilities, login: Login, peer: str) -> None:
        self.wire = wire
        self.login = login
        self.peer = peer
        self.feed: Feed
        self._abilities = abilities
        self._level = login.pipelining if abilities.pipelining else "off"
        #: One command at a time.
        self.stepwise = self._level == "off"
        #: The oldest message with something unanswered, and the one whose envelope was written behind its body.
        self.current: Flight | None = None
        self.ahead: Flight | None = None
        self.begun = 0
        #: Transactions that ended with a final reply.
        self.completed = 0
        self.refusals = 0
        #: The server still holds an envelope that came to nothing: RSET goes before the next MAIL.
        self.must_reset = False
        self._overlaps = 0
        #: The first overlapped write is not fully answered yet.
        self.on_trial = False

    @property
    def retired(self) -> bool:
        """Whether the next message belongs on a fresh connection."""
        return self.begun >= self.login.max_messages or self.refusals >= MAX_REFUSALS

    def begin(self, parcel: Parcel) -> Flight | None:
        """Judge a parcel just before its MAIL is written; None: it has been reported already."""
        flight = Flight(parcel)
        try:
            flight.commands = envelope(parcel, self._abilities)
        except Unfit as unfit:
            self.feed.report(parcel, flight.unfit(unfit, self.peer))
            return None
        if not parcel.may_write():
            self.feed.report(parcel, flight.untouched(self.peer))
            return None
        self.begun += 1
        if self.must_reset:
            self.must_reset = False
            flight.commands.insert(0, b"RSET\r\n")
        return flight

    def look_ahead(self) -> Flight | None:
        """The next message, if its envelope may go behind the body that is about to be written."""
        overlap = self._level == "full" or (self._level == "auto" and self.completed >= TRIAL_MESSAGES)
        if not overlap or self.retired:
            return None
        while self.ahead is None and (parcel := self.feed.take()) is not None:
            self.ahead = self.begin(parcel)
        if self.ahead is not None:
            self._overlaps += 1
            self.on_trial = self._overlaps == 1
        return self.ahead

    async def ask(self, command: bytes) -> Reply:
        """The reply to a command, which is written now only where nothing may be written ahead."""
        if self.stepwise:
            self.wire.write(command, 1)
        return await self.wire.reply()

    async def reset(self) -> None:
        """RSET where one goes step by step: before a parcel is taken, so that MAIL follows its judgement at once."""
        if self.stepwise and self.must_reset:
            self.must_reset = False
            self.heed_reset(await self.ask(b"RSET\r\n"))

    def heed_reset(self, reply: Reply) -> None:
        """Go on after RSET's 2yz.

        Raises:
            Over: the server may still have recipients of before; the message behind RSET is released.
        """
        if reply.code < 300:
            return
        if self.current is not None:
            self.report(self.current, self.current.untouched(self.peer, str(reply)))
        raise Over(SessionEnd(reconnect=True, error=str(reply)))

    def deadline(self, octets: int = 0) -> float:
        """When the final reply to a body of so many octets must be there, in the loop's time."""
        return asyncio.get_running_loop().time() + self.login.final_timeout + octets / MIN_RATE

    # Reporting

    def report(self, flight: Flight, outcome: Outcome) -> None:
        """Report a message: it is under way no more."""
        if flight is self.current:
            self.current = None
        elif flight is self.ahead:
            self.ahead = None
        self.feed.report(flight.parcel, outcome)

    def fail(self, flight: Flight, reply: Reply) -> None:
        """Report a message that a reply ended.

        Raises:
            Over: the reply ends the session too.
        """
        verdict = judge(flight.phase, reply, completed=self.completed > 0)
        self.refusals += 1
        if flight.phase is Phase.BODY and reply.code >= 400 and reply.code != 421:
            self.completed += 1
        self.report(flight, flight.failed(verdict, reply, self.peer))
        if verdict.over:
            muddled = self.on_trial and verdict.muddled and reply.code != 421
            raise Over(replace(end_of(verdict, str(reply)), overlap_lost=muddled))

    def note(self, reply: Reply) -> None:
        """Count a reply that decides nothing any more.

        Raises:
            Over: it is a 421.
        """
        if reply.code >= 400:
            self.refusals += 1
        if reply.code == 421:
            raise Over(SessionEnd(reconnect=True, error=str(reply)))
