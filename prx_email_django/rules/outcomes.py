"""How one attempt at one message ended: a frozen value that a transport makes and ``policy`` judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """The last step that an attempt reached; stored in ``DeliveryAttempt.phase``."""

    CONNECT = "connect"  # name, TCP, greeting, EHLO
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the DATA command, up to its 354
    BODY = "body"  # from the first byte of the body to the final reply


class Ending(StrEnum):
    """The five ways in which an attempt can end."""

    #: The final 250 came for at least one recipient (see ``Outcome.recipients`` for the others).
    ACCEPTED = "accepted"
    #: A known failure that may pass: 4yz, or the connection was lost while nothing sent before this envelope was
    #: still unanswered.
    TEMPORARY = "temporary"
    #: A known failure that will not pass by itself: 5yz.
    PERMANENT = "permanent"
    #: The body was on its way and no reply came (RFC 1047): nobody knows whether the server took the message.
    UNKNOWN = "unknown"
    #: The server did not judge the message (the trouble is the account's or nobody's): it is released unchanged.
    UNTOUCHED = "untouched"


class Step(StrEnum):
    """A step on the way to a message that is accepted, in this order (STARTTLS: TLS after the greeting)."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    EXTENSIONS = "extensions"
    TOKEN = "token"  # noqa: S105  (the name of a step)
    LOGIN = "login"
    MESSAGE = "message"


class Trouble(StrEnum):
    """What an attempt says about the account, in addition to the message."""

    NONE = ""
    #: A connection failed or was lost: three in a row without a completed transaction between pause the account.
    CONNECTION = "connection"
    #: TLS could not be set up, or its certificate not be verified: pauses at once.
    TLS = "tls"
    #: Credentials were refused: pauses at once (a token after one refresh).
    AUTH = "auth"
    #: No access token is to be had from the token server: pauses at once.
    TOKEN = "token"  # noqa: S105  (the name of a trouble, no secret)
    #: The account as it is stored could never log in: pauses at once, until a person corrects it.
    CONFIGURATION = "configuration"
    #: The account's quota is used up: pauses at once, the message backs off.
    QUOTA = "quota"
    #: The server refuses all messages: pauses at once, and the refused messages are reinstated.
    REFUSING = "refusing"
    #: The account sends too fast: it waits for some seconds, without a pause.
    RATE = "rate"
    #: The account has too many connections at once: it goes on with one less, without a pause.
    CROWDED = "crowded"

    @property
    def is_throttle(self) -> bool:
        """Whether it only slows the account down."""
        return self in (Trouble.RATE, Trouble.CROWDED)


class Answer(StrEnum):
    """What the server said to one recipient of the envelope."""

    #: 2yz to RCPT *and* the final 250 to the body.
    ACCEPTED = "accepted"
    #: 5yz to RCPT.
    REFUSED = "refused"
    #: 4yz to RCPT; tried again.
    DEFERRED = "deferred"
    #: ``452 4.5.3`` or ``552 5.5.3``: too many recipients in one transaction; this one goes into the next.
    TOO_MANY = "too_many"
    #: 2yz to RCPT, and nobody knows whether the body was accepted.
    UNKNOWN = "unknown"
    #: No answer, or 2yz to RCPT and the transaction failed as a whole: the recipient's result stays as it was.
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class RecipientOutcome:
    """The answer to one envelope address: SMTP code (0: none), enhanced code (RFC 3463) and cleaned text."""

    answer: Answer
    code: int = 0
    enhanced: str = ""
    text: str = ""


@dataclass(slots=True)  # not frozen: that made it three times as dear, and each message has one
class Outcome:
    """One attempt at one message.

    ``recipients`` has an entry for every address of the envelope that was transmitted.  ``error`` is text for a
    person, without control characters, at most 160 characters.  ``response`` is the server's final reply to an accepted
    message.  ``mail_written`` says whether MAIL was written (a permit is then spent).
    """

    ending: Ending
    recipients: dict[str, RecipientOutcome] = field(default_factory=dict)
    trouble: Trouble = Trouble.NONE
    error_code: str = ""
    error: str = ""
    phase: str = ""
    smtp_code: int = 0
    enhanced: str = ""
    response: str = ""
    peer: str = ""
    mail_written: bool = False
    #: Untouched because the server did not bear what this app wrote ahead: the message may go again at once.
    ahead_refused: bool = False

    @property
    def is_completed(self) -> bool:
        """Whether the server answered a whole transaction, with whatever reply."""
        if self.ending is Ending.ACCEPTED:
            return True
        # A message that is too large for the server has a code, and was never written.
        answered = self.mail_written and self.smtp_code > 0
        return answered and self.ending in (Ending.TEMPORARY, Ending.PERMANENT)

    @property
    def first_refusal(self) -> str:
        """The first recipient's refusal or deferral in words; empty where there is none."""
        for said in self.recipients.values():
            if said.answer in (Answer.REFUSED, Answer.DEFERRED):
                return f"{said.code} {said.text}".strip()
        return ""
