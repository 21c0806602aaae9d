"""The mail transaction, from the reply to MAIL to the final reply, pipelined as far as server and account allow.

``off`` writes one command at a time; ``envelope`` writes MAIL, RCPT… and DATA at once; ``full`` writes the body of one
message and the envelope of the next at once (RFC 2920 §3.1), so that a busy connection needs one round trip a message.
At most two messages are under way, and the phase of each is known at every instant: whatever happens is judged by it.
"""

from __future__ import annotations

from prx_email_django.rules.outcomes import Outcome, Phase, Trouble
from prx_email_django.transports.base import SessionEnd
from prx_email_django.transports.smtp.commands import wire_form
from prx_email_django.transports.smtp.mail_transaction import MailTransaction
from prx_email_django.transports.smtp.replies import Loss, Reply, names_session
from prx_email_django.transports.smtp.session_state import SessionEnded, SessionState

#: Octets written at once; a body up to this size goes out together with the next envelope in one write.
PIECE = 65536


async def transact(state: SessionState, transaction: MailTransaction) -> None:
    """Bring one message to its end and report it.

    Its envelope has been written; of one that goes step by step, only MAIL.

    Raises:
        Over: the session ends by a reply.
        Broken: the connection ended; the message may be unreported yet.
    """
    for _ in transaction.before_mail:
        state.heed_reset(await state.protocol.reply())
    reply = await state.protocol.reply()
    if reply.code >= 300:
        await _sender_refused(state, transaction, reply)
        return
    state.on_trial = False
    await _name_recipients(state, transaction)
    if not transaction.accepted:
        await _all_refused(state, transaction)
    elif state.stepwise and not transaction.outgoing.may_continue():
        state.must_reset = True
        state.report(transaction, transaction.untouched(state.peer))
    else:
        await _data(state, transaction)


async def _name_recipients(state: SessionState, transaction: MailTransaction) -> None:
    transaction.phase = Phase.RCPT
    for command in transaction.rcpt:
        reply = await state.ask(command)
        if reply.code >= 300:
            if names_session(Phase.RCPT, reply):
                state.fail(transaction, reply)
            state.refusals += 1
        transaction.answered(reply)


async def _data(state: SessionState, transaction: MailTransaction) -> None:
    transaction.phase = Phase.DATA
    reply = await state.ask(b"DATA\r\n")
    if reply.code != 354:
        state.must_reset = True
        state.fail(transaction, reply)
    elif transaction.outgoing.may_write():
        await _body(state, transaction)
    else:
        # The server waits for the body and nothing else: only closing keeps it from delivering a part.
        state.report(transaction, transaction.untouched(state.peer))
        raise SessionEnded(SessionEnd(reconnect=True))


# Envelopes that come to nothing


async def _sender_refused(state: SessionState, transaction: MailTransaction, reply: Reply) -> None:
    state.fail(transaction, reply)
    state.on_trial = False
    if state.stepwise:
        return
    for _ in transaction.rcpt:
        reply = await state.protocol.reply()
        state.note(reply)
        if reply.code < 400:  # it may still have a sender: a lone dot would deliver an empty message
            raise SessionEnded(SessionEnd(reconnect=True, error=f"a recipient was taken without a sender: {reply}"))
    await _close_data(state)


async def _all_refused(state: SessionState, transaction: MailTransaction) -> None:
    state.must_reset = True
    outcome = transaction.refused(state.peer)
    state.report(transaction, outcome)
    _heed_quota(outcome)
    if not state.stepwise:
        await _close_data(state)


async def _close_data(state: SessionState) -> None:
    """Take the reply to a DATA that was written ahead in vain; after a 354 a lone dot delivers nothing."""
    reply = await state.protocol.reply()
    state.note(reply)
    if reply.code < 400 and reply.code != 354:
        raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
    if reply.code == 354:
        state.protocol.write(b".\r\n", 1)
        reply = await state.protocol.reply(state.deadline())
        state.note(reply)
        if 300 <= reply.code < 400:  # out of step: what belongs to the dot would answer the next MAIL
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
        state.must_reset = False


def _heed_quota(outcome: Outcome) -> None:
    if outcome.trouble is Trouble.QUOTA:
        error = outcome.error or "an answer to a recipient named the quota"
        raise SessionEnded(SessionEnd(trouble=Trouble.QUOTA, error_code="provider", error=error))


# The body


async def _body(state: SessionState, transaction: MailTransaction) -> None:
    """Write the body, and behind it the next envelope if there is one; take the final reply."""
    transaction.phase = Phase.BODY
    body = wire_form(transaction.outgoing.body)
    deadline = state.deadline(len(body))
    due = 1
    if len(body) > PIECE:
        # Never written twice.  Once it has left, nothing holds it: the final reply may take ten minutes.
        transaction.outgoing.body = b""
        body, due = await _upload(state, transaction, body, deadline), 0
    state.protocol.check()  # nothing is taken, and no overlap tried, that cannot be written any more
    ahead = state.look_ahead()
    if ahead is None:
        state.protocol.write(b"".join((body, b".\r\n")), due)
    else:
        behind = b"".join(ahead.commands)
        state.protocol.write(b"".join((body, b".\r\n", behind)), due + len(ahead.commands))
        ahead.written = True
        transaction.tail = len(behind)
    transaction.dot_written = True
    _finish(state, transaction, await state.protocol.reply(deadline))


async def _upload(state: SessionState, transaction: MailTransaction, body: bytes, deadline: float) -> bytes:
    """Write a large body piece by piece, as fast as the network takes it; returns the last piece, unwritten.

    Each piece is a copy: a view in the transport's buffer would keep the whole body.
    """
    at, due = 0, 1
    while len(body) - at > PIECE:
        state.protocol.write(body[at : at + PIECE], due)
        due = 0
        at += PIECE
        await state.protocol.room(deadline)
        if state.protocol.answered:
            await _answered_early(state, transaction)
    return body[at:]


async def _answered_early(state: SessionState, transaction: MailTransaction) -> None:
    """A reply before the end of the body: a refusal counts; anything else makes no sense.  Both end the session."""
    reply = await state.protocol.reply()
    if reply.code < 400:
        state.protocol.end(Loss("a reply before the end of the body", "provider"))
        state.protocol.check()
    state.fail(transaction, reply)
    raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))


def _finish(state: SessionState, transaction: MailTransaction, reply: Reply) -> None:
    if reply.code >= 300:
        state.fail(transaction, reply)
        return
    state.completed += 1
    outcome = transaction.taken(reply, state.peer)
    state.report(transaction, outcome)
    _heed_quota(outcome)
