"""Sessions without a network, judged by the same rules as real ones: what ``memory`` and ``console`` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from prx_email_django.outcomes import Outcome, Phase, Trouble
from prx_email_django.transports.base import Feed, Login, Parcel, SessionEnd
from prx_email_django.transports.envelope import Abilities, Unfit, envelope
from prx_email_django.transports.flight import Flight, end_of
from prx_email_django.transports.replies import Loss, Reply, judge, judge_loss, names_session
from prx_email_django.transports.script import Failure, Script
from prx_email_django.transports.waiting import next_parcel

_OK = Reply(250, [b"2.0.0 ok"])
_TAKEN = Reply(250, [b"2.0.0 taken"])

#: Takes a message for those of its recipients that were accepted.
Deliver = Callable[[Parcel, tuple[str, ...]], None]


class LocalSession:
    """``Session`` that hands each message to a function."""

    def __init__(self, *, deliver: Deliver, login: Login, abilities: Abilities, script: Script, peer: str) -> None:
        self.peer = peer
        self.size_limit = abilities.size_limit
        self._deliver = deliver
        self._abilities = abilities
        self._script = script
        self._left = login.max_messages
        self._completed = 0
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, feed: Feed) -> SessionEnd:
        """Hand on what the feed gives until it ends; never raises (but CancelledError)."""
        end = None
        while end is None:
            end = await self._next(feed)
        return replace(end, completed=self._completed)

    def abort(self) -> None:
        """End before the next message."""
        if not self._aborted.done():
            self._aborted.set_result(None)

    async def _next(self, feed: Feed) -> SessionEnd | None:
        if self._left <= 0:
            return SessionEnd(reconnect=True)
        parcel = None if self._aborted.done() else feed.take()
        if parcel is None:
            parcel = await next_parcel(feed, self._aborted, peer=self.peer)
        if parcel is None:
            return SessionEnd(error="closed by us" if self._aborted.done() else "")
        outcome, end = self._transmit(parcel)
        feed.report(parcel, outcome)
        # As on a real connection, others get their turn between two messages.
        await asyncio.sleep(0)
        return end

    def _transmit(self, parcel: Parcel) -> tuple[Outcome, SessionEnd | None]:
        flight = Flight(parcel)
        try:
            envelope(parcel, self._abilities)
        except Unfit as unfit:
            return flight.unfit(unfit, self.peer), None
        if not parcel.may_write():
            return flight.untouched(self.peer), None
        self._left -= 1
        flight.written = True
        for step in (self._mail, self._rcpt, self._data, self._body):
            result = step(flight)
            if result is not None:
                return result
        self._deliver(parcel, flight.taken_addresses())
        self._completed += 1
        outcome = flight.taken(_TAKEN, self.peer)
        return outcome, SessionEnd(trouble=Trouble.QUOTA, error_code="provider") if flight.quota else None

    def _mail(self, flight: Flight) -> tuple[Outcome, SessionEnd | None] | None:
        return self._scripted(flight, Phase.MAIL)

    def _rcpt(self, flight: Flight) -> tuple[Outcome, SessionEnd | None] | None:
        result = self._scripted(flight, Phase.RCPT)
        if result is not None:
            return result
        for address in flight.parcel.recipients:
            reply = self._script.answer(address) or _OK
            if reply.code >= 300 and names_session(Phase.RCPT, reply):
                return self._failed(flight, Failure(Phase.RCPT, reply))
            flight.answered(reply)
        if flight.accepted:
            return None
        outcome = flight.refused(self.peer)
        quota = SessionEnd(trouble=Trouble.QUOTA, error_code="provider", error=outcome.error)
        return outcome, quota if flight.quota else None

    def _data(self, flight: Flight) -> tuple[Outcome, SessionEnd | None] | None:
        return self._scripted(flight, Phase.DATA)

    def _body(self, flight: Flight) -> tuple[Outcome, SessionEnd | None] | None:
        if not flight.parcel.may_write():
            return flight.untouched(self.peer), SessionEnd(reconnect=True)
        return self._scripted(flight, Phase.BODY)

    def _scripted(self, flight: Flight, phase: Phase) -> tuple[Outcome, SessionEnd | None] | None:
        flight.phase = phase
        failure = self._script.take(phase)
        return None if failure is None else self._failed(flight, failure)

    def _failed(self, flight: Flight, failure: Failure) -> tuple[Outcome, SessionEnd | None]:
        completed = self._completed > 0
        if failure.accept:
            self._deliver(flight.parcel, flight.taken_addresses())
        if failure.reply is None:
            loss = Loss(failure.text, "timeout" if failure.timeout else "network", hung_up=not failure.timeout)
            verdict = judge_loss(flight.phase, loss, completed=completed, dot_written=True)
            return flight.lost(verdict, loss.text, self.peer), end_of(verdict, loss.text)
        if flight.phase is Phase.BODY and failure.reply.code != 421:
            self._completed += 1
        verdict = judge(flight.phase, failure.reply, completed=completed)
        outcome = flight.failed(verdict, failure.reply, self.peer)
        return outcome, end_of(verdict, str(failure.reply)) if verdict.over else None
