"""A validated message that is not written yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connections

from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.foreign_text import fitted
from prx_email_django.models.managers import outbox_alias

#: Columns of a rendered message that are shown and searched, but not sent.
_SHOWN = ("to", "cc", "bcc", "reply_to", "from_email", "subject", "body_text", "body_html")


@dataclass(frozen=True, slots=True)
class DraftPart:
    """An attachment of a draft, with its content."""

    kind: str
    filename: str
    content_type: str
    content: bytes = field(repr=False)
    inline_id: str = ""


@dataclass(slots=True)
class Draft:
    """A validated message that is not written yet; ``fields`` are columns of ``OutboxMessage``.  Nobody changes it."""

    account: Account
    #: None: at the instant of the statement that writes it.
    due_at: datetime | None
    fields: dict[str, Any]
    recipients: Sequence[tuple[str, str]]
    parts: Sequence[DraftPart] = ()
    raw: bytes | None = field(default=None, repr=False)
    idempotency_key: str | None = None
    #: The version of the account's row by which the draft was made (``compose.known``); empty: any.
    version: str = ""

    @property
    def is_sensitive(self) -> bool:
        """Whether the content is removed as soon as the message is sent."""
        return bool(self.fields.get("is_sensitive"))

    @property
    def size(self) -> int:
        """Bytes of content and attachments, characters of the bodies."""
        if self.raw is None and not self.parts:
            return self._text_size
        # An empty part counts 1: the claim reads parts only if the size says that there are some.
        parts = sum(max(1, len(part.content)) for part in self.parts)
        return len(self.raw or b"") + parts + self._text_size

    @property
    def least_size(self) -> int:
        """The least size of the rendered message, in bytes: base64 makes 78 bytes of 57."""
        return len(self.raw or b"") + self._text_size + sum(len(part.content) * 78 // 57 for part in self.parts)

    @property
    def _text_size(self) -> int:
        return len(self.fields.get("body_text", "")) + len(self.fields.get("body_html", ""))


def idempotency_hash(key: str | None) -> str | None:
    """What is unique per account: a text column is case- and accent-blind in MariaDB."""
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()


def is_queued(account: Account, key: str | None) -> bool:
    """Whether the account has a message with this idempotency key."""
    wanted = idempotency_hash(key)
    return wanted is not None and OutboxMessage.objects.filter(account=account, idempotency_hash=wanted).exists()


def row_of(draft: Draft) -> dict[str, Any]:
    """The columns of ``columns``, and those that follow from the draft: size, key, hash of the key."""
    row = columns(draft).copy()
    row["size"] = draft.size
    if draft.idempotency_key is not None:
        row["idempotency_key"], row["idempotency_hash"] = draft.idempotency_key, idempotency_hash(draft.idempotency_key)
    return row


def columns(draft: Draft) -> dict[str, Any]:
    """The columns that the draft sets.

    What is sent of a rendered message is ``raw``; its other columns are only shown, so a character that the database
    cannot hold is replaced there.  Without ``raw`` they are sent, and the database refuses the character.
    """
    if draft.raw is None:
        return draft.fields
    connection = connections[outbox_alias()]
    shown = {name: fitted(draft.fields[name], connection) for name in _SHOWN if name in draft.fields}
    return draft.fields | shown
