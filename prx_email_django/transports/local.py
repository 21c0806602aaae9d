"""Sessions without a network, judged by the same rules as real ones: what ``memory`` and ``console`` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from prx_email_django.rules.outcomes import Outcome, Phase, Trouble
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.scripted import Failure, Script
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage, envelope
from prx_email_django.transports.smtp.mail_transaction import MailTransaction, end_of
from prx_email_django.transports.smtp.replies import Loss, Reply, judge, judge_loss, names_session
from prx_email_django.transports.waiting import next_message

_OK = Reply(250, [b"2.0.0 ok"])
_TAKEN = Reply(250, [b"2.0.0 taken"])

#: Takes a message for those of its recipients that were accepted.
Deliver = Callable[[OutgoingMessage, tuple[str, ...]], None]


class LocalSession:
    """``Session`` that hands each message to a function."""

    def __init__(
        self, *, deliver: Deliver, settings: ConnectionSettings, extensions: Extensions, script: Script, peer: str
    ) -> None:
        self.peer = peer
        self.size_limit = extensions.size_limit
        self._deliver = deliver
        self._extensions = extensions
        self._script = script
        self._left = settings.max_messages
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
        outgoing = None if self._aborted.done() else feed.take()
        if outgoing is None:
            outgoing = await next_message(feed, self._aborted, peer=self.peer)
        if outgoing is None:
            return SessionEnd(error="closed by us" if self._aborted.done() else "")
        outcome, end = self._transmit(outgoing)
        feed.report(outgoing, outcome)
        # As on a real connection, others get their turn between two messages.
        await asyncio.sleep(0)
        return end

    def _transmit(self, outgoing: OutgoingMessage) -> tuple[Outcome, SessionEnd | None]:
        transaction = MailTransaction(outgoing)
        try:
            envelope(outgoing, self._extensions)
        except UnsupportedMessage as unsupported:
            return transaction.unsupported(unsupported, self.peer), None
        if not outgoing.may_write():
            return transaction.untouched(self.peer), None
        self._left -= 1
        transaction.written = True
        for step in (self._mail, self._rcpt, self._data, self._body):
            result = step(transaction)
            if result is not None:
                return result
        self._deliver(outgoing, transaction.taken_addresses())
        self._completed += 1
        outcome = transaction.taken(_TAKEN, self.peer)
        return outcome, SessionEnd(trouble=Trouble.QUOTA, error_code="provider") if transaction.quota else None

    def _mail(self, transaction: MailTransaction) -> tuple[Outcome, SessionEnd | None] | None:
        return self._scripted(transaction, Phase.MAIL)

    def _rcpt(self, transaction: MailTransaction) -> tuple[Outcome, SessionEnd | None] | None:
        result = self._scripted(transaction, Phase.RCPT)
        if result is not None:
            return result
        for address in transaction.outgoing.recipients:
            reply = self._script.answer(address) or _OK
            if reply.code >= 300 and names_session(Phase.RCPT, reply):
                return self._failed(transaction, Failure(Phase.RCPT, reply))
            transaction.answered(reply)
        if transaction.accepted:
            return None
        outcome = transaction.refused(self.peer)
        quota = SessionEnd(trouble=Trouble.QUOTA, error_code="provider", error=outcome.error)
        return outcome, quota if transaction.quota else None

    def _data(self, transaction: MailTransaction) -> tuple[Outcome, SessionEnd | None] | None:
        return self._scripted(transaction, Phase.DATA)

    def _body(self, transaction: MailTransaction) -> tuple[Outcome, SessionEnd | None] | None:
        if not transaction.outgoing.may_write():
            return transaction.untouched(self.peer), SessionEnd(reconnect=True)
        return self._scripted(transaction, Phase.BODY)

    def _scripted(self, transaction: MailTransaction, phase: Phase) -> tuple[Outcome, SessionEnd | None] | None:
        transaction.phase = phase
        failure = self._script.take(phase)
        return None if failure is None else self._failed(transaction, failure)

    def _failed(self, transaction: MailTransaction, failure: Failure) -> tuple[Outcome, SessionEnd | None]:
        completed = self._completed > 0
        if failure.accept:
            self._deliver(transaction.outgoing, transaction.taken_addresses())
        if failure.reply is None:
            loss = Loss(failure.text, "timeout" if failure.timeout else "network", hung_up=not failure.timeout)
            verdict = judge_loss(transaction.phase, loss, completed=completed, dot_written=True)
            return transaction.lost(verdict, loss.text, self.peer), end_of(verdict, loss.text)
        if transaction.phase is Phase.BODY and failure.reply.code != 421:
            self._completed += 1
        verdict = judge(transaction.phase, failure.reply, completed=completed)
        outcome = transaction.failed(verdict, failure.reply, self.peer)
        return outcome, end_of(verdict, str(failure.reply)) if verdict.over else None
