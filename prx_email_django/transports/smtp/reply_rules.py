"""What a negative SMTP reply, or the loss of a connection, means: for message, recipient, account and session.  Pure.

To find what a reply such as ``451`` does:

1. Look for it in ``reply_table``: the replies whose first digit alone would mislead (quota, session limit, …).
   No rule matches a plain ``451``: its meaning is ``FIRST_DIGIT``, that is, temporary (5yz: permanent).
2. At RCPT it is the answer to one recipient (``recipient_answer``): a ``451`` defers that recipient, who is tried
   again later; the other recipients go on.  Only a reply about the session (``is_about_session``) stops the message.
   The outcome of a message whose recipients were all refused: ``MailTransaction.all_refused``.
3. At MAIL, at DATA and after the body it ends the attempt (``judge_reply``): a ``451`` is a temporary failure of the
   message, and the session goes on unless the verdict says ``ends_session``.
4. When the message is tried again, and what pauses the account: ``rules.policy`` and ``limits.pauses``.

Replies while a connection is opened (greeting, TLS, AUTH) are judged in ``connection``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prx_email_django.rules.outcomes import Answer, Ending, Phase, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_table import ReplyMeaning, meaning_of

#: Words about commands that came too early; addresses, which may contain these words, are left out before.
_TOO_EARLY = re.compile(r"synchroni[sz]|\bpipelin", re.IGNORECASE)
_ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")
_NO_RECIPIENTS = re.compile(r"\bno (valid )?recipient|\brcpt\b", re.IGNORECASE)
#: Meanings that make a reply to RCPT a reply to the session.
_ABOUT_SESSION = (
    ReplyMeaning.SESSION_LIMIT,
    ReplyMeaning.NOT_AUTHENTICATED,
    ReplyMeaning.BAD_SEQUENCE,
    ReplyMeaning.RATE,
    ReplyMeaning.CROWDED,
)


@dataclass(frozen=True, slots=True)
class ReplyVerdict:
    """What a reply or a lost connection means for the message, for the account and for the session."""

    ending: Ending
    trouble: Trouble = Trouble.NONE
    error_code: str = ErrorCode.PROVIDER
    #: Nothing more may be written on this connection.
    ends_session: bool = False


def judge_reply(phase: Phase, reply: Reply, *, completed: bool) -> ReplyVerdict:
    """Judge a reply that ends the attempt: any but the success of its phase, at RCPT only one about the session.

    ``completed``: this connection has completed a transaction before.
    """
    meaning = meaning_of(phase, reply)
    if (of_account := _judge_account(phase, reply, meaning)) is not None:
        return of_account
    if completed and (meaning is ReplyMeaning.SESSION_LIMIT or (reply.code == 421 and phase is Phase.MAIL)):
        return ReplyVerdict(Ending.UNTOUCHED, ends_session=True)
    if reply.code == 421 or meaning is ReplyMeaning.SESSION_LIMIT:
        # A connection that is over before it has completed anything counts as a failed one.
        return ReplyVerdict(Ending.TEMPORARY, Trouble.CONNECTION, ends_session=True)
    if reply.code < 400:
        return _judge_unexpected(phase)
    # A server that ends each session before it completes a message would cost a login a message.
    trouble = Trouble.NONE if completed else Trouble.CONNECTION
    if meaning is ReplyMeaning.BAD_SEQUENCE:
        return ReplyVerdict(Ending.TEMPORARY, trouble, ends_session=True)
    if reply.code < 500 or meaning is ReplyMeaning.TEMPORARY:
        return ReplyVerdict(Ending.TEMPORARY)
    return ReplyVerdict(Ending.PERMANENT)


def _judge_account(phase: Phase, reply: Reply, meaning: ReplyMeaning) -> ReplyVerdict | None:
    """Judge a reply about the account; None: it is about the message or the session."""
    match meaning:
        case ReplyMeaning.QUOTA:
            return ReplyVerdict(Ending.TEMPORARY, Trouble.QUOTA, ends_session=True)
        case ReplyMeaning.NOT_AUTHENTICATED | ReplyMeaning.LOGIN_DEMANDED:
            return ReplyVerdict(Ending.UNTOUCHED, Trouble.AUTH, error_code=ErrorCode.AUTH, ends_session=True)
        case ReplyMeaning.CROWDED:
            return ReplyVerdict(Ending.UNTOUCHED, Trouble.CROWDED, ends_session=True)
        case ReplyMeaning.RATE:
            # At RCPT the other replies of the envelope are still to come, and after a 421 nothing does.
            ends_session = reply.code == 421 or phase is Phase.RCPT
            return ReplyVerdict(Ending.UNTOUCHED, Trouble.RATE, ends_session=ends_session)
    return None


def refuses_ahead(phase: Phase, reply: Reply, *, overlapped: bool) -> bool:
    """Whether this reply to a command that was written ahead refuses just that, and not the message.

    Either the server says so, or it has lost step with the client: it dropped a command that came too early, or
    answered two commands by one reply.  ``overlapped``: the whole envelope was written behind another message's body;
    else only RCPT and DATA were written ahead.

    - 503 in any words (Haraka: "503 Bad sequence of commands - pipelined after end of DATA"), and a positive reply of
      the wrong kind;
    - 554 to MAIL where the envelope was overlapped (a refused sender looks the same, and is refused again without
      overlap), or in words about recipients: then it is the reply to DATA, and MAIL and RCPT were dropped;
    - after a body, where an envelope was written behind it, only 503 and words: the body itself may be refused;
    - words of pipelining or synchronisation under any code (Postfix "503 5.5.0 <DATA>: Data command rejected: Improper
      use of SMTP command pipelining", Exim "554 SMTP synchronization error").

    Any other 421 is the end of the session: there is nothing to learn from it.
    """
    if meaning_of(phase, reply) not in (ReplyMeaning.FIRST_DIGIT, ReplyMeaning.BAD_SEQUENCE):
        return False
    if reply.code == 503 or (reply.code >= 400 and _TOO_EARLY.search(_ADDRESS.sub("", reply.text))):
        return True
    if phase is Phase.BODY:
        return False
    if reply.code == 554 and phase is Phase.MAIL:
        return overlapped or _NO_RECIPIENTS.search(reply.text) is not None
    return reply.code < 400


def _judge_unexpected(phase: Phase) -> ReplyVerdict:
    """Judge a positive reply of the wrong kind: it belongs to another command than the one that was written."""
    if phase is Phase.BODY:
        return ReplyVerdict(Ending.UNKNOWN, Trouble.CONNECTION, error_code=ErrorCode.UNKNOWN_OUTCOME, ends_session=True)
    return ReplyVerdict(Ending.TEMPORARY, Trouble.CONNECTION, ends_session=True)


def is_about_session(reply: Reply, *, logged_in: bool = False) -> bool:
    """Whether a reply to RCPT is about the session and not about the recipient, or makes no sense there (3yz)."""
    if 300 <= reply.code < 400 or reply.code == 421:
        return True
    meaning = meaning_of(Phase.RCPT, reply)
    return meaning in _ABOUT_SESSION or (meaning is ReplyMeaning.LOGIN_DEMANDED and not logged_in)


def recipient_answer(reply: Reply) -> Answer:
    """Return what a reply to RCPT says about the recipient; ``ACCEPTED`` still needs the final 250."""
    if 200 <= reply.code < 300:
        return Answer.ACCEPTED
    meaning = meaning_of(Phase.RCPT, reply)
    if meaning is ReplyMeaning.TOO_MANY_RECIPIENTS:
        return Answer.TOO_MANY
    if reply.code < 500 or meaning in (ReplyMeaning.TEMPORARY, ReplyMeaning.QUOTA):
        return Answer.DEFERRED
    return Answer.REFUSED


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a connection ended without a reply."""

    #: Shown to people; cleaned.
    text: str
    #: ``network`` (closed or reset), ``timeout``, ``provider`` (the server sent something that is not a reply).
    error_code: str
    #: The server closed the connection, and all that it had sent before was right.
    closed_by_server: bool = False
    #: This side closed the connection.
    closed_by_us: bool = False


def judge_loss(
    phase: Phase, loss: Loss, *, completed: bool, dot_written: bool, overlapped: bool = False
) -> ReplyVerdict:
    """Judge a connection that ended while this message's transaction was open.

    ``dot_written``: the final dot was handed to the operating system, so the server may have the whole body (RFC 1047).
    ``overlapped``: the envelope was written after the body of another message whose reply is missing.
    """
    if phase is Phase.BODY and dot_written:
        trouble = Trouble.NONE if loss.closed_by_us else Trouble.CONNECTION
        return ReplyVerdict(Ending.UNKNOWN, trouble, error_code=ErrorCode.UNKNOWN_OUTCOME, ends_session=True)
    if overlapped or loss.closed_by_us or (phase is Phase.MAIL and completed and loss.closed_by_server):
        return ReplyVerdict(Ending.UNTOUCHED, error_code=loss.error_code, ends_session=True)
    return ReplyVerdict(Ending.TEMPORARY, Trouble.CONNECTION, error_code=loss.error_code, ends_session=True)
