"""From a letter to octets: headers, the nesting of parts, and raw messages that only need their seal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from email.utils import format_datetime
from hashlib import blake2b

from prx_email_django.mime.bodies import Entity, part_entity, text_entity
from prx_email_django.mime.fields import address_field, any_field, field, id_field, is_message_id, text_field
from prx_email_django.mime.letter import Letter, Part
from prx_email_django.mime.recode import recode_field, seven_bit, split_fields
from prx_email_django.mime.transfer import is_wire_form, with_crlf

_HIDDEN = frozenset({"bcc", "resent-bcc"})


def render(letter: Letter) -> bytes:
    """The message as RFC 5322 octets: 7-bit, CRLF, no line above 998 octets, no Bcc.

    Rendering the same letter twice gives the same octets.  Header fields of the letter stand in the place of those
    that would be made for it (Message-ID and Date included); Bcc is left out.  Only a non-ASCII local part of an
    address makes the header UTF-8 (RFC 6532), since nothing else can carry it: the server must then offer SMTPUTF8.

    Raises:
        ValueError: something in it cannot be a message (the caller files it as ``content``).
    """
    if letter.raw is not None:
        return _render_raw(letter, letter.raw)
    entity = _body(letter)
    return b"".join(((_header(letter) + entity.head).encode(), b"\r\n", entity.body))


def _header(letter: Letter) -> str:
    own = {name.lower() for name, _ in letter.headers}
    made = [made for name, made in _made_fields(letter) if name not in own]
    return "".join((*made, *_own_fields(letter), "MIME-Version: 1.0\r\n"))


def _made_fields(letter: Letter) -> Iterator[tuple[str, str]]:
    yield "date", _date(letter)
    yield "message-id", _message_id(letter)
    yield "from", address_field("From", (letter.from_email,))
    if letter.to:
        yield "to", address_field("To", letter.to)
    if letter.cc:
        yield "cc", address_field("Cc", letter.cc)
    if letter.reply_to:
        yield "reply-to", address_field("Reply-To", letter.reply_to)
    yield "subject", text_field("Subject", letter.subject)
    if letter.in_reply_to:
        yield "in-reply-to", id_field("In-Reply-To", letter.in_reply_to)
    if letter.references:
        yield "references", id_field("References", letter.references)


def _own_fields(letter: Letter) -> Iterator[str]:
    for name, value in letter.headers:
        lower = name.lower()
        if lower == "mime-version" or lower.startswith("content-"):
            raise ValueError(f"header {name!r} describes the body and is made with it")
        if lower not in _HIDDEN:
            yield any_field(name, value)


def _date(letter: Letter) -> str:
    if letter.date.tzinfo is None:
        raise ValueError("the date of a message must be aware of its time zone")
    return f"Date: {format_datetime(letter.date)}\r\n"


def _message_id(letter: Letter) -> str:
    if not is_message_id(letter.message_id):
        raise ValueError("a Message-ID is written <left@right>, in printable ASCII")
    return field("Message-ID", letter.message_id)


def _body(letter: Letter) -> Entity:
    alternatives = [part_entity(part) for part in letter.parts if part.kind == "alternative"]
    inline = [part for part in letter.parts if part.kind == "inline"]
    attached = [part for part in letter.parts if part.kind == "attachment"]
    seed = _seed(letter)
    bodies: list[Entity] = []
    if letter.body_text or not letter.body_html:
        bodies.append(text_entity("plain", letter.body_text))
    if letter.body_html:
        bodies.append(_html(letter.body_html, inline, seed))
    else:
        attached = inline + attached  # nothing refers to them
    entity = _multipart("alternative", [*bodies, *alternatives], seed)
    return _multipart("mixed", [entity, *map(part_entity, attached)], seed)


def _html(html: str, inline: Sequence[Part], seed: bytes) -> Entity:
    return _multipart("related", [text_entity("html", html), *map(part_entity, inline)], seed, '; type="text/html"')


def _multipart(subtype: str, entities: Sequence[Entity], seed: bytes, parameters: str = "") -> Entity:
    """The entities in one multipart; a single one stays itself."""
    if len(entities) == 1:
        return entities[0]
    boundary = _boundary(subtype[0], entities, seed)
    pieces: list[bytes] = []
    for entity in entities:
        pieces += (b"--", boundary, b"\r\n", entity.head.encode(), b"\r\n", entity.body, b"\r\n")
    pieces += (b"--", boundary, b"--\r\n")
    content_type = f'multipart/{subtype}{parameters};\r\n boundary="{boundary.decode()}"'
    return Entity(f"Content-Type: {content_type}\r\n", b"".join(pieces))


def _seed(letter: Letter) -> bytes:
    digest = blake2b(letter.message_id.encode(), digest_size=12)
    digest.update(letter.body_text.encode())
    digest.update(letter.body_html.encode())
    return digest.hexdigest().encode()


def _boundary(mark: str, entities: Sequence[Entity], seed: bytes) -> bytes:
    """A boundary that occurs in none of the entities (RFC 2046 §5.1.1); ``=_`` never occurs in base64 or QP."""
    boundary = b"=_%b_%b" % (mark.encode(), seed)
    while any(boundary in entity.body for entity in entities):
        boundary = b"=_%b_%b" % (mark.encode(), blake2b(boundary, digest_size=12).hexdigest().encode())
    return boundary


def _render_raw(letter: Letter, raw: bytes) -> bytes:
    """The raw message on the wire, its own Message-ID and Date kept, the letter's headers in front."""
    data = with_crlf(raw)
    if not is_wire_form(data):
        data = seven_bit(data)
    fields, body = split_fields(data)
    present = {name for name, _ in fields} | {name.lower() for name, _ in letter.headers}
    front = list(_own_fields(letter))
    if "date" not in present:
        front.insert(0, _date(letter))
    if "message-id" not in present:
        front.insert(0, _message_id(letter))
    kept = [recode_field(octets) for name, octets in fields if name not in _HIDDEN]
    return b"".join(("".join(front).encode(), *kept, b"\r\n", body))
