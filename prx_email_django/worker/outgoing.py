"""From a claim to a parcel, and what must still hold when it is written."""

from __future__ import annotations

import math
import threading
from datetime import datetime

from prx_email_django.limits.slots import Slot
from prx_email_django.limits.windows import Permits
from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.models import OutboxMessage
from prx_email_django.models.content import ContentAltered
from prx_email_django.models.message import envelope_route
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.outcomes import Ending, Outcome
from prx_email_django.rules.redirect import Route
from prx_email_django.rules.text import cut
from prx_email_django.states import ErrorCode
from prx_email_django.store.claims import Claim
from prx_email_django.transports.base import OutgoingMessage

#: The null sender, as ``envelope_from`` (RFC 5321 §4.5.5).
NULL_SENDER = "<>"


class Held:
    """A claimed message and the permits that were taken for it."""

    def __init__(self, claim: Claim, permits: tuple[Permits, ...] = ()) -> None:
        self.claim = claim
        self.permits = permits
        #: MAIL went over the wire: the permits are spent.
        self.mail_written = False

    @property
    def id(self) -> int:
        """The message's primary key."""
        return self.claim.id


class Job(Held):
    """One claimed message on its way through the network."""

    def __init__(
        self, claim: Claim, route: Route, outgoing: OutgoingMessage, *, clock: Clock, permits: tuple[Permits, ...]
    ) -> None:
        super().__init__(claim, permits)
        self.route = route
        self.outgoing = outgoing
        self.clock = clock
        self.slot: Slot | None = None
        self.started_at: datetime | None = None
        self.body_written = False
        self.cancelled = False
        self._lock = threading.Lock()
        outgoing.may_write, outgoing.still_may = self.may_write, self.still_may

    @property
    def permits_end(self) -> float:
        """When the first of the permits' buckets ends, on the running clock."""
        return min((one.ends_at for one in self.permits), default=math.inf)

    def still_may(self) -> bool:
        """Whether claim and slot hold."""
        return not self.cancelled and self.claim.lease.holds() and self.slot is not None and self.slot.holds()

    def may_write(self) -> bool:
        """Asked before MAIL and again before the body, at that instant: may it be written?"""
        with self._lock:
            held = self.still_may()
            if not self.mail_written:
                held = held and (not self.permits or self.clock.running.timestamp() < self.permits_end)
                if held:
                    self.mail_written, self.started_at = True, self.clock.now
            elif held:
                self.body_written = True
            return held

    def let_go(self) -> None:
        """It has left the network: drop its octets now, since results wait for their record.

        Job and parcel refer to each other: left to themselves, a body would stay until the garbage collector comes by.
        """
        self.outgoing.may_write = self.outgoing.still_may = _never
        self.outgoing.body = b""

    def cancel(self) -> bool:
        """Keep the body from being written; False: it is on its way already."""
        with self._lock:
            self.cancelled = not self.body_written
            return self.cancelled


def _never() -> bool:
    return False


def prepare(held: Held, *, clock: Clock) -> Job | Outcome:
    """The job for a claim, or the failure of a message that cannot be rendered: it fails alone, never the drain."""
    claim, route = held.claim, envelope_route(held.claim.open_addresses)
    if not route.envelope:
        return _broken(ErrorCode.CONTENT, "the message has no recipients")
    try:
        body = claim.message.as_bytes(attachments=claim.attachments, replaced=route.replaced)
        sender = envelope_sender(claim.message)
    except ContentAltered as error:
        return _broken(ErrorCode.ATTACHMENT, str(error))
    except Exception as error:  # noqa: BLE001  (TRANSFORM_MIME is the host's code, and content is anybody's)
        return _broken(ErrorCode.CONTENT, f"the message cannot be rendered: {type(error).__name__}: {error}")
    outgoing = OutgoingMessage(
        id=claim.id,
        sender=sender,
        recipients=route.envelope,
        body=body,
        # Bodies are always 7-bit: only a header in UTF-8 (RFC 6532) leaves other octets.
        utf8=not body.isascii() or not all(address.isascii() for address in (sender, *route.envelope)),
        eight_bit=not body.isascii(),
    )
    return Job(claim, route, outgoing, clock=clock, permits=held.permits)


def _broken(code: str, text: str) -> Outcome:
    return Outcome(Ending.PERMANENT, error_code=code, error=cut(text))


def envelope_sender(message: OutboxMessage) -> str:
    """The reverse-path: the row's own, else the From address, else the account's."""
    if message.envelope_from == NULL_SENDER:
        return ""
    if message.envelope_from and "<" not in message.envelope_from:
        return message.envelope_from  # judged when it was queued; a mailbox of this machine has no domain
    given = message.envelope_from or message.from_email or message.account.email or message.account.user
    return split_mailbox(given).addr_spec
