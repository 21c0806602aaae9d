"""One connection's life with messages: take, transmit, wait, and end in one of the ways that can happen."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from prx_email_django.outcomes import Ending, Trouble
from prx_email_django.transports.base import Feed, Login, Parcel, SessionEnd
from prx_email_django.transports.conversation import Conversation, Over
from prx_email_django.transports.envelope import Abilities
from prx_email_django.transports.flight import Flight
from prx_email_django.transports.replies import Loss, Verdict, judge_loss
from prx_email_django.transports.transaction import transact
from prx_email_django.transports.waiting import next_parcel
from prx_email_django.transports.wire import Broken, Wire

#: Seconds for QUIT's reply and the closing of the socket together.
QUIT_TIMEOUT = 2.0


class SmtpSession:
    """``Session`` over an authenticated transport; takes the transport over for good."""

    def __init__(self, transport: asyncio.Transport, *, abilities: Abilities, login: Login, peer: str) -> None:
        self.peer = peer
        self.size_limit = abilities.size_limit
        self._wire = Wire(transport, timeout=login.timeout)
        self._talk = Conversation(self._wire, abilities=abilities, login=login, peer=peer)
        transport.set_protocol(self._wire)

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit what the feed gives until it ends, then QUIT and close.

        A cancellation closes at once, reports what was taken (unknown where a body was on its way, else untouched) and
        goes on upwards.
        """
        self._talk.feed = feed
        try:
            end = await self._converse()
        except Over as over:
            end = over.end
        except Broken as broken:
            end = self._lost(broken.loss)
        finally:
            self._give_up()
            self._wire.abort()
        return replace(end, completed=self._talk.completed)

    def abort(self) -> None:
        """Close at once without flushing what is buffered; what is under way is reported as after a cancellation."""
        self._wire.abort()

    async def _converse(self) -> SessionEnd:
        talk = self._talk
        while True:
            flight = talk.ahead or await self._next()
            if flight is None:
                return await self._quit()
            talk.current, talk.ahead = flight, None
            await transact(talk, flight)

    async def _next(self) -> Flight | None:
        """Start a message; None: there is nothing more for this connection."""
        talk = self._talk
        while not talk.retired:
            self._wire.check()
            await talk.reset()
            parcel = talk.feed.take() or await self._wait()
            if parcel is None:
                return None
            talk.current = flight = talk.begin(parcel)
            if flight is not None:
                self._launch(flight)
                return flight
        return None

    def _launch(self, flight: Flight) -> None:
        """Write the envelope, or where one goes step by step its MAIL; what cannot be written was never begun."""
        commands = [flight.mail] if self._talk.stepwise else flight.commands
        self._wire.write(b"".join(commands), len(commands))
        flight.written = True

    async def _wait(self) -> Parcel | None:
        """Wait for a parcel.

        Raises:
            Broken: the connection ended first.
        """
        parcel = await next_parcel(self._talk.feed, self._wire.ended, peer=self.peer)
        if parcel is None:
            self._wire.check()
        return parcel

    # Endings

    async def _quit(self) -> SessionEnd:
        """QUIT, its reply, close: within two seconds."""
        with contextlib.suppress(TimeoutError, Broken):
            async with asyncio.timeout(QUIT_TIMEOUT):
                self._wire.write(b"QUIT\r\n", 1)
                await self._wire.reply()
                await self._wire.close()
        return SessionEnd(reconnect=self._talk.retired)

    def _lost(self, loss: Loss) -> SessionEnd:
        """The connection ended without a reply: judge the current message, and say what it means for the account."""
        talk = self._talk
        completed = talk.completed > 0
        trouble = Trouble.NONE if completed or loss.ours else Trouble.CONNECTION
        flight = talk.current
        if flight is not None:
            dot = self._dot_may_have_left(flight)
            verdict = judge_loss(flight.phase, loss, completed=completed, dot_written=dot, behind=not flight.written)
            talk.report(flight, flight.lost(verdict, loss.text, self.peer))
            if verdict.trouble is not Trouble.NONE:
                trouble = verdict.trouble
        return SessionEnd(
            reconnect=trouble is Trouble.NONE and not loss.ours,
            trouble=trouble,
            error_code=loss.error_code,
            error=loss.text,
            overlap_lost=talk.on_trial and not loss.ours,
        )

    def _dot_may_have_left(self, flight: Flight) -> bool:
        """Whether the server may have the whole body: not if its end is still in the transport's own buffer."""
        return flight.dot_written and self._wire.unsent() <= flight.tail

    def _give_up(self) -> None:
        """Report what is still under way: after a cancellation, and the message ahead of one that ended the session."""
        current, ahead = self._talk.current, self._talk.ahead
        if current is not None and self._dot_may_have_left(current):
            verdict = Verdict(Ending.UNKNOWN, error_code="unknown_outcome")
            self._talk.report(current, current.lost(verdict, "cut off by us", self.peer))
        elif current is not None:
            self._talk.report(current, current.untouched(self.peer, "cut off by us"))
        if ahead is not None:
            self._talk.report(ahead, ahead.untouched(self.peer, "the connection ended"))
