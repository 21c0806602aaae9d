"""Session without a network, for ``memory`` and ``console``; it judges replies as an SMTP session does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prx_email_django.rules.outcomes import Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import ConnectionSettings, Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.scripted import Failure, Script
from prx_email_django.transports.smtp.commands import Extensions, UnsupportedMessage
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import Loss, is_about_session, judge_loss, judge_reply
from prx_email_django.transports.smtp.transaction_state import MailTransaction, session_end

_OK = Reply(250, [b"2.0.0 ok"])
_ACCEPTED = Reply(250, [b"2.0.0 accepted"])

#: Delivers a message to its accepted recipients.
Deliver = Callable[[OutgoingMessage, tuple[str, ...]], None]
#: The outcome of a message, and the end of the session if the session ends with it.
_Result = tuple[Outcome, SessionEnd | None]


class LocalSession:
    """``Session`` that passes each accepted message to a function."""

    def __init__(
        self, *, deliver: Deliver, settings: ConnectionSettings, extensions: Extensions, script: Script, peer: str
    ) -> None:
        self.peer = peer
        self.size_limit = extensions.size_limit
        self._deliver = deliver
        self._extensions = extensions
        self._script = script
        self._remaining = settings.max_messages
        #: Whether a transaction has ended with a final reply.
        self._completed = False
        self._aborted = False
        #: The feed has changed, or the session was aborted.
        self._changed = asyncio.Event()

    async def run(self, feed: Feed) -> SessionEnd:
        """Transmit the messages of the feed until it ends.  Raises only ``CancelledError``."""
        while True:
            end = await self._transmit_next(feed)
            if end is not None:
                return end

    def abort(self) -> None:
        """End before the next message."""
        self._aborted = True
        self._changed.set()

    async def _transmit_next(self, feed: Feed) -> SessionEnd | None:
        if self._remaining <= 0:
            return SessionEnd(reconnect=True)
        outgoing = await self._next(feed)
        if outgoing is None:
            return SessionEnd(error="closed by us" if self._aborted else "")
        outcome, end = self._transmit(outgoing)
        feed.report(outgoing, outcome)
        # Other tasks run between two messages, as they do with a real connection.
        await asyncio.sleep(0)
        return end

    async def _next(self, feed: Feed) -> OutgoingMessage | None:
        while not self._aborted:
            self._changed.clear()
            outgoing = feed.take_or_listen(self._changed.set)
            if outgoing is not None or feed.is_over:
                return outgoing
            await self._changed.wait()
        return None

    def _transmit(self, outgoing: OutgoingMessage) -> _Result:
        transaction = MailTransaction(outgoing, self.peer)
        try:
            transaction.prepare(self._extensions)
        except UnsupportedMessage as unsupported:
            return transaction.unsupported(unsupported), None
        if not outgoing.may_write():
            return transaction.untouched(), None
        self._remaining -= 1
        transaction.mail_written = True
        for step in (self._mail, self._rcpt, self._data, self._body):
            result = step(transaction)
            if result is not None:
                return result
        self._deliver(outgoing, transaction.accepted_recipients())
        self._completed = True
        outcome = transaction.accepted(_ACCEPTED)
        return outcome, SessionEnd(
            trouble=Trouble.QUOTA, error_code=ErrorCode.PROVIDER
        ) if transaction.quota_exceeded else None

    def _mail(self, transaction: MailTransaction) -> _Result | None:
        return self._scripted(transaction, Phase.MAIL)

    def _rcpt(self, transaction: MailTransaction) -> _Result | None:
        result = self._scripted(transaction, Phase.RCPT)
        if result is not None:
            return result
        for address in transaction.recipients:
            reply = self._script.answer(address) or _OK
            if reply.code >= 300 and is_about_session(reply):
                return self._failed(transaction, Failure(Phase.RCPT, reply))
            transaction.add_answer(reply)
        if transaction.any_accepted:
            return None
        outcome = transaction.all_refused()
        quota = SessionEnd(trouble=Trouble.QUOTA, error_code=ErrorCode.PROVIDER, error=outcome.error)
        return outcome, quota if transaction.quota_exceeded else None

    def _data(self, transaction: MailTransaction) -> _Result | None:
        return self._scripted(transaction, Phase.DATA)

    def _body(self, transaction: MailTransaction) -> _Result | None:
        if not transaction.outgoing.may_write():
            return transaction.untouched(), SessionEnd(reconnect=True)
        return self._scripted(transaction, Phase.BODY)

    def _scripted(self, transaction: MailTransaction, phase: Phase) -> _Result | None:
        transaction.phase = phase
        failure = self._script.take(phase)
        return None if failure is None else self._failed(transaction, failure)

    def _failed(self, transaction: MailTransaction, failure: Failure) -> _Result:
        completed = self._completed
        if failure.accept:
            self._deliver(transaction.outgoing, transaction.accepted_recipients())
        if failure.reply is None:
            loss = Loss(
                failure.text,
                ErrorCode.TIMEOUT if failure.timeout else ErrorCode.NETWORK,
                closed_by_server=not failure.timeout,
            )
            verdict = judge_loss(transaction.phase, loss, completed=completed, dot_written=True)
            return transaction.lost(verdict, loss.text), session_end(verdict, loss.text)
        if transaction.phase is Phase.BODY and failure.reply.code != 421:
            self._completed = True
        verdict = judge_reply(transaction.phase, failure.reply, completed=completed)
        outcome = transaction.failed(verdict, failure.reply)
        return outcome, session_end(verdict, str(failure.reply)) if verdict.ends_session else None
