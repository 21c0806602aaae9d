"""The mail transaction, from the reply to MAIL to the final reply, pipelined as far as server and account allow.

``off`` writes one command at a time; ``envelope`` writes MAIL, RCPT… and DATA at once; ``full`` writes the body of one
message and the envelope of the next at once (RFC 2920 §3.1), so that a busy connection needs one round trip a message.
At most two messages are under way, and the phase of each is known at every instant: whatever happens is judged by it.
"""

from __future__ import annotations

from prx_email_django.outcomes import Outcome, Phase, Trouble
from prx_email_django.transports.base import SessionEnd
from prx_email_django.transports.conversation import Conversation, Over
from prx_email_django.transports.envelope import wire_form
from prx_email_django.transports.flight import Flight
from prx_email_django.transports.replies import Loss, Reply, names_session

#: Octets written at once; a body up to this size goes out together with the next envelope in one write.
PIECE = 65536


async def transact(talk: Conversation, flight: Flight) -> None:
    """Bring one message to its end and report it.

    Its envelope has been written; of one that goes step by step, only MAIL.

    Raises:
        Over: the session ends by a reply.
        Broken: the connection ended; the message may be unreported yet.
    """
    for _ in flight.before_mail:
        talk.heed_reset(await talk.wire.reply())
    reply = await talk.wire.reply()
    if reply.code >= 300:
        await _sender_refused(talk, flight, reply)
        return
    talk.on_trial = False
    await _name_recipients(talk, flight)
    if not flight.accepted:
        await _all_refused(talk, flight)
    elif talk.stepwise and not flight.parcel.still_may():
        talk.must_reset = True
        talk.report(flight, flight.untouched(talk.peer))
    else:
        await _data(talk, flight)


async def _name_recipients(talk: Conversation, flight: Flight) -> None:
    flight.phase = Phase.RCPT
    for command in flight.rcpt:
        reply = await talk.ask(command)
        if reply.code >= 300:
            if names_session(Phase.RCPT, reply):
                talk.fail(flight, reply)
            talk.refusals += 1
        flight.answered(reply)


async def _data(talk: Conversation, flight: Flight) -> None:
    flight.phase = Phase.DATA
    reply = await talk.ask(b"DATA\r\n")
    if reply.code != 354:
        talk.must_reset = True
        talk.fail(flight, reply)
    elif flight.parcel.may_write():
        await _body(talk, flight)
    else:
        # The server waits for the body and nothing else: only closing keeps it from delivering a part.
        talk.report(flight, flight.untouched(talk.peer))
        raise Over(SessionEnd(reconnect=True))


# Envelopes that come to nothing


async def _sender_refused(talk: Conversation, flight: Flight, reply: Reply) -> None:
    talk.fail(flight, reply)
    talk.on_trial = False
    if talk.stepwise:
        return
    for _ in flight.rcpt:
        reply = await talk.wire.reply()
        talk.note(reply)
        if reply.code < 400:  # it may still have a sender: a lone dot would deliver an empty message
            raise Over(SessionEnd(reconnect=True, error=f"a recipient was taken without a sender: {reply}"))
    await _close_data(talk)


async def _all_refused(talk: Conversation, flight: Flight) -> None:
    talk.must_reset = True
    outcome = flight.refused(talk.peer)
    talk.report(flight, outcome)
    _heed_quota(outcome)
    if not talk.stepwise:
        await _close_data(talk)


async def _close_data(talk: Conversation) -> None:
    """Take the reply to a DATA that was written ahead in vain; after a 354 a lone dot delivers nothing."""
    reply = await talk.wire.reply()
    talk.note(reply)
    if reply.code < 400 and reply.code != 354:
        raise Over(SessionEnd(reconnect=True, error=str(reply)))
    if reply.code == 354:
        talk.wire.write(b".\r\n", 1)
        reply = await talk.wire.reply(talk.deadline())
        talk.note(reply)
        if 300 <= reply.code < 400:  # out of step: what belongs to the dot would answer the next MAIL
            raise Over(SessionEnd(reconnect=True, error=str(reply)))
        talk.must_reset = False


def _heed_quota(outcome: Outcome) -> None:
    if outcome.trouble is Trouble.QUOTA:
        error = outcome.error or "an answer to a recipient named the quota"
        raise Over(SessionEnd(trouble=Trouble.QUOTA, error_code="provider", error=error))


# The body


async def _body(talk: Conversation, flight: Flight) -> None:
    """Write the body, and behind it the next envelope if there is one; take the final reply."""
    flight.phase = Phase.BODY
    body = wire_form(flight.parcel.body)
    deadline = talk.deadline(len(body))
    due = 1
    if len(body) > PIECE:
        # Never written twice.  Once it has left, nothing holds it: the final reply may take ten minutes.
        flight.parcel.body = b""
        body, due = await _upload(talk, flight, body, deadline), 0
    talk.wire.check()  # nothing is taken, and no overlap tried, that cannot be written any more
    ahead = talk.look_ahead()
    if ahead is None:
        talk.wire.write(b"".join((body, b".\r\n")), due)
    else:
        behind = b"".join(ahead.commands)
        talk.wire.write(b"".join((body, b".\r\n", behind)), due + len(ahead.commands))
        ahead.written = True
        flight.tail = len(behind)
    flight.dot_written = True
    _finish(talk, flight, await talk.wire.reply(deadline))


async def _upload(talk: Conversation, flight: Flight, body: bytes, deadline: float) -> bytes:
    """Write a large body piece by piece, as fast as the network takes it; returns the last piece, unwritten.

    Each piece is a copy: a view in the transport's buffer would keep the whole body.
    """
    at, due = 0, 1
    while len(body) - at > PIECE:
        talk.wire.write(body[at : at + PIECE], due)
        due = 0
        at += PIECE
        await talk.wire.room(deadline)
        if talk.wire.answered:
            await _answered_early(talk, flight)
    return body[at:]


async def _answered_early(talk: Conversation, flight: Flight) -> None:
    """A reply before the end of the body: a refusal counts; anything else makes no sense.  Both end the session."""
    reply = await talk.wire.reply()
    if reply.code < 400:
        talk.wire.end(Loss("a reply before the end of the body", "provider"))
        talk.wire.check()
    talk.fail(flight, reply)
    raise Over(SessionEnd(reconnect=True, error=str(reply)))


def _finish(talk: Conversation, flight: Flight, reply: Reply) -> None:
    if reply.code >= 300:
        talk.fail(flight, reply)
        return
    talk.completed += 1
    outcome = flight.taken(reply, talk.peer)
    talk.report(flight, outcome)
    _heed_quota(outcome)
