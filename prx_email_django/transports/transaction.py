"""The mail transaction: one connection, many messages, pipelined as far as server and account allow (RFC 2920).

``off`` writes one command at a time; ``envelope`` writes MAIL, RCPT… and DATA at once; ``full`` writes the body of one
message and the envelope of the next at once, so that a busy connection needs one round trip a message.  At most two
messages are under way: the *current* one, the oldest with something unanswered, and the one *ahead*, whose envelope was
written behind the current one's body.  So the phase of each is known at every instant, and whatever happens is judged
by it (``replies.judge``, ``replies.judge_loss``).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from prx_email_django.outcomes import Ending, Outcome, Phase, Trouble
from prx_email_django.transports.base import Feed, Login, Parcel, SessionEnd
from prx_email_django.transports.envelope import Abilities, Unfit, envelope, wire_form
from prx_email_django.transports.flight import Flight
from prx_email_django.transports.replies import Loss, Reply, Verdict, judge, judge_loss, names_session
from prx_email_django.transports.wire import Broken, Wire

#: Messages that ``auto`` sends before it overlaps.
TRIAL_MESSAGES = 3
#: Refusals after which a connection is given up: from about there on Postfix slows down, and at twenty it hangs up.
MAX_REFUSALS = 10
#: Octets written at once; a body up to this size goes out together with the next envelope in one write.
PIECE = 65536
#: Octets a second that an upload must reach on average before its deadline passes.
MIN_RATE = 32768
#: Seconds for QUIT's reply and the closing of the socket together.
QUIT_TIMEOUT = 2.0


class _Over(Exception):
    """The session ends here; what was decided has been reported."""

    def __init__(self, end: SessionEnd) -> None:
        super().__init__(end.error)
        self.end = end


class SmtpSession:
    """``Session`` over an authenticated transport; takes the transport over for good."""

    def __init__(self, transport: asyncio.Transport, *, abilities: Abilities, login: Login, peer: str) -> None:
        self.peer = peer
        self.size_limit = abilities.size_limit
        self._abilities = abilities
        self._login = login
        self._level = login.pipelining if abilities.pipelining else "off"
        self._stepwise = self._level == "off"
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(transport, timeout=login.timeout)
        transport.set_protocol(self._wire)
        self._feed: Feed
        self._current: Flight | None = None
        self._ahead: Flight | None = None
        self._begun = 0
        self._completed = 0
        self._refusals = 0
        #: The server still holds an envelope that came to nothing: RSET goes before the next MAIL.
        self._must_reset = False
        self._overlaps = 0
        #: The first overlapped write is not fully answered yet.
        self._on_trial = False

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit what the feed gives until it ends, then QUIT and close.

        A cancellation closes at once, reports what was taken (unknown where a body was on its way, else untouched) and
        goes on upwards.
        """
        self._feed = feed
        try:
            end = await self._converse()
        except _Over as over:
            end = over.end
        except Broken as broken:
            end = self._lost(broken.loss)
        finally:
            self._give_up()
            self._wire.abort()
        return replace(end, completed=self._completed)

    def abort(self) -> None:
        """Close at once without flushing what is buffered; what is under way is reported as after a cancellation."""
        self._wire.abort()

    # From message to message

    async def _converse(self) -> SessionEnd:
        while True:
            if self._ahead is not None:
                self._current, self._ahead = self._ahead, None
            elif not await self._next():
                return await self._quit()
            assert self._current is not None
            await self._transact(self._current)

    async def _next(self) -> bool:
        """Start a message; False: there is nothing more for this connection."""
        while not self._retired():
            parcel = self._feed.take() or await self._idle()
            if parcel is None:
                return False
            self._current = flight = self._begin(parcel)
            if flight is None:
                continue
            if self._stepwise:
                self._wire.check()
            else:
                self._wire.write(b"".join(flight.commands), len(flight.commands))
            flight.written = True
            return True
        return False

    def _retired(self) -> bool:
        return self._begun >= self._login.max_messages or self._refusals >= MAX_REFUSALS

    def _begin(self, parcel: Parcel) -> Flight | None:
        """Judge a parcel just before its MAIL is written; None: it has been reported already."""
        flight = Flight(parcel, [])
        try:
            flight.commands = envelope(parcel, self._abilities)
        except Unfit as unfit:
            self._feed.report(parcel, flight.unfit(unfit, self.peer))
            return None
        if not parcel.may_write():
            self._feed.report(parcel, flight.untouched(self.peer))
            return None
        self._begun += 1
        if self._must_reset:
            self._must_reset = False
            flight.commands.insert(0, b"RSET\r\n")
        return flight

    def _look_ahead(self) -> bytes:
        """The envelope of the next message, if it may go behind the body that is about to be written."""
        overlap = self._level == "full" or (self._level == "auto" and self._completed >= TRIAL_MESSAGES)
        if not overlap or self._retired():
            return b""
        while (parcel := self._feed.take()) is not None:
            self._ahead = self._begin(parcel)
            if self._ahead is not None:
                self._overlaps += 1
                self._on_trial = self._overlaps == 1
                return b"".join(self._ahead.commands)
        return b""

    # One transaction

    async def _transact(self, flight: Flight) -> None:
        """From the reply to MAIL on."""
        *before, mail = flight.commands[: -1 - len(flight.parcel.recipients)]
        for command in before:
            await self._ask(command)
        reply = await self._ask(mail)
        if reply.code >= 300:
            await self._sender_refused(flight, reply)
            return
        self._on_trial = False
        await self._name_recipients(flight)
        if not flight.accepted:
            await self._all_refused(flight)
        elif self._stepwise and not flight.parcel.may_write():
            self._must_reset = True
            self._report(flight, flight.untouched(self.peer))
        else:
            flight.phase = Phase.DATA
            reply = await self._ask(b"DATA\r\n")
            if reply.code == 354:
                await self._body(flight)
            else:
                self._must_reset = True
                self._fail(flight, reply)

    async def _ask(self, command: bytes) -> Reply:
        """The reply to a command, which is written now only where nothing may be written ahead."""
        if self._stepwise:
            self._wire.write(command, 1)
        return await self._wire.reply()

    async def _sender_refused(self, flight: Flight, reply: Reply) -> None:
        self._fail(flight, reply)
        self._on_trial = False
        if self._stepwise:
            return
        for _ in flight.parcel.recipients:
            self._note(await self._wire.reply())
        await self._close_data()

    async def _name_recipients(self, flight: Flight) -> None:
        flight.phase = Phase.RCPT
        for command in flight.commands[-1 - len(flight.parcel.recipients) : -1]:
            reply = await self._ask(command)
            if reply.code >= 300:
                if names_session(Phase.RCPT, reply):
                    self._fail(flight, reply)
                self._refusals += 1
            flight.answered(reply)

    async def _all_refused(self, flight: Flight) -> None:
        self._must_reset = True
        outcome = flight.refused(self.peer)
        self._report(flight, outcome)
        if flight.quota:
            raise _Over(self._end(Verdict(outcome.ending, Trouble.QUOTA), outcome.error))
        if not self._stepwise:
            await self._close_data()

    async def _close_data(self) -> None:
        """Take the reply to a DATA that was written ahead in vain; after a 354 a lone dot delivers nothing."""
        reply = await self._wire.reply()
        self._note(reply)
        if reply.code == 354:
            self._wire.write(b".\r\n", 1)
            self._note(await self._wire.reply(self._loop.time() + self._login.final_timeout))
            self._must_reset = False

    async def _body(self, flight: Flight) -> None:
        if not flight.parcel.may_write():
            # The server waits for the body and nothing else: only closing keeps it from delivering a part.
            self._report(flight, flight.untouched(self.peer))
            raise _Over(SessionEnd(reconnect=True))
        flight.phase = Phase.BODY
        body = wire_form(flight.parcel.body)
        deadline = self._loop.time() + self._login.final_timeout + len(body) / MIN_RATE
        due = 1
        if len(body) > PIECE:
            body, due = await self._upload(flight, body, deadline), 0
        behind = self._look_ahead()
        ahead = self._ahead
        if ahead is not None:
            due += len(ahead.commands)
        self._wire.write(b"".join((body, b".\r\n", behind)), due)
        flight.dot_written, flight.tail = True, len(behind)
        if ahead is not None:
            ahead.written = True
        self._finish(flight, await self._wire.reply(deadline))

    async def _upload(self, flight: Flight, body: bytes, deadline: float) -> memoryview:
        """Write a large body piece by piece, as fast as the network takes it; returns the last piece unwritten."""
        view = memoryview(body)
        due = 1
        for start in range(0, len(body) - PIECE, PIECE):
            self._wire.write(view[start : start + PIECE], due)
            due = 0
            await self._wire.room(deadline)
            if self._wire.answered:
                await self._answered_early(flight)
        return view[start + PIECE :]

    async def _answered_early(self, flight: Flight) -> None:
        """A reply before the end of the body: a refusal counts; anything else makes no sense.  Both end the session."""
        reply = await self._wire.reply()
        if reply.code < 400:
            self._wire.end(Loss("a reply before the end of the body", "provider"))
            self._wire.check()
        self._fail(flight, reply)
        raise _Over(SessionEnd(reconnect=True, error=str(reply)))

    def _finish(self, flight: Flight, reply: Reply) -> None:
        """The final reply."""
        if reply.code < 300:
            self._completed += 1
            outcome = flight.taken(reply, self.peer)
            self._report(flight, outcome)
            if flight.quota:
                raise _Over(self._end(Verdict(outcome.ending, Trouble.QUOTA), "a recipient's answer named the quota"))
            return
        if reply.code >= 400 and reply.code != 421:
            self._completed += 1
        self._fail(flight, reply)

    # Endings

    def _report(self, flight: Flight, outcome: Outcome) -> None:
        if flight is self._current:
            self._current = None
        self._feed.report(flight.parcel, outcome)

    def _fail(self, flight: Flight, reply: Reply) -> None:
        """Report a message that a reply ended; raises ``_Over`` if the session ends by it."""
        verdict = judge(flight.phase, reply, completed=self._completed > 0)
        self._refusals += 1
        self._report(flight, flight.failed(verdict, reply, self.peer))
        if verdict.over:
            end = self._end(verdict, str(reply))
            raise _Over(replace(end, overlap_lost=self._on_trial and verdict.muddled and reply.code != 421))

    def _note(self, reply: Reply) -> None:
        """A reply that decides nothing any more."""
        if reply.code >= 400:
            self._refusals += 1
        if reply.code == 421:
            raise _Over(SessionEnd(reconnect=True, error=str(reply)))

    def _end(self, verdict: Verdict, error: str) -> SessionEnd:
        quiet = verdict.trouble is Trouble.NONE
        return SessionEnd(reconnect=quiet, trouble=verdict.trouble, error_code=verdict.error_code, error=error)

    def _lost(self, loss: Loss) -> SessionEnd:
        """The connection ended without a reply: judge the current message, and say what it means for the account."""
        trouble = Trouble.NONE if self._completed or loss.ours else Trouble.CONNECTION
        flight = self._current
        if flight is not None:
            verdict = judge_loss(
                flight.phase,
                loss,
                completed=self._completed > 0,
                dot_written=self._dot_may_have_left(flight),
                behind=not flight.written,
            )
            self._report(flight, flight.lost(verdict, loss.text, self.peer))
            if verdict.trouble is not Trouble.NONE:
                trouble = verdict.trouble
        return SessionEnd(
            reconnect=trouble is Trouble.NONE and not loss.ours,
            trouble=trouble,
            error_code=loss.error_code,
            error=loss.text,
            overlap_lost=self._on_trial and not loss.ours,
        )

    def _dot_may_have_left(self, flight: Flight) -> bool:
        return flight.dot_written and self._wire.unsent() <= flight.tail

    def _give_up(self) -> None:
        """Report what is still under way: after a cancellation, and the message ahead of one that ended the session."""
        error = self._wire.broken.loss.text if self._wire.broken else ""
        current, ahead = self._current, self._ahead
        if current is not None:
            if self._dot_may_have_left(current):
                verdict = Verdict(Ending.UNKNOWN, error_code="unknown_outcome")
                self._report(current, current.lost(verdict, "cut off by us", self.peer))
            else:
                self._report(current, current.untouched(self.peer, "cut off by us"))
        if ahead is not None:
            self._ahead = None
            self._report(ahead, ahead.untouched(self.peer, error))

    # Waiting and leaving

    async def _idle(self) -> Parcel | None:
        """Wait for a parcel, or for the server to hang up.

        Raises:
            Broken: the connection ended; a parcel that came at the same moment is reported untouched.
        """
        self._wire.check()
        waiting = asyncio.ensure_future(self._feed.wait())
        try:
            await asyncio.wait({waiting, self._wire.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._wire.broken is not None or not waiting.done():
                waiting.cancel()
                waiting.add_done_callback(self._give_back)
        if self._wire.broken is not None:
            await asyncio.wait({waiting})
            raise self._wire.broken
        return waiting.result()

    def _give_back(self, waiting: asyncio.Future[Parcel | None]) -> None:
        parcel = None if waiting.cancelled() else waiting.result()
        if parcel is not None:
            self._feed.report(parcel, Flight(parcel, []).untouched(self.peer, "the connection ended"))

    async def _quit(self) -> SessionEnd:
        """QUIT, its reply, close: within two seconds."""
        with contextlib.suppress(TimeoutError, Broken):
            async with asyncio.timeout(QUIT_TIMEOUT):
                self._wire.write(b"QUIT\r\n", 1)
                await self._wire.reply()
                await self._wire.close()
        return SessionEnd(reconnect=self._retired())
