"""``MailContent`` rendered as bytes: header, nesting of the parts, and raw messages that only miss some fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from hashlib import blake2b

from prx_email_django.mime.bodies import MailPart, MimeEntity, part_entity, text_entity
from prx_email_django.mime.field_kinds import HIDDEN_FIELDS
from prx_email_django.mime.headers import address_field, any_field, folded_field, id_field, is_message_id, text_field
from prx_email_django.mime.recode import split_fields, to_wire

_HASH = blake2b(digest_size=12)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)  # not frozen: that made it three times as dear, and each message has one
class MailContent:
    """Everything that a message says; addresses are header strings as the caller gave them (``Ann <ann@x.org>``)."""

    from_email: str
    to: tuple[str, ...]
    subject: str
    #: With angle brackets.
    message_id: str
    #: Aware of its time zone.
    date: datetime
    cc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    body_text: str = ""
    body_html: str = ""
    #: The caller's own fields (name, value), in order.
    headers: tuple[tuple[str, str], ...] = ()
    in_reply_to: str = ""
    #: Message-IDs with angle brackets, separated by spaces.
    references: str = ""
    parts: tuple[MailPart, ...] = ()
    #: A message that is rendered already (email backend): only a missing Message-ID and Date are added in front.
    raw: bytes | None = None


def render(mail: MailContent) -> bytes:
    """The message as bytes (RFC 5322): CRLF, no Bcc; seven bits and no line above 998 bytes.

    The same content always gives the same bytes.  A header field of ``mail.headers`` replaces the one that would be
    made, Message-ID and Date included; Bcc is left out.  Two things can be beyond seven bits: a non-ASCII local part of
    an address makes the header UTF-8 (RFC 6532), since nothing else can carry it; and content that others made stays as
    it is where no encoding keeps it true, see ``recode``.

    Raises:
        ValueError: the content cannot be a message (the caller records it as ``content``).
    """
    if mail.raw is not None:
        return _render_raw(mail, mail.raw)
    entity = _body(mail)
    return b"".join(((_header(mail) + entity.head).encode(), b"\r\n", entity.body))


def _header(mail: MailContent) -> str:
    made = _made_fields(mail)
    if mail.headers:
        own = {name.lower() for name, _ in mail.headers}
        made = [(name, field) for name, field in made if name not in own]
    return "".join((*[field for _, field in made], *_own_fields(mail), "MIME-Version: 1.0\r\n"))


def _made_fields(mail: MailContent) -> list[tuple[str, str]]:
    fields = [("date", date_field(mail.date)), ("message-id", _message_id(mail)), ("from", from_field(mail.from_email))]
    if mail.to:
        fields.append(("to", address_field("To", mail.to)))
    if mail.cc:
        fields.append(("cc", address_field("Cc", mail.cc)))
    if mail.reply_to:
        fields.append(("reply-to", address_field("Reply-To", mail.reply_to)))
    fields.append(("subject", text_field("Subject", mail.subject)))
    if mail.in_reply_to:
        fields.append(("in-reply-to", id_field("In-Reply-To", mail.in_reply_to)))
    if mail.references:
        fields.append(("references", id_field("References", mail.references)))
    return fields


def _own_fields(mail: MailContent) -> Iterator[str]:
    for name, value in mail.headers:
        lower = name.lower()
        if lower == "mime-version" or lower.startswith("content-"):
            raise ValueError(f"header {name!r} must not be given: it describes the body, and is made with the body")
        if lower not in HIDDEN_FIELDS:
            yield any_field(name, value)


def date_field(date: datetime) -> str:
    """The field Date.

    Raises:
        ValueError: the date is not aware of its time zone.
    """
    if date.tzinfo is UTC:
        since = date - _EPOCH
        return _utc_date(since.days, since.seconds)
    if date.tzinfo is None:
        raise ValueError("the date of a message must be aware of its time zone")
    return f"Date: {format_datetime(date.replace(microsecond=0))}\r\n"


@lru_cache(maxsize=64)  # to the second: messages that were queued together share it
def _utc_date(days: int, seconds: int) -> str:
    return f"Date: {format_datetime(_EPOCH + timedelta(days, seconds))}\r\n"


@lru_cache(maxsize=64)
def from_field(mailbox: str) -> str:
    """The field From; raises as ``address_field``."""
    return address_field("From", (mailbox,))


def _message_id(mail: MailContent) -> str:
    if not is_message_id(mail.message_id):
        raise ValueError("a Message-ID must be <left@right>, in printable ASCII")
    return folded_field("Message-ID", mail.message_id)


def _body(mail: MailContent) -> MimeEntity:
    bodies: list[MimeEntity] = []
    if mail.body_text or not mail.body_html:
        bodies.append(text_entity("plain", mail.body_text))
    if not mail.parts:  # most messages
        if mail.body_html:
            bodies.append(text_entity("html", mail.body_html))
        return _multipart("alternative", bodies, mail)
    alternatives = [part_entity(part) for part in mail.parts if part.kind == "alternative"]
    inline = [part for part in mail.parts if part.kind == "inline"]
    attached = [part for part in mail.parts if part.kind == "attachment"]
    if mail.body_html:
        bodies.append(_html(mail, inline))
    else:
        attached = inline + attached  # without HTML, nothing refers to inline images
    entity = _multipart("alternative", [*bodies, *alternatives], mail)
    return _multipart("mixed", [entity, *map(part_entity, attached)], mail)


def _html(mail: MailContent, inline: Sequence[MailPart]) -> MimeEntity:
    html = text_entity("html", mail.body_html)
    return _multipart("related", [html, *map(part_entity, inline)], mail, '; type="text/html"')


def _multipart(subtype: str, entities: Sequence[MimeEntity], mail: MailContent, parameters: str = "") -> MimeEntity:
    """One multipart of the entities; a single entity is returned as it is."""
    if len(entities) == 1:
        return entities[0]
    boundary = _boundary(subtype[0], entities, mail.message_id)
    chunks: list[bytes] = []  # joined once: a part may be large
    for entity in entities:
        chunks += (b"--", boundary, b"\r\n", entity.head.encode(), b"\r\n", entity.body, b"\r\n")
    chunks += (b"--", boundary, b"--\r\n")
    body = b"".join(chunks)
    head = f'Content-Type: multipart/{subtype}{parameters};\r\n boundary="{boundary.decode()}"\r\n'
    if not body.isascii():  # an attached message that cannot be encoded (RFC 2045 §6.4)
        head += "Content-Transfer-Encoding: 8bit\r\n"
    return MimeEntity(head, body)


def _boundary(mark: str, entities: Sequence[MimeEntity], seed: str) -> bytes:
    """A boundary that no entity contains (RFC 2046 §5.1.1); base64 and quoted-printable never contain ``=_``.

    The same content and the same ``seed`` give the same boundary.
    """
    boundary = seed
    while True:
        boundary = boundary_text(mark, boundary)
        encoded = boundary.encode()
        if not any(encoded in entity.body for entity in entities):
            return encoded


def boundary_text(mark: str, seed: str) -> str:
    """The boundary that is tried first; itself as the ``seed`` gives the next one."""
    made = _HASH.copy()  # faster than a new hash
    made.update(seed.encode())
    return f"=_{mark}_{made.hexdigest()}"


def _render_raw(mail: MailContent, raw: bytes) -> bytes:
    """The raw message in wire form, ``mail.headers`` in front of it; its own Message-ID and Date are kept."""
    fields, body = split_fields(raw)
    present = {name for name, _ in fields} | {name.lower() for name, _ in mail.headers}
    front = list(_own_fields(mail))
    if "date" not in present:
        front.insert(0, date_field(mail.date))
    if "message-id" not in present:
        front.insert(0, _message_id(mail))
    kept = [encoded for name, encoded in fields if name not in HIDDEN_FIELDS]
    return to_wire(b"".join(("".join(front).encode(), *kept, b"\r\n", body)))
