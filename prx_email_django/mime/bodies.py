"""The entities of a message: text bodies, attachments, inline images and attached messages (RFC 2045)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from prx_email_django.mime.entity import split_entity
from prx_email_django.mime.headers import content_type_field, disposition_field, folded_field
from prx_email_django.mime.recode import entity_to_wire
from prx_email_django.mime.transfer import base64_lines, encode_text, with_crlf

_UTF8 = re.compile(r'charset\s*=\s*"?utf-?8\b', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MailPart:
    """An attachment, an inline image or an alternative body, with its bytes."""

    #: ``attachment`` | ``inline`` | ``alternative``.
    kind: str
    filename: str
    #: With parameters: ``text/calendar; method=REQUEST``.
    content_type: str
    content: bytes
    #: The HTML body refers to it as ``cid:…``.
    inline_id: str = ""


class MimeEntity(NamedTuple):
    """MIME header fields, each with its CRLF, and the body after the empty line."""

    head: str
    body: bytes


def text_entity(subtype: str, text: str) -> MimeEntity:
    """A text body in UTF-8; every line ends with CRLF, the last one too.

    Raises:
        ValueError: a lone surrogate.
    """
    encoding, body = encode_text(with_crlf(text.encode()))
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n'
    return MimeEntity(head, body)


def part_entity(part: MailPart) -> MimeEntity:
    """The entity of a part; the recipient gets the same bytes.

    Only the line ends of alternative texts (a calendar invitation) and of attached messages become CRLF.

    Raises:
        ValueError: the content type, the file name or the inline id is malformed.
    """
    essence = part.content_type.partition(";")[0].strip().lower()
    if essence.startswith("multipart/"):
        raise ValueError("an attachment must not be of a multipart type")
    if essence.startswith("message/"):
        return _message_entity(part)
    content_type, encoding, body = _encode(part, essence)
    return MimeEntity(_head(part, content_type, encoding), body)


def _head(part: MailPart, content_type: str, encoding: str) -> str:
    head = content_type_field(content_type) + folded_field("Content-Transfer-Encoding", encoding)
    if part.kind != "alternative" or part.filename:
        head += disposition_field("inline" if part.kind == "inline" else "attachment", part.filename)
    if part.inline_id:
        head += folded_field("Content-ID", f"<{part.inline_id}>")
    if not head.isascii():
        raise ValueError("a content type and an inline id must be ASCII")
    return head


def _message_entity(part: MailPart) -> MimeEntity:
    """An attached message, which may not be in base64 (RFC 2046 §5.2.1), see ``recode``."""
    head = _head(part, part.content_type, "7bit").encode()
    entity = split_entity(entity_to_wire(head + b"\r\n" + part.content))
    return MimeEntity(b"".join(found.encoded for found in entity.fields).decode("ascii"), entity.body)


def _encode(part: MailPart, essence: str) -> tuple[str, str, bytes]:
    content_type = _with_charset(part.content_type, essence, part.content)
    is_utf8 = part.content.isascii() or _UTF8.search(content_type)
    if part.kind == "alternative" and essence.startswith("text/") and is_utf8:
        return content_type, *encode_text(with_crlf(part.content))
    return content_type, "base64", base64_lines(part.content)


def _with_charset(content_type: str, essence: str, content: bytes) -> str:
    """The type, with a charset for UTF-8 text that names none: it would be read as ASCII (RFC 2046 §4.1.2)."""
    if not essence.startswith("text/") or "charset" in content_type.lower() or content.isascii():
        return content_type
    try:
        content.decode()
    except UnicodeDecodeError:
        return content_type
    return content_type.rstrip("; ") + '; charset="utf-8"'
