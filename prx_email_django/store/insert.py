"""enqueue: a message with its recipients and attachments, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connections

from prx_email_django.models import Account, Attachment, Content, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.states import Status
from prx_email_django.store.contents import store_contents
from prx_email_django.store.db import atomic, retried

#: Rows of one INSERT.
BATCH = 500


@dataclass(frozen=True, slots=True)
class DraftPart:
    """An attachment of a draft, with its octets."""

    kind: str
    filename: str
    content_type: str
    content: bytes = field(repr=False)
    inline_id: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A validated message that is not written yet; ``fields`` are columns of ``OutboxMessage``."""

    account: Account
    due_at: datetime
    fields: dict[str, Any]
    recipients: Sequence[tuple[str, str]]
    parts: Sequence[DraftPart] = ()
    raw: bytes | None = field(default=None, repr=False)
    idempotency_key: str | None = None


def idempotency_hash(key: str | None) -> str | None:
    """What is unique per account: a text column is case- and accent-blind in MariaDB."""
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()


@retried
def insert(draft: Draft, *, clock: Clock) -> tuple[OutboxMessage, bool]:
    """Write a draft; with a key that is known, return the first row and False."""
    known = _by_key(draft)
    if known is not None:
        return known, False
    try:
        with atomic():
            return _insert_all([draft], clock=clock)[0], True
    except IntegrityError:
        known = _by_key(draft)
        if known is None:
            raise
        return known, False


def insert_many(drafts: Sequence[Draft], *, clock: Clock) -> tuple[list[OutboxMessage], int]:
    """Write many drafts, in order, and tell how many are new; keys are honoured among them too."""
    plain = [draft for draft in drafts if draft.idempotency_key is None]
    batches = (plain[start : start + BATCH] for start in range(0, len(plain), BATCH))
    bulk = iter([message for batch in batches for message in _insert_all(batch, clock=clock)])
    new = len(plain)
    # In one order everywhere: two callers with the same keys would deadlock otherwise.
    keyed = sorted(
        (draft.idempotency_key, place) for place, draft in enumerate(drafts) if draft.idempotency_key is not None
    )
    written: dict[int, OutboxMessage] = {}
    for _, place in keyed:
        written[id(drafts[place])], is_new = insert(drafts[place], clock=clock)
        new += is_new
    return [next(bulk) if draft.idempotency_key is None else written[id(draft)] for draft in drafts], new


def _by_key(draft: Draft) -> OutboxMessage | None:
    if draft.idempotency_key is None:
        return None
    wanted = idempotency_hash(draft.idempotency_key)
    return OutboxMessage.objects.filter(account=draft.account, idempotency_hash=wanted).first()


def _insert_all(drafts: Sequence[Draft], *, clock: Clock) -> list[OutboxMessage]:
    octets = [draft.raw for draft in drafts if draft.raw is not None]
    octets += [part.content for draft in drafts for part in draft.parts]
    contents = iter(store_contents(octets, clock=clock))
    messages = [_message(draft, None if draft.raw is None else next(contents), clock=clock) for draft in drafts]
    if connections[outbox_alias()].features.can_return_rows_from_bulk_insert:
        OutboxMessage.objects.bulk_create(messages)
    else:  # MySQL gives no keys back
        for message in messages:
            message.save(force_insert=True)
    Recipient.objects.bulk_create(
        [
            Recipient(message=message, kind=kind, address=address)
            for message, draft in zip(messages, drafts, strict=True)
            for kind, address in draft.recipients
        ],
        batch_size=BATCH,
    )
    Attachment.objects.bulk_create(
        [
            _attachment(message, position, part, next(contents))
            for message, draft in zip(messages, drafts, strict=True)
            for position, part in enumerate(draft.parts)
        ],
        batch_size=BATCH,
    )
    return messages


def _message(draft: Draft, raw: Content | None, *, clock: Clock) -> OutboxMessage:
    # An empty part counts too: the claim asks for parts only where the size tells of some.
    size = len(draft.raw or b"") + sum(max(1, len(part.content)) for part in draft.parts)
    size += len(draft.fields.get("body_text", "")) + len(draft.fields.get("body_html", ""))
    return OutboxMessage(
        account=draft.account,
        status=Status.PENDING,
        next_attempt_at=draft.due_at,
        due_since=draft.due_at,
        idempotency_key=draft.idempotency_key,
        idempotency_hash=idempotency_hash(draft.idempotency_key),
        raw=raw,
        size=size,
        created_at=clock.now,
        updated_at=clock.now,
        **draft.fields,
    )


def _attachment(message: OutboxMessage, position: int, part: DraftPart, content: Content) -> Attachment:
    return Attachment(
        message=message,
        kind=part.kind,
        position=position,
        filename=part.filename,
        content_type=part.content_type,
        size=content.size,
        sha256=content.sha256,
        inline_id=part.inline_id,
        content=content,
    )
