"""erase: remove the address of one person, and what was written to and by them, from the messages of the outbox.

Where nothing else is said, a message is found by any column that holds the address.  Messages that are being sent, and
content that others are still to receive, are left; the report names them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from django.db import IntegrityError
from django.db.models import F, Q

from prx_email_django.models import Attachment, Content, ContentChunk, OutboxMessage, Recipient
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.erasure import ErasedAddress
from prx_email_django.rules.recipients import is_settled, settled_status
from prx_email_django.states import Status
from prx_email_django.store.attempts import becomes_sent
from prx_email_django.store.db import atomic, retried
from prx_email_django.store.erase_search import having

#: Messages that one transaction locks.
BATCH = 200

_LISTS = ("to", "cc", "bcc")
#: Columns of a message that the caller gave.
_CONTENT = (
    *("from_email", "envelope_from", "subject", "body_text", "body_html"),
    *("in_reply_to_message_id", "references", "fixed_message_id", "tag", "idempotency_key"),
)
_JSON = (*_LISTS, "reply_to", "headers", "metadata")
#: Columns of a file beside its name.
_FILE = ("content_type", "inline_id")


class Plan(Enum):
    """What is done with one message."""

    #: Only to the person: the row goes, with recipients, attempts and files.
    DELETE = "delete"
    #: Sent, to others too, or from the person: its content goes, its state stays.
    EMPTY = "empty"
    #: To others too, and not sent yet: the person does not receive it any more.
    WITHDRAW = "withdraw"
    #: Not sent yet, not to the person, but its content holds the address.
    LEAVE = "leave"


@dataclass(slots=True)
class ErasedMessages:
    """Ids of the messages by what was done, and the content that nothing refers to any more."""

    deleted: list[int] = field(default_factory=list)
    emptied: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    contents: set[int] = field(default_factory=set)


def plan_for(message: OutboxMessage, recipients: Sequence[Recipient], address: ErasedAddress) -> Plan:
    """What erasing the address does with this message."""
    theirs = [recipient for recipient in recipients if address.is_in(recipient.address)]
    if message.status == Status.SENDING:
        return Plan.LEAVE
    if theirs and len(theirs) == len(recipients):
        return Plan.DELETE
    if message.status == Status.SENT:
        return Plan.EMPTY
    return Plan.WITHDRAW if theirs else Plan.LEAVE


def erase_messages(address: ErasedAddress, *, clock: Clock, dry_run: bool = False) -> ErasedMessages:
    """Erase the address from all messages, batch by batch; ``dry_run``: only say what would be done."""
    done = ErasedMessages()
    for ids in _found(address):
        _batch(ids, address, clock=clock, dry_run=dry_run, done=done)
    if not dry_run:
        _delete_contents(done.contents)
    return done


def _found(address: ErasedAddress) -> Iterator[list[int]]:
    """Ids by the index of recipients first, then by a scan of everything else; no message twice."""
    seen = set(
        Recipient.objects.filter(address_lower__in=address.spellings).order_by().values_list("message_id", flat=True)
    )
    first = sorted(seen)
    for start in range(0, len(first), BATCH):
        yield first[start : start + BATCH]
    for ids in _scanned(address):
        more = sorted(set(ids) - seen)
        seen.update(more)
        for start in range(0, len(more), BATCH):
            yield more[start : start + BATCH]


def _scanned(address: ErasedAddress) -> Iterator[list[int]]:
    """Ids of messages whose own columns, or names of files, hold the address."""
    for files in having(Attachment.objects.all(), address, texts=_FILE, files=["filename"]):
        yield [file.message_id for file in files]
    for messages in having(OutboxMessage.objects.all(), address, texts=_CONTENT, jsons=_JSON):
        yield [message.pk for message in messages]


@retried
def _batch(ids: list[int], address: ErasedAddress, *, clock: Clock, dry_run: bool, done: ErasedMessages) -> None:
    batch = ErasedMessages()
    with atomic():
        rows = OutboxMessage.objects.filter(pk__in=ids)
        if not dry_run:
            rows.update(updated_at=F("updated_at"))  # locks them, so that what is read next stays as it is
        recipients: dict[int, list[Recipient]] = {pk: [] for pk in ids}
        for recipient in Recipient.objects.filter(message_id__in=ids).order_by("pk"):
            recipients[recipient.message_id].append(recipient)
        for message in rows.order_by("pk"):
            _message(message, recipients[message.pk], address, clock=clock, dry_run=dry_run, done=batch)
        if not dry_run:
            _no_longer_shared(batch.contents)
    # Not before the commit: the batch may run again after a conflict.
    done.contents |= batch.contents
    for name in ("deleted", "emptied", "withdrawn", "left"):
        getattr(done, name).extend(getattr(batch, name))


def _message(  # noqa: PLR0913  (one message of a batch)
    message: OutboxMessage,
    recipients: Sequence[Recipient],
    address: ErasedAddress,
    *,
    clock: Clock,
    dry_run: bool,
    done: ErasedMessages,
) -> None:
    plan = plan_for(message, recipients, address)
    if plan is Plan.WITHDRAW:
        done.withdrawn.append(message.pk)
        if not dry_run and _withdraw(message, recipients, address, clock=clock) is Status.SENT:
            plan = Plan.EMPTY
        elif _content_holds(message, address):
            plan = Plan.LEAVE
    if plan is Plan.LEAVE:
        done.left.append(message.pk)
    elif plan is Plan.DELETE:
        done.deleted.append(message.pk)
        if not dry_run:
            done.contents |= _contents_of(message)
            message.delete()
    elif plan is Plan.EMPTY:
        done.emptied.append(message.pk)
        if not dry_run:
            done.contents |= _contents_of(message)
            _empty(message, address, clock=clock)


def _content_holds(message: OutboxMessage, address: ErasedAddress) -> bool:
    """Whether what the other recipients are still to receive holds the address; a rendered message may."""
    columns = (name for name in (*_CONTENT, *_JSON) if name not in _LISTS)
    if message.raw_id is not None or any(address.is_in(getattr(message, name) or "") for name in columns):
        return True
    files = Attachment.objects.filter(message_id=message.pk)
    return any(
        address.is_in_file_name(file.filename) or any(address.is_in(getattr(file, name)) for name in _FILE)
        for file in files
    )


def _withdraw(
    message: OutboxMessage, recipients: Sequence[Recipient], address: ErasedAddress, *, clock: Clock
) -> Status:
    """Take the person off the recipients; a message that waited only for them is over.  Returns its status."""
    row = OutboxMessage.objects.filter(pk=message.pk)
    rest = [recipient for recipient in recipients if not address.is_in(recipient.address)]
    gone = [recipient.pk for recipient in recipients if address.is_in(recipient.address)]
    Recipient.objects.filter(pk__in=gone).delete()
    row.update(**{name: address.without(getattr(message, name)) for name in _LISTS}, updated_at=clock.now)
    results = [recipient.result for recipient in rest]
    if message.status != Status.FAILED or not is_settled(results):
        return Status(message.status)
    if settled_status(results) is Status.SENT:
        row.update(**becomes_sent(message, rest, now=clock.now))
        return Status.SENT
    row.update(next_attempt_at=None)
    return Status.FAILED


def _empty(message: OutboxMessage, address: ErasedAddress, *, clock: Clock) -> None:
    """Remove the content of a sent message, and the person from its addresses."""
    row = OutboxMessage.objects.filter(pk=message.pk)
    found = Recipient.objects.filter(message_id=message.pk).only("pk", "address")
    Recipient.objects.filter(pk__in=[recipient.pk for recipient in found if address.is_in(recipient.address)]).delete()
    Attachment.objects.filter(message_id=message.pk).delete()
    row.update(
        **{name: address.without(getattr(message, name)) for name in (*_LISTS, "reply_to")},
        **{name: "" for name in ("from_email", "envelope_from") if address.is_in(getattr(message, name))},
        **{name: address.redacted(getattr(message, name)) for name in _CONTENT if name.endswith(("_id", "references"))},
        subject="",
        body_text="",
        body_html="",
        headers={},
        metadata={},
        raw=None,
        size=0,
        updated_at=clock.now,
    )
    # Labels of this app's users are often put together, as welcome-ann@example.org.
    if address.is_part_of(message.tag):
        row.update(tag="")
    if address.is_part_of(message.idempotency_key or ""):
        row.update(idempotency_key=None, idempotency_hash=None)


def _contents_of(message: OutboxMessage) -> set[int]:
    files = Attachment.objects.filter(message_id=message.pk).values_list("content_id", flat=True)
    return {pk for pk in (message.raw_id, *files) if pk is not None}


def _unreferenced(contents: Iterable[int]) -> Q:
    return Q(pk__in=list(contents), attachments__isnull=True, messages__isnull=True)


def _no_longer_shared(contents: Collection[int]) -> None:
    """A private content gets no new reference, so that it can be deleted once this is committed."""
    ids = list(Content.objects.filter(_unreferenced(contents)).values_list("pk", flat=True))
    Content.objects.filter(pk__in=ids).update(is_private=True)


def _delete_contents(contents: Collection[int]) -> None:
    """Delete what nothing refers to; what somebody has just referred to stays for ``purge``."""
    for pk in Content.objects.filter(_unreferenced(contents)).values_list("pk", flat=True):
        try:
            _delete_content(pk)
        except IntegrityError:
            continue


@retried
def _delete_content(pk: int) -> None:
    with atomic():
        ContentChunk.objects.filter(content_id=pk).delete()
        Content.objects.filter(pk=pk).delete()
