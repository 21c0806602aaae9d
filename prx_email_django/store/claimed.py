"""A claimed message with all that its transmission needs, read by the token of its lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db.models import prefetch_related_objects

from prx_email_django.conf import outbox_settings
from prx_email_django.models import Attachment, OutboxMessage, Recipient
from prx_email_django.models.history import next_numbers
from prx_email_django.models.message import envelope_route
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.policy import MessageCounters, gave_up
from prx_email_django.rules.recipients import is_open
from prx_email_django.states import Status
from prx_email_django.store.db import retried
from prx_email_django.store.lease import Lease


class ClaimedRecipient(NamedTuple):
    """A ``Recipient`` as the claim found it; an instance of the model costs more than reading its row."""

    message_id: int
    pk: int
    address: str
    result: str
    code: int | None
    text: str


@dataclass(slots=True)
class Claim:
    """One claimed message with all that its transmission needs."""

    message: OutboxMessage
    lease: Lease
    recipients: list[ClaimedRecipient]
    attachments: list[Attachment] = field(default_factory=list)
    number: int = 1
    #: A renewal did not find the row under our token: somebody else has it, and nothing more may be written.
    is_lost: bool = False
    #: The message's primary key.
    id: int = field(init=False)
    #: Addresses that are still open or unknown.
    open_addresses: tuple[str, ...] = field(init=False)
    #: No recipient has a result or an answer yet.
    is_unanswered: bool = field(init=False)
    _header_message_id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.id, self.is_unanswered = self.message.id, True
        addresses: list[str] = []
        for found in self.recipients:
            if found.result or found.code or found.text:
                self.is_unanswered = False
            if not found.result or is_open(found.result):
                addresses.append(found.address)
        self.open_addresses = tuple(addresses)

    @property
    def header_message_id(self) -> str:
        """The Message-ID of this attempt: that of the message as it was claimed."""
        if not self._header_message_id:
            self._header_message_id = self.message.message_id
        return self._header_message_id

    @property
    def envelope_size(self) -> int:
        """As ``envelope_sizes``, of this message."""
        return envelope_sizes([self])[0]

    def has_time_left(self, now: float | None = None) -> bool:
        """Whether the message is still ours, for long enough to begin something; ``now``: see ``Lease``."""
        return not self.is_lost and self.lease.has_time_left(now)

    @property
    def counters(self) -> MessageCounters:
        """The message as the claim found it, for ``policy``."""
        return counters_of(self.message)


@dataclass(slots=True)
class Taken:
    """What a claim statement took, in the order of the claim."""

    messages: list[OutboxMessage] = field(default_factory=list)
    #: The claim stopped at a message that must not be sent twice.
    stopped_at_hold: bool = False
    #: It may have left due messages: it stopped there, or the texts of those that it took are large.
    has_more: bool = False
    #: By message: its recipients, where the statement could read them.
    recipients: dict[int, list[ClaimedRecipient]] = field(default_factory=dict)
    #: Messages that are known to have had no attempt, and no ``raw``.
    usual: set[int] = field(default_factory=set)


def envelope_sizes(claims: Sequence[Claim]) -> list[int]:
    """The number of addresses in each envelope, after ``REDIRECT_TO``: what a limit of recipients counts."""
    if outbox_settings().redirect_to:
        return [len(envelope_route(claim.open_addresses).envelope) for claim in claims]
    return [len(claim.open_addresses) for claim in claims]


def is_hold(on_unknown: str) -> bool:
    """Whether the message goes to rest after an unknown outcome: its own ``on_unknown``, else the setting."""
    return (on_unknown or outbox_settings().on_unknown) == "hold"


def counters_of(message: OutboxMessage) -> MessageCounters:
    """What a verdict needs of a row."""
    return MessageCounters(
        id=message.pk,
        retries=message.retries,
        attempts=message.attempts,
        message_number=message.message_number,
        hold=is_hold(message.on_unknown),
    )


def split_expired(claims: Sequence[Claim], *, clock: Clock) -> tuple[list[Claim], list[Claim]]:
    """Claims that may be sent, and those that are too old."""
    settings, now = outbox_settings(), clock.now
    fresh: list[Claim] = []
    old: list[Claim] = []
    for claim in claims:
        message = claim.message
        if message.expires_at is None and now - message.due_since <= settings.give_up_after:
            fresh.append(claim)  # nearly always, without the cost of ``gave_up``
            continue
        is_old = gave_up(
            now=now,
            due_since=message.due_since,
            due=message.next_attempt_at,
            expires_at=message.expires_at,
            give_up_after=settings.give_up_after,
            max_backoff=settings.max_backoff,
        )
        (old if is_old else fresh).append(claim)
    return fresh, old


@retried
def claimed_messages(ids: Sequence[int], *, lease: Lease) -> list[OutboxMessage]:
    """The messages that are claimed under the lease, in the order of ``ids``."""
    rows = OutboxMessage.objects.filter(pk__in=ids, status=Status.SENDING, claim_token=lease.token)
    messages = {message.pk: message for message in rows}
    return [messages[pk] for pk in ids if pk in messages]


def load_claims(ids: Sequence[int], *, lease: Lease) -> list[Claim]:
    """Read what was claimed, in the order of ``ids``."""
    return claims_of(Taken(claimed_messages(ids, lease=lease)), lease=lease)


@retried
def claims_of(taken: Taken, *, lease: Lease) -> list[Claim]:
    """The claims of claimed messages.

    Recipients that the claim did not read are read now, so that a late result of before the claim is seen.
    """
    messages = taken.messages
    unread = [message.id for message in messages if message.id not in taken.recipients]
    recipients: dict[int, list[ClaimedRecipient]] = taken.recipients | {pk: [] for pk in unread}
    if unread:
        found = Recipient.objects.filter(message_id__in=unread).order_by("id")
        for row in found.values_list(*ClaimedRecipient._fields):
            recipients[row[0]].append(ClaimedRecipient(*row))
    claims: dict[int, Claim] = {}
    others: dict[int, Claim] = {}
    with_parts: list[int] = []
    for message in messages:
        row = vars(message)  # a third of what the attributes cost
        pk = row["id"]
        claims[pk] = claim = Claim(message, lease, recipients[pk])
        if pk not in taken.usual:
            others[pk] = claim
        if row["size"] != (0 if row["raw_id"] else len(row["body_text"]) + len(row["body_html"])):
            with_parts.append(pk)
    if rendered := [claim.message for claim in others.values() if claim.message.raw_id]:
        prefetch_related_objects(rendered, "raw")
    if with_parts:
        for part in Attachment.objects.filter(message_id__in=with_parts).order_by("position"):
            claims[part.message_id].attachments.append(part)
    _number(others)
    return list(claims.values())


def _number(claims: dict[int, Claim]) -> None:
    """Set the number of the next attempt: 1 without a query for messages that cannot have had an attempt."""
    tried = [
        pk
        for pk, claim in claims.items()
        if claim.message.attempts or claim.message.last_error_code or claim.message.provider_message_id
    ]
    for pk, number in (next_numbers(tried) if tried else {}).items():
        claims[pk].number = number
