"""enqueue: a message with its recipients and attachments, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import IntegrityError, connections

from prx_email_django.conf import outbox_settings
from prx_email_django.models import Attachment, Content, OutboxMessage, Recipient
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.clock import Clock
from prx_email_django.states import Status
from prx_email_django.store.claimed import Claim, ClaimedRecipient, load_claims
from prx_email_django.store.contents import store_contents
from prx_email_django.store.db import atomic, lease_until, refusing_text, retried_after_conflict
from prx_email_django.store.draft import Draft, DraftPart, columns, idempotency_hash
from prx_email_django.store.insert_execution import Unfit
from prx_email_django.store.lease import Lease, released_on_absence

#: Rows of one INSERT.
BATCH = 500


@refusing_text
@retried_after_conflict
def insert(draft: Draft, *, clock: Clock) -> tuple[OutboxMessage, bool]:
    """Write a draft; with a key that is known, return the first row and False."""
    known = _by_key(draft)
    if known is not None:
        return known, False
    try:
        with atomic():
            return _insert_all([draft], clock=clock).messages[0], True
    except IntegrityError:
        known = _by_key(draft)
        if known is None:
            raise
        return known, False


@refusing_text
@retried_after_conflict
def insert_claimed(draft: Draft, *, clock: Clock) -> Claim | OutboxMessage:
    """Write a draft that is claimed from its first instant, so that no drain can take the row between.

    With a key that is known, the first row is returned, and nothing is claimed.
    """
    known = _by_key(draft)
    if known is not None:
        return known
    lease = Lease(outbox_settings().lease)
    try:
        with released_on_absence(lease), atomic():
            written = _insert_all([draft], clock=clock, lease=lease)
    except IntegrityError:
        known = _by_key(draft)
        if known is None:
            raise
        return known
    message = written.messages[0]
    recipients = [
        ClaimedRecipient(message.pk, row.pk, row.address, row.result, row.code, row.text) for row in written.recipients
    ]
    if any(recipient.pk is None for recipient in recipients):  # MySQL gives no keys back
        with released_on_absence(lease):
            claims = load_claims([message.pk], lease=lease)
        # Somebody wrote its status meanwhile: the row says what it came to.
        return claims[0] if claims else OutboxMessage.objects.get(pk=message.pk)
    message.claim_expires_at = clock.running + outbox_settings().lease  # an expression until now
    return Claim(message=message, lease=lease, recipients=recipients, attachments=written.attachments)


def insert_many(drafts: Sequence[Draft], *, clock: Clock) -> tuple[list[OutboxMessage], int]:
    """Write many drafts, in order, and return how many are new; keys are honoured among them too."""
    plain = [draft for draft in drafts if draft.idempotency_key is None]
    batches = (plain[start : start + BATCH] for start in range(0, len(plain), BATCH))
    bulk = iter([message for batch in batches for message in _insert_all(batch, clock=clock).messages])
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


def by_key(draft: Draft) -> OutboxMessage:
    """The message that has the draft's key.

    Raises:
        Unfit: there is none: it has been deleted at this moment, or a repeatable read does not show it.
    """
    found = _by_key(draft)
    if found is None:
        raise Unfit
    return found


class _Written(NamedTuple):
    messages: list[OutboxMessage]
    recipients: list[Recipient]
    attachments: list[Attachment]


def _insert_all(drafts: Sequence[Draft], *, clock: Clock, lease: Lease | None = None) -> _Written:
    bodies = [(draft.raw, draft.is_sensitive) for draft in drafts if draft.raw is not None]
    bodies += [(part.content, draft.is_sensitive) for draft in drafts for part in draft.parts]
    private = {place for place, (_body, is_sensitive) in enumerate(bodies) if is_sensitive}
    contents = iter(store_contents([body for body, _ in bodies], clock=clock, private=private))
    raws = [None if draft.raw is None else next(contents) for draft in drafts]
    messages = [_message(draft, raw, clock=clock, lease=lease) for draft, raw in zip(drafts, raws, strict=True)]
    if connections[outbox_alias()].features.can_return_rows_from_bulk_insert:
        OutboxMessage.objects.bulk_create(messages)
    else:  # MySQL gives no keys back
        for message in messages:
            message.save(force_insert=True)
    recipients = Recipient.objects.bulk_create(
        [
            Recipient(message=message, kind=kind, address=address)
            for message, draft in zip(messages, drafts, strict=True)
            for kind, address in draft.recipients
        ],
        batch_size=BATCH,
    )
    attachments = Attachment.objects.bulk_create(
        [
            _attachment(message, position, part, next(contents))
            for message, draft in zip(messages, drafts, strict=True)
            for position, part in enumerate(draft.parts)
        ],
        batch_size=BATCH,
    )
    return _Written(messages, recipients, attachments)


def _message(draft: Draft, raw: Content | None, *, clock: Clock, lease: Lease | None) -> OutboxMessage:
    return OutboxMessage(
        account=draft.account,
        status=Status.PENDING if lease is None else Status.SENDING,
        claim_token=None if lease is None else lease.token,
        claim_expires_at=None if lease is None else lease_until(clock, outbox_settings().lease),
        next_attempt_at=draft.due_at or clock.now,
        due_since=draft.due_at or clock.now,
        idempotency_key=draft.idempotency_key,
        idempotency_hash=idempotency_hash(draft.idempotency_key),
        raw=raw,
        size=draft.size,
        created_at=clock.now,
        updated_at=clock.now,
        **columns(draft),
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
