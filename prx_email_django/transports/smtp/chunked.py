"""A mail transaction by BDAT (RFC 3030): its bytes, and what the replies to it mean together.  Pure.

MAIL, RCPT…, BDAT and the body are written at once, so the server may have the whole message before it has answered any
command of it.  The replies come in the order of the commands; a transaction is judged when the last reply is there, or
when the connection has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import (
    Loss,
    ReplyVerdict,
    is_about_session,
    judge_loss,
    judge_reply,
    recipient_answer,
    refuses_ahead,
)
from prx_email_django.transports.smtp.transaction_state import MailTransaction, session_end

#: BDAT without a transaction, twice; each body reads as a command.  A server that discards the body of a refused BDAT
#: (RFC 3030 §2) answers twice with 5yz.  Any other server would execute lines of a refused message: it answers NOOP.
PROBE, PROBE_REPLIES = 2 * b"BDAT 6 LAST\r\nNOOP\r\n", 2


def group(transaction: MailTransaction) -> tuple[bytes, int]:
    """Return the bytes of the whole transaction, not dot-stuffed, and the number of replies to them."""
    body = transaction.outgoing.body
    commands = [*transaction.commands[:-1], b"BDAT %d LAST\r\n" % len(body)]
    return b"".join((*commands, body)), len(commands)


def is_answered(transaction: MailTransaction) -> bool:
    """Whether no more replies to this transaction are to be awaited: all have come, or one ends the connection."""
    last = transaction.replies[-1].code
    return len(transaction.replies) == len(transaction.commands) or last == 421 or last // 100 == 3


def judge_usual(transaction: MailTransaction) -> Outcome | None:
    """Judge an answered transaction as ``judge_answered`` does, where the server took it for all its recipients.

    None: a reply is another one.
    """
    replies = transaction.replies
    for reply in replies:
        if reply.code >= 300:
            return None
    transaction.answers = replies[-1 - len(transaction.recipients) : -1]
    transaction.any_accepted = True
    return transaction.accepted(replies[-1])


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a transaction came to.

    ``end``: no further message may be begun on this connection.  ``is_last``: the server answers nothing more, since it
    closes (421), or cannot be understood.
    """

    outcome: Outcome
    end: SessionEnd | None = None
    is_last: bool = False


def judge_answered(transaction: MailTransaction, *, completed: bool, logged_in: bool) -> Judgement:
    """Judge a transaction that ``is_answered``.

    ``completed``: the connection has completed a transaction before.  ``logged_in``: the session is authenticated.
    """
    last = transaction.replies[-1]
    if last.code == 421:
        return _closed(transaction, last, completed=completed)
    if last.code // 100 == 3:
        return _out_of_step(transaction, last)
    judged = _judge_complete(transaction, completed=completed, logged_in=logged_in)
    reset = _split(transaction).reset
    if reset is not None and reset.code >= 300 and judged.end is None:
        return replace(judged, end=SessionEnd(reconnect=True, error=str(reset)))
    return judged


def judge_cut(transaction: MailTransaction, loss: Loss, *, completed: bool, may_have_left: bool) -> Outcome:
    """Judge a transaction of which replies are missing, since the connection ended.

    ``may_have_left``: the server may have the whole message.
    """
    _, mail, rcpt, _ = _split(transaction)
    if not may_have_left:
        return transaction.untouched(loss.text)
    if mail is not None and mail.code >= 400:
        return _refused(transaction, Phase.MAIL, mail, completed=completed).outcome
    for reply in rcpt:
        transaction.add_answer(reply)
    if len(rcpt) == len(transaction.recipients) and not transaction.any_accepted:
        return transaction.all_refused()
    transaction.phase = Phase.BODY
    return transaction.lost(judge_loss(Phase.BODY, loss, completed=completed, dot_written=True), loss.text)


def count_refusals(transaction: MailTransaction) -> int:
    """The replies that a server may count as errors of this client; "too many recipients" is progress."""
    refused = [reply for reply in transaction.replies if reply.code >= 400]
    return sum(recipient_answer(reply) is not Answer.TOO_MANY for reply in refused)


class _Replies(NamedTuple):
    """The replies so far to RSET, MAIL, RCPT… and BDAT."""

    reset: Reply | None
    mail: Reply | None
    rcpt: list[Reply]
    final: Reply | None


def _split(transaction: MailTransaction) -> _Replies:
    """Assign the replies to the commands."""
    replies = list(transaction.replies)
    reset = replies.pop(0) if transaction.before_mail and replies else None
    mail = replies.pop(0) if replies else None
    count = len(transaction.recipients)
    return _Replies(reset, mail, replies[:count], replies[count] if len(replies) > count else None)


def _judge_complete(transaction: MailTransaction, *, completed: bool, logged_in: bool) -> Judgement:
    mail, *rcpt, final = transaction.replies[len(transaction.before_mail) :]
    if mail.code >= 300:
        if final.code < 300 and any(reply.code < 300 for reply in rcpt):  # under the sender of an earlier message
            return _out_of_step(transaction, mail)
        return _refused(transaction, Phase.MAIL, mail, completed=completed)
    for reply in rcpt:
        transaction.add_answer(reply)
    about = next((said for said in rcpt if said.code >= 400 and is_about_session(said, logged_in=logged_in)), None)
    if final.code < 300 and transaction.any_accepted:
        return _accepted(transaction, final, about, completed=completed)
    refused = [reply for reply in rcpt if reply.code >= 400]
    ours = next((said for said in refused if refuses_ahead(Phase.RCPT, said, overlapped=transaction.overlapped)), None)
    if (said := about or ours) is not None:
        return _refused(transaction, Phase.RCPT, said, completed=completed)
    if not transaction.any_accepted:
        outcome = transaction.all_refused()
        return Judgement(outcome, _quota_end(outcome))
    return _refused(transaction, Phase.BODY, final, completed=completed)


def _accepted(transaction: MailTransaction, final: Reply, about: Reply | None, *, completed: bool) -> Judgement:
    """Judge a message that the server took.  ``about``: what it said about the session, where a recipient was due."""
    outcome = transaction.accepted(final)
    if about is None:
        return Judgement(outcome, _quota_end(outcome))
    verdict = judge_reply(Phase.RCPT, about, completed=completed)
    open_again = {
        address: RecipientOutcome(Answer.DEFERRED, code=about.code, enhanced=about.enhanced, text=about.text)
        for address, reply in zip(transaction.recipients, transaction.answers, strict=True)
        if reply is about
    }
    outcome = replace(outcome, recipients=outcome.recipients | open_again, trouble=verdict.trouble or outcome.trouble)
    return Judgement(outcome, session_end(verdict, str(about)))


def _refused(transaction: MailTransaction, phase: Phase, reply: Reply, *, completed: bool) -> Judgement:
    transaction.phase = phase
    if refuses_ahead(phase, reply, overlapped=transaction.overlapped):
        end = SessionEnd(reconnect=True, error=str(reply), broken=Ahead.CHUNKING)
        return Judgement(transaction.ahead_refused(str(reply)), end)
    verdict = judge_reply(phase, reply, completed=completed)
    end_by_verdict = session_end(verdict, str(reply)) if verdict.ends_session else None
    return Judgement(transaction.failed(verdict, reply), end_by_verdict)


def _closed(transaction: MailTransaction, reply: Reply, *, completed: bool) -> Judgement:
    """Judge a transaction at which the server ended the session: it took neither this message nor a later one."""
    _, mail, rcpt, final = _split(transaction)
    if mail is None:
        return Judgement(transaction.untouched(str(reply)), SessionEnd(reconnect=True, error=str(reply)), is_last=True)
    phase = Phase.MAIL if not rcpt else Phase.RCPT if final is None else Phase.BODY
    for said in rcpt if phase is Phase.BODY else rcpt[:-1]:
        transaction.add_answer(said)
    transaction.phase = phase
    verdict = judge_reply(phase, reply, completed=completed)
    return Judgement(transaction.failed(verdict, reply), session_end(verdict, str(reply)), is_last=True)


def _out_of_step(transaction: MailTransaction, reply: Reply) -> Judgement:
    """Judge a transaction whose replies make no sense: nobody knows what the server did with it."""
    transaction.phase = Phase.BODY
    verdict = ReplyVerdict(Ending.UNKNOWN, Trouble.CONNECTION, error_code=ErrorCode.UNKNOWN_OUTCOME, ends_session=True)
    return Judgement(transaction.failed(verdict, reply), session_end(verdict, str(reply)), is_last=True)


def _quota_end(outcome: Outcome) -> SessionEnd | None:
    if outcome.trouble is not Trouble.QUOTA:
        return None
    error = outcome.error or "a reply to RCPT named the quota"
    return SessionEnd(trouble=Trouble.QUOTA, error_code=ErrorCode.PROVIDER, error=error)
