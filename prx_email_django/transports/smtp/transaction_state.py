"""State of one message on its way through a connection, and the ``Outcome`` that follows from that state.

The procedure that moves a message through these states is ``transaction``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome, Trouble
from prx_email_django.states import ErrorCode
from prx_email_django.transports.base import Feed, OutgoingMessage, SessionEnd
from prx_email_django.transports.found import Ahead
from prx_email_django.transports.smtp.commands import (
    Extensions,
    UnsupportedMessage,
    adapt,
    envelope,
    unnameable_recipients,
)
from prx_email_django.transports.smtp.replies import Reply
from prx_email_django.transports.smtp.reply_rules import ReplyVerdict, recipient_answer
from prx_email_django.transports.smtp.reply_table import ReplyMeaning, meaning_of

# Members of enums: Python 3.11 takes as long to look one up as to call four functions.
_MAIL, _BODY, _QUOTA, _NO_TROUBLE = Phase.MAIL, Phase.BODY, Trouble.QUOTA, Trouble.NONE
_TAKEN = Ending.ACCEPTED
# Outcomes of recipients that had no negative answer; shared, since nearly all recipients have one of these.
_OPEN = RecipientOutcome(Answer.OPEN)
_ACCEPTED = RecipientOutcome(Answer.ACCEPTED, code=250)
_UNKNOWN = RecipientOutcome(Answer.UNKNOWN)
_KEPT = RecipientOutcome(Answer.TOO_MANY)
_NONE_UNNAMEABLE: dict[str, RecipientOutcome] = {}
#: Recipients up to which the replies that have come to an envelope are looked at again with each further one.
_FEW = 50
#: Commands answered "too many" in one transaction from which on the next transactions keep to the server's limit.
_MANY_TOO_MANY = 20


class MailTransaction:
    """One message and its mail transaction (RFC 5321 §3.3)."""

    __slots__ = (
        "answers",
        "any_accepted",
        "any_refused",
        "commands",
        "end_at",
        "mail_written",
        "outgoing",
        "overlapped",
        "peer",
        "phase",
        "quota_exceeded",
        "recipients",
        "replies",
        "stepwise",
        "unnameable",
        "kept",
    )

    def __init__(self, outgoing: OutgoingMessage, peer: str) -> None:
        self.outgoing = outgoing
        #: The recipients of this transaction, those that wait for the next one since the server takes no more at once,
        #: and those whose addresses the server cannot name.
        self.recipients = outgoing.recipients
        self.kept: tuple[str, ...] = ()
        self.unnameable = _NONE_UNNAMEABLE
        #: The other end of the connection, for ``Outcome.peer``.
        self.peer = peer
        #: Commands go one at a time; else RCPT and DATA are written ahead.
        self.stepwise = False
        #: The envelope was written behind the body of another message.
        self.overlapped = False
        #: RSET if the server needs it, MAIL, RCPT…, DATA.
        self.commands: Sequence[bytes] = ()
        self.phase = _MAIL
        #: Replies to RCPT, in the order of the recipients.
        self.answers: list[Reply] = []
        self.any_accepted = False
        self.any_refused = False
        #: A reply to RCPT said that the account's quota is used up.
        self.quota_exceeded = False
        #: MAIL was handed to the operating system.
        self.mail_written = False
        #: The bytes written on the connection up to the end of its body; 0: the end was not handed to the system.
        self.end_at = 0
        #: With BDAT: the replies so far, in the order of the commands.
        self.replies: list[Reply] = []

    def prepare(self, extensions: Extensions, most: int = 0) -> None:
        """Make the commands.  A recipient whose address the server cannot name is refused alone.

        ``most``: recipients that the server takes in one transaction; 0: not known.

        Raises:
            UnsupportedMessage: see ``envelope``; or no recipient is left.
        """
        self.unnameable = unnameable_recipients(self.outgoing, extensions)
        if self.unnameable:
            self.recipients = tuple(address for address in self.recipients if address not in self.unnameable)
            if not self.recipients:
                refusal = next(iter(self.unnameable.values()))
                raise UnsupportedMessage(
                    refusal.text,
                    error_code=ErrorCode.RECIPIENTS_REFUSED,
                    smtp_code=refusal.code,
                    enhanced=refusal.enhanced,
                )
        if most:
            self.recipients, self.kept = self.recipients[:most], self.recipients[most:]
        adapt(self.outgoing, extensions)
        self.commands = envelope(self.outgoing, extensions, self.recipients)

    @property
    def dot_written(self) -> bool:
        """Whether the end of the body was handed to the operating system."""
        return self.end_at > 0

    @property
    def before_mail(self) -> Sequence[bytes]:
        """RSET, or nothing."""
        return self.commands[: -2 - len(self.recipients)]

    @property
    def mail(self) -> bytes:
        """The MAIL command."""
        return self.commands[-2 - len(self.recipients)]

    @property
    def rcpt(self) -> Sequence[bytes]:
        """The RCPT commands."""
        return self.commands[-1 - len(self.recipients) : -1]

    @property
    def ahead(self) -> Ahead | None:
        """How far it was written ahead."""
        if self.overlapped:
            return Ahead.OVERLAP
        return None if self.stepwise else Ahead.ENVELOPE

    def accepted_recipients(self) -> tuple[str, ...]:
        """The recipients that RCPT accepted."""
        answers = zip(self.recipients, self.answers, strict=False)
        return tuple(address for address, reply in answers if reply.code < 300)

    def recipients_taken(self) -> int:
        """The recipients that the server took before it said "too many" to all others; 0: no limit worth keeping to."""
        answers = [recipient_answer(reply) for reply in self.answers]
        if answers.count(Answer.TOO_MANY) < _MANY_TOO_MANY:
            return 0
        first = answers.index(Answer.TOO_MANY)
        is_limit = all(answer is Answer.TOO_MANY for answer in answers[first:])
        return answers[:first].count(Answer.ACCEPTED) if is_limit else 0

    def is_usual(self, replies: Iterable[Reply]) -> bool:
        """Whether the replies to its envelope, as far as they have come, are those to a message that is accepted."""
        recipients = len(self.recipients)
        if len(self.commands) != 2 + recipients or recipients > _FEW:  # the first: after RSET
            return False
        for number, reply in enumerate(replies):
            if number > recipients:
                return reply.code == 354
            if reply.code >= 300:
                return False
        return True

    def accept_envelope(self, replies: deque[Reply]) -> None:
        """Take the usual replies to its envelope; the body comes next."""
        replies.popleft()
        for _ in self.recipients:
            self.answers.append(replies.popleft())
        replies.popleft()
        self.any_accepted, self.phase = True, _BODY

    def add_answer(self, reply: Reply) -> None:
        """Keep the reply to the next RCPT."""
        self.answers.append(reply)
        if reply.code < 300:
            self.any_accepted = True
        else:
            self.any_refused = True
            self.quota_exceeded = self.quota_exceeded or meaning_of(Phase.RCPT, reply) is ReplyMeaning.QUOTA

    # Outcomes

    def accepted(self, reply: Reply) -> Outcome:
        """Outcome of a message that the server accepted: ``reply`` is the final 250."""
        trouble = _QUOTA if self.quota_exceeded else _NO_TROUBLE
        code, enhanced, response = reply.code, reply.enhanced, str(reply)
        # By position: arguments by name go through a dictionary, and each message has such an outcome.
        return Outcome(
            _TAKEN,
            self._recipients(_ACCEPTED),
            trouble,
            "",
            "",
            _BODY,
            code,
            enhanced,
            response,
            self.peer,
            True,
        )

    def all_refused(self) -> Outcome:
        """Outcome of a message without an accepted recipient: permanent only if every refusal is permanent."""
        temporary = [reply for reply in self.answers if recipient_answer(reply) is not Answer.REFUSED]
        shown = (temporary or self.answers)[0]
        has_more = len(self.recipients) < len(self.outgoing.recipients)
        return Outcome(
            Ending.TEMPORARY if temporary or has_more else Ending.PERMANENT,
            recipients=self._recipients(_OPEN),
            trouble=Trouble.QUOTA if self.quota_exceeded else Trouble.NONE,
            error_code=ErrorCode.PROVIDER if temporary else ErrorCode.RECIPIENTS_REFUSED,
            error=str(shown),
            phase=Phase.RCPT,
            smtp_code=shown.code,
            enhanced=shown.enhanced,
            peer=self.peer,
            mail_written=True,
        )

    def failed(self, verdict: ReplyVerdict, reply: Reply) -> Outcome:
        """Outcome of a message that a reply ended."""
        return replace(self.lost(verdict, str(reply)), smtp_code=reply.code, enhanced=reply.enhanced)

    def lost(self, verdict: ReplyVerdict, error: str) -> Outcome:
        """Outcome of a message that ended without a reply."""
        return Outcome(
            verdict.ending,
            recipients=self._unfinished_recipients(verdict.ending),
            trouble=verdict.trouble,
            error_code=verdict.error_code,
            error=error,
            phase=self.phase,
            peer=self.peer,
            mail_written=self.mail_written,
        )

    def untouched(self, error: str = "") -> Outcome:
        """Outcome of a message that is released as it was."""
        return self.lost(ReplyVerdict(Ending.UNTOUCHED, error_code=""), error)

    def ahead_refused(self, error: str) -> Outcome:
        """Outcome of a message that is released since the server did not bear what was written ahead."""
        return replace(self.untouched(error), ahead_refused=True)

    def unsupported(self, problem: UnsupportedMessage) -> Outcome:
        """Outcome of a message that was not written because this server cannot take it."""
        outcome = self.lost(ReplyVerdict(Ending.PERMANENT, error_code=problem.error_code), str(problem))
        return replace(outcome, smtp_code=problem.smtp_code, enhanced=problem.enhanced)

    def _unfinished_recipients(self, ending: Ending) -> dict[str, RecipientOutcome]:
        if ending is Ending.UNTOUCHED:
            return dict.fromkeys(self.outgoing.recipients, _OPEN)
        if ending is Ending.UNKNOWN:  # with BDAT the body may have been taken before RCPT was answered
            return self._recipients(_UNKNOWN, unanswered=_UNKNOWN)
        return self._recipients(_OPEN)

    def _recipients(
        self, if_accepted: RecipientOutcome, unanswered: RecipientOutcome = _OPEN
    ) -> dict[str, RecipientOutcome]:
        """The outcome of each recipient; ``if_accepted`` for those that RCPT accepted."""
        result = dict.fromkeys(self.recipients, unanswered if self.any_refused else if_accepted)
        if self.unnameable or self.kept:
            result |= self.unnameable | dict.fromkeys(self.kept, _KEPT)
        if not self.any_refused:
            return result
        for address, reply in zip(self.recipients, self.answers, strict=False):
            answer = recipient_answer(reply)
            result[address] = (
                if_accepted
                if answer is Answer.ACCEPTED
                else RecipientOutcome(answer, code=reply.code, enhanced=reply.enhanced, text=reply.text)
            )
        return result


def session_end(verdict: ReplyVerdict, error: str) -> SessionEnd:
    """The end of a session that a verdict ended: a new connection may follow where the account has no trouble."""
    return SessionEnd(
        reconnect=verdict.trouble is Trouble.NONE or verdict.trouble.is_throttle,
        trouble=Trouble.NONE if verdict.trouble.is_throttle else verdict.trouble,  # the outcome names it
        error_code=verdict.error_code,
        error=error,
    )


def give_back_untouched(outgoing: OutgoingMessage, feed: Feed, *, peer: str) -> None:
    """Report a message of which nothing was written, since the connection has ended."""
    feed.report(outgoing, MailTransaction(outgoing, peer).untouched("the connection ended"))
