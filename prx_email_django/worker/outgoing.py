"""A claimed message on its way through the network, and the conditions under which it may be written."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from django.db import Error

from prx_email_django.conf import outbox_settings
from prx_email_django.conf.reader import uses_local_time
from prx_email_django.limits.rate_windows import Permits
from prx_email_django.limits.slots import Slot
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.mime.recode import needs_smtputf8
from prx_email_django.models import OutboxMessage
from prx_email_django.models.content import ContentAltered
from prx_email_django.models.message import envelope_route
from prx_email_django.rules.clock import Clock, uptime
from prx_email_django.rules.outcomes import Answer, Ending, Outcome, Phase, RecipientOutcome
from prx_email_django.rules.redirect import Route, direct_route
from prx_email_django.rules.text import clean
from prx_email_django.states import ErrorCode
from prx_email_django.store.absence import may_pass
from prx_email_django.store.attempts import FinishedAttempt
from prx_email_django.store.claimed import Claim, is_hold
from prx_email_django.store.db import check_database, retried
from prx_email_django.transports.base import OutgoingMessage
from prx_email_django.worker.events import gives_messages

#: The null sender, as ``envelope_from`` (RFC 5321 §4.5.5).
NULL_SENDER = "<>"


#: Characters of texts that are dropped once the message is rendered: it waits until its result is recorded.  Not where
#: a receiver may read them: one that is ``async`` could not.
LARGE_TEXT = 32 * 1024
_TEXTS = ["body_text", "body_html"]

#: Where a message goes before it is rendered, and its outcome before it has one.
NO_ROUTE, _NOT_BEGUN = Route(()), Outcome(Ending.UNTOUCHED)


class Carrier(Protocol):
    """What a message needs to know of the connection that took it."""

    slot: Slot
    #: An outcome has named the trouble of the connection's end already.
    trouble_noted: bool
    #: The access token that it logged in with.
    token: str
    #: The server refused the token after the login, and a fresh token is fetched.
    token_ended: bool


class ClaimedMessage(OutgoingMessage):
    """One claimed message, from its claim to its result; the only value of the worker for it."""

    __slots__ = (
        "_cancelled",
        "_has_files",
        "_lock",
        "_permits_end_at",
        "body_written",
        "claim",
        "clock",
        "connection",
        "finished",
        "mail_at",
        "mail_written",
        "outcome",
        "permit_ended",
        "permits",
        "route",
        "text_size",
    )

    def __init__(self, claim: Claim, *, clock: Clock, permits: tuple[Permits, ...] = ()) -> None:
        # Not by the base's ``__init__``, whose arguments by name cost as much as all that is done here.
        self.id, self.sender, self.recipients, self.body = claim.id, "", (), b""
        self.utf8 = self.eight_bit = self.has_crlf = self.is_ascii = False
        self.alone = is_hold(claim.message.on_unknown)
        self.claim = claim
        self.clock = clock
        #: Where it goes; known once it is rendered.
        self.route = NO_ROUTE
        #: The connection that has taken it.
        self.connection: Carrier | None = None
        #: The permits that were taken for it.
        self.permits = permits
        self._permits_end_at = _end_of(permits)
        #: Nothing of it was written, only because its permits ended before its MAIL.
        self.permit_ended = False
        #: MAIL was written: the permits are spent.
        self.mail_written = False
        #: When, on the clock of ``uptime()``.
        self.mail_at = -math.inf
        self.body_written = False
        self._cancelled = False
        #: A caller that cancels it must know whether its body is written.  Each message has its own lock: a fork copies
        #: a lock as it is at that moment, perhaps held.
        self._lock = threading.Lock()
        #: The outcome, and when it came, on the clock of ``uptime()``; set by the connection.
        self.outcome = _NOT_BEGUN
        self.finished: float | None = None
        row = vars(claim.message)  # a foreign key's attribute is a function
        #: It has parts that are read from the database while it is rendered.
        self._has_files = row["raw_id"] is not None or bool(claim.attachments)
        #: Characters of its texts; 0 where they were dropped.
        self.text_size = len(row.get("body_text", "")) + len(row.get("body_html", ""))

    def render(self) -> Outcome | None:
        """Fill in envelope and body; returns the failure of a message that cannot be rendered, which fails alone.

        Does nothing where both are there already: a message that had to take new permits.
        """
        if self.body:
            return None
        claim = self.claim
        is_plain = not (self._has_files or outbox_settings().changes_messages or uses_local_time())
        addresses = claim.open_addresses
        self.route = direct_route(addresses) if is_plain else envelope_route(addresses)
        if not self.route.envelope:
            return _not_rendered(ErrorCode.CONTENT, "the message has no recipients")
        try:
            if _TEXTS[0] not in vars(claim.message):  # it was rendered before, and its attempt did not begin
                retried(claim.message.refresh_from_db)(fields=_TEXTS)
            self.sender = envelope_sender(claim.message)
            usual = claim.message.usual_bytes(claim.header_message_id) if is_plain else None
            self.body = _rendered(claim, self.route) if usual is None else usual
        except ContentAltered as error:
            return _not_rendered(ErrorCode.ATTACHMENT, str(error))
        except Exception as error:  # TRANSFORM_MIME is code of the host, and content may be anything
            if may_pass(error):  # files, and texts once more, are read from the database
                raise
            return _not_rendered(ErrorCode.CONTENT, f"the message cannot be rendered: {type(error).__name__}: {error}")
        self.recipients = self.route.envelope
        self.has_crlf = is_plain or not self.needs_database  # no part of it was made elsewhere
        # What the addresses of the envelope need is judged where the envelope is written.
        self.is_ascii = usual is not None or self.body.isascii()
        self.eight_bit = not self.is_ascii
        self.utf8 = self.eight_bit and needs_smtputf8(self.body)
        if self.text_size > LARGE_TEXT and not gives_messages():
            self._drop_texts()
        return None

    def _drop_texts(self) -> None:
        """Free the texts, which are in the body now; Django would read them again."""
        self.text_size = 0
        for name in _TEXTS:
            vars(self.claim.message).pop(name, None)

    @property
    def needs_database(self) -> bool:
        """Whether the database, or code of the host, has a part in rendering it."""
        return self._has_files or outbox_settings().calls_host

    def may_continue(self) -> bool:
        """Whether the claim and the connection's slot still hold."""
        return self._holds(uptime())

    def may_write(self) -> bool:
        """Whether MAIL, and later the body, may be written at this instant."""
        now = uptime()
        if not self.mail_written:
            holds = self._holds(now)
            self.permit_ended = holds and not self.has_permits()
            if holds and not self.permit_ended:
                self.mail_written, self.mail_at = True, now
            return self.mail_written
        with self._lock:
            if holds := self._holds(now):
                self.body_written = True
            return holds

    def _holds(self, now: float) -> bool:
        connection = self.connection
        if self._cancelled or connection is None:
            return False
        return self.claim.has_time_left(now) and connection.slot.has_time_left(now)

    def has_permits(self) -> bool:
        """Whether no bucket that its permits were taken from has ended."""
        return self._permits_end_at == math.inf or self.clock.running.timestamp() < self._permits_end_at

    def take_other_permits(self, permits: tuple[Permits, ...] = ()) -> None:
        """Begin anew under other permits: those that it had ended before its MAIL, and were given back."""
        self.permits, self._permits_end_at, self.permit_ended = permits, _end_of(permits), False
        self.connection = self.finished = None
        self.outcome = _NOT_BEGUN

    def cancel(self) -> bool:
        """Keep the body from being written; False: the body is being written already."""
        with self._lock:
            self._cancelled = not self.body_written
            return self._cancelled

    def drop_body(self) -> None:
        """Free the body now: the message still waits until its result is recorded."""
        self.body = b""

    def finish(self, outcome: Outcome) -> None:
        """Note the outcome; called on the network's thread."""
        self.outcome, self.finished = outcome, uptime()
        if not self.permit_ended:
            self.drop_body()

    def cut_off(self) -> Outcome:
        """The outcome where its connection died unexpectedly: untouched, or unknown once the body was being written."""
        if not self.body_written:
            return Outcome(Ending.UNTOUCHED, mail_written=self.mail_written)
        return Outcome(
            Ending.UNKNOWN,
            recipients=dict.fromkeys(self.route.envelope, RecipientOutcome(Answer.UNKNOWN)),
            error_code=ErrorCode.UNKNOWN_OUTCOME,
            error="the connection was cut while the message was on its way",
            phase=Phase.BODY,
            mail_written=True,
        )

    @property
    def started_at(self) -> datetime | None:
        """When MAIL was written; None: it was not."""
        return self.clock.at(self.mail_at) if self.mail_written else None

    @property
    def finished_at(self) -> datetime | None:
        """When the outcome came; None: there is none."""
        return None if self.finished is None else self.clock.at(self.finished)

    @property
    def is_touched(self) -> bool:
        """Whether the attempt says something about the message."""
        return self.outcome.ending is not Ending.UNTOUCHED

    @property
    def is_accepted(self) -> bool:
        """Whether the server accepted the message for at least one recipient."""
        return self.outcome.ending is Ending.ACCEPTED

    def attempt(self, **changes: object) -> FinishedAttempt:
        """The finished attempt, with the answers to the real recipients; ``changes`` replace fields of the outcome."""
        outcome = replace(self.outcome, **changes) if changes else self.outcome  # type: ignore[arg-type]
        return FinishedAttempt(
            self.claim,
            outcome,
            self.route.results(outcome.recipients),
            self.started_at or self.clock.now,
            self.finished_at or self.clock.now,
        )


def _end_of(permits: tuple[Permits, ...]) -> float:
    """When the first of these permits ends, as a timestamp; infinite where none ends."""
    return min([permit.ends_at for permit in permits]) if permits else math.inf


def _rendered(claim: Claim, route: Route) -> bytes:
    """The message in its final form; ``retried`` only where the database has a part in it, since it is not free."""
    message = claim.message
    read = message.rendered if not claim.attachments and message.raw_id is None else retried(message.rendered)
    body = read(attachments=claim.attachments, replaced=route.replaced, message_id=claim.header_message_id)
    return retried(_transformed)(message, body) if outbox_settings().transform_mime else body


def _transformed(message: OutboxMessage, body: bytes) -> bytes:
    """Apply ``TRANSFORM_MIME``.  It may ask other databases of the host: the outbox does not wait for those."""
    try:
        return message.transformed(body)
    except Error as error:
        check_database()
        raise ValueError(f"TRANSFORM_MIME: {error}") from error


def _not_rendered(code: str, text: str) -> Outcome:
    return Outcome(Ending.PERMANENT, error_code=code, error=clean(text))


def envelope_sender(message: OutboxMessage) -> str:
    """The reverse-path: the row's own, else the From address, else the account's."""
    if message.envelope_from == NULL_SENDER:
        return ""
    if message.envelope_from and "<" not in message.envelope_from:
        return message.envelope_from  # checked when it was queued; a mailbox of this machine has no domain
    given = message.envelope_from or message.from_email or message.account.email or message.account.user
    return split_mailbox(given).addr_spec
