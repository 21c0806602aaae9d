"""Drafts that are made of a stored message: the same mail once more, or a copy of it for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prx_email_django.compose.accounts import resolve_account
from prx_email_django.compose.validation import normalise_recipients
from prx_email_django.errors import RetryRejected
from prx_email_django.mime.headers import address_field, text_field
from prx_email_django.mime.recode import split_fields
from prx_email_django.models import Attachment, OutboxMessage
from prx_email_django.models.content import ContentAltered, read_content
from prx_email_django.models.message import header_pairs
from prx_email_django.store.draft import Draft, DraftPart

#: Marks the subject of a copy.
COPY = "[Copy]"
#: Header of a copy: the Message-ID of the message whose copy it is.
COPY_OF = "X-Outbox-Copy-Of"
#: Fields that the outbox makes anew, and the signature over them, which is wrong afterwards.
_MADE_ANEW = frozenset({"message-id", "date", "dkim-signature"})
#: A copy must not unsubscribe, acknowledge or copy in the name of the recipient: these fields are left out of it.
_OF_THE_RECIPIENT = frozenset(
    {
        *("to", "cc", "bcc", "reply-to", "subject", "list-unsubscribe", "list-unsubscribe-post"),
        *("disposition-notification-to", "return-receipt-to"),
    }
)
#: Columns that both drafts take over.
_CONTENT = ("from_email", "body_text", "body_html", "in_reply_to_message_id", "references", "is_sensitive")
#: Columns that say what the mail is for.  A copy has none of them: its tag and metadata would count it as the mail
#: itself, and a bounce address of its own would report its bounce as the recipient's.
_PURPOSE = ("to", "cc", "bcc", "reply_to", "subject", "envelope_from", "priority", "on_unknown", "tag", "metadata")


def resend_draft(message: OutboxMessage, *, now: datetime) -> Draft:
    """Return the same mail to the same recipients, with a Message-ID and a Date of its own.

    Raises:
        RetryRejected: ``not_retriable``: the content is sensitive, was removed, or is altered.
        AccountUnavailable: the account is switched off.
    """
    if message.is_sensitive:
        raise RetryRejected("the content is sensitive: it is sent once only", code="not_retriable")
    fields = {name: getattr(message, name) for name in (*_CONTENT, *_PURPOSE)}
    recipients = [(row.kind, row.address) for row in message.recipients.order_by("pk")]
    return _draft(message, {**fields, "headers": message.headers}, recipients, drop=_MADE_ANEW, now=now)


def copy_draft(message: OutboxMessage, *, to: str, now: datetime) -> Draft:
    """Return a copy for ``to`` alone: ``[Copy]`` before the subject, and the header ``X-Outbox-Copy-Of``.

    It has no tag, no metadata and no field by which its reader could act for the recipient (``List-Unsubscribe``).

    Raises:
        InvalidMessage: ``empty_to``, ``invalid_address``.
        RetryRejected, AccountUnavailable: as for ``resend_draft``; sensitive content may be copied.
    """
    recipients = normalise_recipients(to)
    drop = _MADE_ANEW | _OF_THE_RECIPIENT
    kept = [pair for pair in header_pairs(message.headers) if pair[0].lower() not in drop]
    fields = {name: getattr(message, name) for name in _CONTENT} | {
        "to": [to],
        "subject": f"{COPY} {message.subject}".strip(),
        "headers": [*kept, (COPY_OF, message.message_id)],
    }
    return _draft(message, fields, recipients, drop=drop, now=now)


def _draft(
    message: OutboxMessage,
    fields: dict[str, Any],
    recipients: list[tuple[str, str]],
    *,
    drop: frozenset[str],
    now: datetime,
) -> Draft:
    if not message.size:
        raise RetryRejected("the content has been removed", code="not_retriable")
    account = resolve_account(message.account)
    try:
        raw = None if message.raw is None else read_content(message.raw.pk, message.raw.sha256)
        parts = [_part(attachment) for attachment in message.attachments.order_by("position")]
    except ContentAltered as error:
        raise RetryRejected(str(error), code="not_retriable") from error
    if raw is not None:
        raw = _without(raw, drop, added=_raw_fields(fields) if "subject" in drop else ())
    return Draft(account=account, due_at=now, fields=fields, recipients=recipients, parts=parts, raw=raw)


def _part(attachment: Attachment) -> DraftPart:
    return DraftPart(
        kind=attachment.kind,
        filename=attachment.filename,
        content_type=attachment.content_type,
        content=read_content(attachment.content_id, attachment.sha256),
        inline_id=attachment.inline_id,
    )


def _without(raw: bytes, drop: frozenset[str], *, added: Iterable[str]) -> bytes:
    fields, body = split_fields(raw)
    kept = [encoded for name, encoded in fields if name not in drop]
    return b"".join((*(line.encode() for line in added), *kept, b"\r\n", body))


def _raw_fields(fields: dict[str, Any]) -> Iterable[str]:
    """The fields of a copy that stand in the rendered message itself; the other headers are put in front of it."""
    yield text_field("Subject", " ".join(fields["subject"].split()))
    yield address_field("To", fields["to"])
