"""What is rendered: the values of one message, without any model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MailPart:
    """An attachment, an inline image or an alternative body, with its octets."""

    #: ``attachment`` | ``inline`` | ``alternative``.
    kind: str
    filename: str
    #: With parameters: ``text/calendar; method=REQUEST``.
    content_type: str
    content: bytes
    #: Referred to as ``cid:…`` by the HTML body.
    inline_id: str = ""


@dataclass(frozen=True, slots=True)
class MailContent:
    """All that a message says; addresses are header strings as the caller gave them (``Ann <ann@x.org>``)."""

    from_email: str
    to: tuple[str, ...]
    subject: str
    #: Angle brackets included.
    message_id: str
    date: datetime
    cc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    body_text: str = ""
    body_html: str = ""
    #: The caller's own, in order (name, value).
    headers: tuple[tuple[str, str], ...] = ()
    in_reply_to: str = ""
    #: Message-IDs with angle brackets, separated by spaces.
    references: str = ""
    parts: tuple[MailPart, ...] = ()
    #: Already rendered (email backend): only Message-ID and Date are put in front where they are missing.
    raw: bytes | None = None
