"""Mail transaction (RFC 5321 §3.3): the procedure from MAIL to the final reply, pipelined as far as possible.

Pipelining levels: ``off`` writes one command at a time; ``envelope`` writes MAIL, RCPT… and DATA at once; ``full``
writes the body of one message and the envelope of the next at once (RFC 2920 §3.1), so that a busy connection needs
one round trip a message.  At most two messages are under way, and the phase of each is always known: a failure is
judged by that phase.

State of the message, and its outcomes: ``transaction_state``.
"""

from __future__ import annotations

import math
from functools import partial

from prx_email_django.rules.outcomes import Answer, Outcome, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.commands import dot_stuffed
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import Loss, is_about_session, recipient_answer
from prx_email_django.transports.smtp.session_state import SessionEnded, SessionState
from prx_email_django.transports.smtp.transaction_state import MailTransaction

#: Bytes written at once; a body up to this size and the next envelope go in one write.
CHUNK_SIZE = 65536
_BODY = Phase.BODY


async def transact(state: SessionState, transaction: MailTransaction) -> None:
    """Transmit one message and report its outcome, and those behind it as long as every reply is the usual one.

    Its envelope has been written already; where commands go one at a time, only MAIL.

    Raises:
        SessionEnded: a reply ended the session.
        ConnectionLost: the connection ended; the message may not be reported yet.
    """
    if not (transaction.stepwise or state.tries_ahead):
        await state.protocol.go_on_while(partial(_go_on, state))
        if state.current is None:
            return
        transaction = state.current
        if transaction.phase is Phase.BODY:
            _finish(state, transaction, await state.protocol.reply(state.body_deadline))
            return
    for _ in transaction.before_mail:
        state.check_reset(await state.protocol.reply())
    reply = await state.reply_to(transaction)
    if reply.code >= 300:
        await _sender_refused(state, transaction, reply)
        return
    state.found.prove(Ahead.OVERLAP, state)
    await _send_recipients(state, transaction)
    if not transaction.any_accepted:
        await _recipients_refused(state, transaction)
    elif transaction.stepwise and not transaction.outgoing.may_continue():
        state.must_reset = True
        state.report(transaction, transaction.untouched())
    else:
        await _data(state, transaction)


async def _send_recipients(state: SessionState, transaction: MailTransaction) -> None:
    transaction.phase = Phase.RCPT
    for command in transaction.rcpt:
        reply = await state.ask(transaction, command)
        if reply.code >= 300:
            logged_in = state.settings.auth_method != "none"
            if is_about_session(reply, logged_in=logged_in) or state.is_ahead_refused(transaction, reply):
                state.fail(transaction, reply)
            # "Too many" is progress: with ten refusals, a thousand recipients would take a hundred connections.
            state.refusals += recipient_answer(reply) is not Answer.TOO_MANY
        transaction.add_answer(reply)
    if transaction.any_refused and (taken := transaction.recipients_taken()):
        state.found.max_recipients = taken


async def _data(state: SessionState, transaction: MailTransaction) -> None:
    transaction.phase = Phase.DATA
    reply = await state.ask(transaction, b"DATA\r\n")
    if reply.code == 354:
        state.found.prove(Ahead.ENVELOPE, state)
    if reply.code != 354:
        state.must_reset = True
        state.fail(transaction, reply)
    elif transaction.outgoing.may_write():
        await _body(state, transaction)
    else:
        # The server waits for the body and accepts nothing else: only closing prevents that it delivers a part.
        state.report(transaction, transaction.untouched())
        raise SessionEnded(SessionEnd(reconnect=True))


def write_envelope(state: SessionState, transaction: MailTransaction) -> None:
    """Write the envelope, or only MAIL (and RSET) where commands go one at a time.

    ``mail_written`` is set afterwards: a message whose MAIL the system refused was never begun.
    """
    transaction.stepwise = state.stepwise
    if not transaction.stepwise:
        state.found.use(Ahead.ENVELOPE, state)
    commands = [*transaction.before_mail, transaction.mail] if transaction.stepwise else transaction.commands
    state.protocol.write(b"".join(commands), len(commands))
    transaction.mail_written = True


# Envelopes that the server refuses


async def _sender_refused(state: SessionState, transaction: MailTransaction, reply: Reply) -> None:
    state.fail(transaction, reply)
    state.found.prove(Ahead.OVERLAP, state)
    if transaction.stepwise:
        return
    for _ in transaction.rcpt:
        reply = await state.reply_ahead(Ahead.ENVELOPE)
        state.count_reply(reply)
        if reply.code < 400:  # the server may still have a sender: a lone dot would deliver an empty message
            raise SessionEnded(SessionEnd(reconnect=True, error=f"a recipient was accepted without a sender: {reply}"))
    await _end_unused_data(state)


async def _recipients_refused(state: SessionState, transaction: MailTransaction) -> None:
    state.must_reset = True
    outcome = transaction.all_refused()
    state.report(transaction, outcome)
    _end_on_quota(outcome)
    if not transaction.stepwise:
        await _end_unused_data(state)


async def _end_unused_data(state: SessionState) -> None:
    """Read the reply to a DATA that was written with a refused envelope; after a 354 a lone dot delivers nothing."""
    reply = await state.reply_ahead(Ahead.ENVELOPE)
    state.count_reply(reply)
    state.found.prove(Ahead.ENVELOPE, state)
    if reply.code < 400 and reply.code != 354:
        raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
    if reply.code == 354:
        state.protocol.write(b".\r\n", 1)
        reply = await state.protocol.reply(state.deadline())
        state.count_reply(reply)
        if 300 <= reply.code < 400:  # out of step: the reply to the dot would be taken for the reply to the next MAIL
            raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))
        state.must_reset = False


def _end_on_quota(outcome: Outcome) -> None:
    if outcome.trouble is Trouble.QUOTA:
        error = outcome.error or "a reply to RCPT named the quota"
        raise SessionEnded(SessionEnd(trouble=Trouble.QUOTA, error_code=ErrorCode.PROVIDER, error=error))


# The body


async def _body(state: SessionState, transaction: MailTransaction) -> None:
    """Write the body, and the envelope of the next message behind it; read the final reply."""
    transaction.phase = Phase.BODY
    body = dot_stuffed(transaction.outgoing.body)
    deadline = state.deadline(len(body))
    replies = 1
    if len(body) > CHUNK_SIZE:
        # A body is never written twice, so its memory is freed now: the final reply may take ten minutes.
        transaction.outgoing.body = b""
        body, replies = await _upload(state, transaction, body, deadline), 0
    _write_body(state, transaction, body, deadline, replies)
    _finish(state, transaction, await state.protocol.reply(deadline))


def _write_body(
    state: SessionState, transaction: MailTransaction, body: bytes, deadline: float, replies: int = 1
) -> None:
    """Write the end of a body, and the envelope of the next message behind it."""
    state.body_deadline, protocol = deadline, state.protocol
    protocol.check()  # on a lost connection no further message is taken and no overlap is tried
    if (ahead := state.look_ahead()) is None:
        protocol.write(body + b".\r\n", replies)
        transaction.end_at = protocol.written
    else:
        envelope = b"".join(ahead.commands)
        protocol.write(b"".join((body, b".\r\n", envelope)), replies + len(ahead.commands))
        ahead.mail_written = True
        transaction.end_at = protocol.written - len(envelope)


def _go_on(state: SessionState) -> bool:
    """Transmit as long as every reply is the usual one; False: a reply is not, or something must be waited for.

    What it does is what the coroutines do with the same replies.  It leaves ``state.current`` as they expect it: its
    body is written and not answered, or its envelope is, and none of the replies to that has been read; or there is no
    message, and the next one has not been taken.
    """
    protocol, replies, found = state.protocol, state.protocol.replies, state.found
    while not (found.trials and state.tries_ahead):
        if (transaction := state.current) is None:
            if not _begin_next(state):
                return False
            if (transaction := state.current) is None:
                return True
        if transaction.phase is _BODY:
            if not replies:
                return True
            _finish(state, transaction, replies.popleft())
            state.current, state.ahead = state.ahead, None
            continue
        if not transaction.is_usual(replies):
            return False
        if len(replies) < len(transaction.commands):
            protocol.wait_until(None)
            return True
        outgoing = transaction.outgoing
        if len(outgoing.body) > CHUNK_SIZE or not outgoing.may_write():
            return False
        body = dot_stuffed(outgoing.body)
        transaction.accept_envelope(replies)
        _write_body(state, transaction, body, state.deadline(len(body)))
        protocol.wait_until(state.body_deadline)
    return False


def _begin_next(state: SessionState) -> bool:
    """Begin the next message, or listen for it; False: it may be begun in another way, or there is none."""
    feed, protocol = state.feed, state.protocol
    while not (state.retired or state.stepwise or state.may_chunk):
        if (outgoing := feed.take_or_listen(protocol.wake)) is None:
            protocol.wait_until(math.inf)
            return not feed.is_over
        state.current = transaction = state.begin(outgoing)
        if transaction is not None:
            write_envelope(state, transaction)
            return True
    return False


async def _upload(state: SessionState, transaction: MailTransaction, body: bytes, deadline: float) -> bytes:
    """Write a large body in chunks, as fast as the network takes them; return the last chunk, unwritten.

    Each chunk is a copy: a memoryview in asyncio's buffer would keep the whole body in memory.
    """
    start, replies = 0, 1
    while len(body) - start > CHUNK_SIZE:
        state.protocol.write(body[start : start + CHUNK_SIZE], replies)
        replies = 0
        start += CHUNK_SIZE
        await state.protocol.wait_until_writable(deadline)
        if state.protocol.has_reply:
            await _early_reply(state, transaction)
    return body[start:]


async def _early_reply(state: SessionState, transaction: MailTransaction) -> None:
    """Read a reply that came before the end of the body: a refusal, or a protocol error.  Both end the session."""
    reply = await state.protocol.reply()
    if reply.code < 400:
        state.protocol.end(Loss("a reply before the end of the body", ErrorCode.PROVIDER))
        state.protocol.check()
    state.fail(transaction, reply)
    raise SessionEnded(SessionEnd(reconnect=True, error=str(reply)))


def _finish(state: SessionState, transaction: MailTransaction, reply: Reply) -> None:
    if reply.code >= 300:
        state.fail(transaction, reply)
        return
    state.completed += 1
    outcome = transaction.accepted(reply)
    state.report(transaction, outcome)
    if outcome.trouble:
        _end_on_quota(outcome)
