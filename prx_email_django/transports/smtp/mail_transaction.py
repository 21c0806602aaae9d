"""One message under way: how far it has come, what was answered, and the ``Outcome`` that follows."""

from __future__ import annotations

from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome, Trouble
from prx_email_django.transports.base import OutgoingMessage, SessionEnd
from prx_email_django.transports.smtp.commands import UnsupportedMessage
from prx_email_django.transports.smtp.replies import Meaning, Reply, Verdict, answer, read

# What a recipient without a negative answer comes to, by the ending; shared, since nearly all are these.
_OPEN = RecipientOutcome(Answer.OPEN)
_ACCEPTED = RecipientOutcome(Answer.ACCEPTED, code=250)
_UNKNOWN = RecipientOutcome(Answer.UNKNOWN)


class MailTransaction:
    """A parcel and its transaction."""

    __slots__ = (
        "accepted",
        "answers",
        "commands",
        "dot_written",
        "negative",
        "outgoing",
        "phase",
        "quota",
        "tail",
        "written",
    )

    def __init__(self, outgoing: OutgoingMessage) -> None:
        self.outgoing = outgoing
        #: RSET if one is due, MAIL, RCPT…, DATA.
        self.commands: list[bytes] = []
        self.phase = Phase.MAIL
        #: Replies to RCPT, in the order of the recipients.
        self.answers: list[Reply] = []
        self.accepted = False
        self.negative = False
        #: An answer to RCPT named the account's quota.
        self.quota = False
        #: MAIL went to the system.
        self.written = False
        #: The final dot went to the system; behind it so many octets of the next envelope.
        self.dot_written = False
        self.tail = 0

    @property
    def before_mail(self) -> list[bytes]:
        """RSET, or nothing."""
        return self.commands[: -2 - len(self.outgoing.recipients)]

    @property
    def mail(self) -> bytes:
        """The MAIL command."""
        return self.commands[-2 - len(self.outgoing.recipients)]

    @property
    def rcpt(self) -> list[bytes]:
        """The RCPT commands."""
        return self.commands[-1 - len(self.outgoing.recipients) : -1]

    def taken_addresses(self) -> tuple[str, ...]:
        """The recipients that RCPT accepted."""
        answers = zip(self.outgoing.recipients, self.answers, strict=False)
        return tuple(address for address, reply in answers if reply.code < 300)

    def answered(self, reply: Reply) -> None:
        """Note the answer to one RCPT."""
        self.answers.append(reply)
        if reply.code < 300:
            self.accepted = True
        else:
            self.negative = True
            self.quota = self.quota or read(Phase.RCPT, reply) is Meaning.QUOTA

    # Outcomes

    def taken(self, reply: Reply, peer: str) -> Outcome:
        """The final 250."""
        return Outcome(
            Ending.ACCEPTED,
            recipients=self._recipients(_ACCEPTED),
            trouble=Trouble.QUOTA if self.quota else Trouble.NONE,
            phase=Phase.BODY,
            smtp_code=reply.code,
            enhanced=reply.enhanced,
            response=str(reply),
            peer=peer,
            mail_written=True,
        )

    def refused(self, peer: str) -> Outcome:
        """No recipient was taken: for good if each was refused for good, else for now."""
        answers = [(answer(reply), reply) for reply in self.answers]
        passing = [reply for kind, reply in answers if kind is not Answer.REFUSED]
        told = (passing or self.answers)[0]
        return Outcome(
            Ending.TEMPORARY if passing else Ending.PERMANENT,
            recipients=self._recipients(_OPEN),
            trouble=Trouble.QUOTA if self.quota else Trouble.NONE,
            error_code="provider" if passing else "recipients_refused",
            error=str(told),
            phase=Phase.RCPT,
            smtp_code=told.code,
            enhanced=told.enhanced,
            peer=peer,
            mail_written=True,
        )

    def failed(self, verdict: Verdict, reply: Reply, peer: str) -> Outcome:
        """A reply ended it."""
        return Outcome(
            verdict.ending,
            recipients=self._left(verdict.ending),
            trouble=verdict.trouble,
            error_code=verdict.error_code,
            error=str(reply),
            phase=self.phase,
            smtp_code=reply.code,
            enhanced=reply.enhanced,
            peer=peer,
            mail_written=self.written,
        )

    def lost(self, verdict: Verdict, error: str, peer: str) -> Outcome:
        """It ended without a reply."""
        return Outcome(
            verdict.ending,
            recipients=self._left(verdict.ending),
            trouble=verdict.trouble,
            error_code=verdict.error_code,
            error=error,
            phase=self.phase,
            peer=peer,
            mail_written=self.written,
        )

    def untouched(self, peer: str, error: str = "") -> Outcome:
        """Released as it was."""
        return Outcome(
            Ending.UNTOUCHED,
            recipients=self._left(Ending.UNTOUCHED),
            error=error,
            phase=self.phase,
            peer=peer,
            mail_written=self.written,
        )

    def unsupported(self, why: UnsupportedMessage, peer: str) -> Outcome:
        """Never written: this server cannot take it."""
        return Outcome(
            Ending.PERMANENT,
            recipients=self._left(Ending.PERMANENT),
            error_code=why.error_code,
            error=str(why),
            phase=Phase.MAIL,
            smtp_code=why.smtp_code,
            enhanced=why.enhanced,
            peer=peer,
        )

    def _left(self, ending: Ending) -> dict[str, RecipientOutcome]:
        if ending is Ending.UNTOUCHED:
            return dict.fromkeys(self.outgoing.recipients, _OPEN)
        return self._recipients(_UNKNOWN if ending is Ending.UNKNOWN else _OPEN)

    def _recipients(self, taken: RecipientOutcome) -> dict[str, RecipientOutcome]:
        """Each recipient's answer; ``taken`` for those that RCPT accepted."""
        recipients = self.outgoing.recipients
        if not self.negative:
            return dict.fromkeys(recipients, taken)
        result = dict.fromkeys(recipients, _OPEN)
        for address, reply in zip(recipients, self.answers, strict=False):
            kind = answer(reply)
            result[address] = (
                taken
                if kind is Answer.ACCEPTED
                else RecipientOutcome(kind, code=reply.code, enhanced=reply.enhanced, text=reply.text)
            )
        return result


def end_of(verdict: Verdict, error: str) -> SessionEnd:
    """The end of a session by a verdict: where it says nothing against the account, a new connection may follow."""
    return SessionEnd(
        reconnect=verdict.trouble is Trouble.NONE,
        trouble=verdict.trouble,
        error_code=verdict.error_code,
        error=error,
    )
