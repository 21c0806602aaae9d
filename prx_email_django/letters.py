"""From a row to what goes over the wire: the letter, its octets, and the parsed message that the admin shows."""

from __future__ import annotations

import email
import email.policy
import hashlib
from collections.abc import Iterable, Mapping
from email.message import EmailMessage
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from django.utils.module_loading import import_string

from prx_email_django.conf import outbox_settings
from prx_email_django.mime import Letter, Part, render
from prx_email_django.models.content import Attachment, ContentAltered, ContentChunk
from prx_email_django.redirect import Route, route

if TYPE_CHECKING:
    from prx_email_django.models.message import OutboxMessage


def read_content(content_id: int | None, sha256: str = "") -> bytes:
    """Stored octets, checked against ``sha256`` where it is given.

    Raises:
        ContentAltered: they are missing or altered.
    """
    if content_id is None:
        raise ContentAltered("the content has been removed")
    chunks = ContentChunk.objects.filter(content_id=content_id).order_by("position")
    octets = b"".join(bytes(data) for data in chunks.values_list("data", flat=True))
    if sha256 and hashlib.sha256(octets).hexdigest() != sha256:
        raise ContentAltered("the stored content is missing or altered")
    return octets


def envelope_route(addresses: Iterable[str]) -> Route:
    """The envelope for these recipients, after ``REDIRECT_TO``."""
    settings = outbox_settings()
    return route(tuple(addresses), redirect_to=settings.redirect_to, passing=settings.redirect_except)


def letter_of(
    message: OutboxMessage, *, attachments: Iterable[Attachment] | None = None, replaced: Iterable[str] = ()
) -> Letter:
    """The letter that a row says; ``replaced`` are recipients named in ``X-Original-To``.

    Raises:
        ContentAltered: an attachment is missing or altered.
    """
    if attachments is None:
        attachments = message.attachments.all()
    headers = tuple((name, str(value)) for name, value in header_pairs(message.headers))
    replaced = tuple(replaced)
    if replaced:
        headers += (("X-Original-To", ", ".join(replaced)),)
    raw = None if message.raw_id is None else read_content(message.raw_id, message.raw.sha256)  # type: ignore[union-attr]
    return Letter(
        from_email=message.from_email,
        to=tuple(message.to),
        cc=tuple(message.cc),
        reply_to=tuple(message.reply_to),
        subject=message.subject,
        message_id=message.message_id,
        date=message.due_since,
        body_text=message.body_text,
        body_html=message.body_html,
        headers=headers,
        in_reply_to=message.in_reply_to_message_id,
        references=message.references,
        parts=tuple(_part(one) for one in attachments),
        raw=raw,
    )


def header_pairs(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Stored headers as pairs: a mapping, or a list of pairs where a name stands more than once."""
    if isinstance(headers, Mapping):
        return list(headers.items())
    return [(name, value) for name, value in headers]


def wire_bytes(
    message: OutboxMessage, *, attachments: Iterable[Attachment] | None = None, replaced: Iterable[str] = ()
) -> bytes:
    """The octets of the message, after ``TRANSFORM_MIME``.

    Raises:
        ContentAltered: an attachment is missing or altered.
        ValueError: the message cannot be rendered.
    """
    octets = render(letter_of(message, attachments=attachments, replaced=replaced))
    transform = outbox_settings().transform_mime
    return cast(bytes, _imported(transform)(octets, message)) if transform else octets


def as_email(message: OutboxMessage) -> EmailMessage:
    """The parsed message, exactly as it goes over the wire."""
    addresses = [one.address for one in message.recipients.all()]
    octets = wire_bytes(message, replaced=envelope_route(addresses).replaced)
    return email.message_from_bytes(octets, policy=email.policy.default)


def _part(attachment: Attachment) -> Part:
    return Part(
        kind=attachment.kind,
        filename=attachment.filename,
        content_type=attachment.content_type,
        content=read_content(attachment.content_id, attachment.sha256),
        inline_id=attachment.inline_id,
    )


@lru_cache(maxsize=8)
def _imported(path: str) -> Any:
    return import_string(path)
