"""What one attempt at one message came to: a frozen value, made by a transport, judged by ``policy``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """How far an attempt had come; stored in ``DeliveryAttempt.phase``."""

    CONNECT = "connect"  # name, TCP, greeting, EHLO
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the DATA command, up to its 354
    BODY = "body"  # from the first octet of the body to the final reply


class Ending(StrEnum):
    """The five ways in which an attempt can end."""

    #: The final 250 came for at least one recipient (see ``Outcome.recipients`` for the others).
    ACCEPTED = "accepted"
    #: A known failure that may pass: 4yz, or the connection went while this envelope was the oldest thing unanswered.
    TEMPORARY = "temporary"
    #: A known failure that will not pass by itself: 5yz.
    PERMANENT = "permanent"
    #: The body was on its way and no reply came (RFC 1047): nobody knows.
    UNKNOWN = "unknown"
    #: Nothing was judged: the trouble is the account's or nobody's, and the message is released as it was.
    UNTOUCHED = "untouched"


class Trouble(StrEnum):
    """What an ending says about the account beside the message."""

    NONE = ""
    #: A connection failed or broke: three in a row without a completed transaction between pause the account.
    CONNECTION = "connection"
    #: TLS could not be had or trusted: pauses at once.
    TLS = "tls"
    #: Credentials were refused: pauses at once (a token after one refresh).
    AUTH = "auth"
    #: The account's quota is used up: pauses at once, the message backs off.
    QUOTA = "quota"


class Answer(StrEnum):
    """What the server said to one recipient."""

    #: 2yz to RCPT *and* the final 250 to the body.
    ACCEPTED = "accepted"
    #: 5yz to RCPT.
    REFUSED = "refused"
    #: 4yz to RCPT; tried again.
    DEFERRED = "deferred"
    #: ``452 4.5.3`` or ``552 5.5.3``: too many in one transaction; goes into the next one.
    TOO_MANY = "too_many"
    #: 2yz to RCPT, and the body's fate is unknown.
    UNKNOWN = "unknown"
    #: Not answered, or 2yz to RCPT and the transaction failed as a whole: as open as it was.
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class RecipientOutcome:
    """The answer to one envelope address: SMTP code (0: none), enhanced code (RFC 3463) and cleaned text."""

    answer: Answer
    code: int = 0
    enhanced: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt at one message.

    ``recipients`` has an entry for every address of the envelope that was transmitted.  ``error`` is made for people:
    cleaned of control characters and cut at 160 characters.  ``response`` is the server's final reply of an accepted
    message.  ``mail_written`` tells whether MAIL went over the wire (a permit is then spent).
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

    @property
    def all_accepted(self) -> bool:
        """Whether every recipient of the envelope was accepted: the common case, recorded without a look back."""
        return self.ending is Ending.ACCEPTED and all(one.answer is Answer.ACCEPTED for one in self.recipients.values())

    @property
    def accepted(self) -> tuple[str, ...]:
        """Addresses that the server took with its final 250."""
        return tuple(address for address, one in self.recipients.items() if one.answer is Answer.ACCEPTED)
