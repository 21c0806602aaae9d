"""Messages that others made, in a form that a server takes: only what needs it is encoded, every other byte stays.

``to_wire`` gives seven bits wherever the standards allow this without loss.  The rest stays in eight bits and needs
8BITMIME (RFC 6152): an attached message that cannot be encoded, a raw file name, signed parts.
``to_seven_bits`` is for a server without 8BITMIME: there an attached message travels as a file in base64, and only
``multipart/signed`` keeps eight bits, since any encoding would break its signature (RFC 1847 §2.1).

Neither raises: what others wrote is not refused.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator
from dataclasses import dataclass

from prx_email_django.mime.addresses import format_list
from prx_email_django.mime.entity import (
    MAX_DEPTH,
    Entity,
    Field,
    boundary_of,
    content_type,
    split_entity,
    split_multipart,
)
from prx_email_django.mime.field_kinds import ADDRESS_FIELDS
from prx_email_django.mime.headers import folded_field
from prx_email_django.mime.recode_fields import field_text, seven_bit_field
from prx_email_django.mime.transfer import (
    base64_lines,
    crlf,
    encode_text,
    is_eight_bit_form,
    is_wire_form,
    keeps_to_lines,
    with_crlf,
)

__all__ = (
    "entity_to_wire",
    "field_text",
    "needs_smtputf8",
    "recipients_in_ascii",
    "split_fields",
    "to_seven_bits",
    "to_wire",
)

_IDENTITY = frozenset({"7bit", "8bit", "binary"})
#: Types of which only identity encodings are allowed, and whose body is a message (RFC 2046 §5.2.1, RFC 6532 §3.7).
_MESSAGES = frozenset({"message/rfc822", "message/global"})
_BLANKS = re.compile(rb"[ \t\r\n]+")


class _Lossy(Exception):
    """An attached message cannot be encoded without loss; it is carried whole."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How an entity is encoded."""

    #: The server lacks 8BITMIME.
    forced: bool
    #: In an attached message: it is encoded completely or not at all.
    attached: bool = False

    def kept(self, data: bytes) -> bytes:
        """The data as they are; an attached message with such data is not encoded at all."""
        if self.attached:
            raise _Lossy
        return crlf(data)


def to_wire(data: bytes) -> bytes:
    """The message with CRLF, in seven bits where nothing is lost; see the docstring of this module.

    A message with a DKIM signature stays as it is where 8BITMIME can carry it: each encoding would break the signature.
    """
    return _message(data, _Way(forced=False))


def entity_to_wire(data: bytes) -> bytes:
    """An entity (header, empty line, body) in the form of ``to_wire``, to be a part of a message."""
    return _entity(data, _Way(forced=False), 0)


def to_seven_bits(data: bytes) -> bytes:
    """The message for a server without 8BITMIME; see the docstring of this module."""
    return _message(data, _Way(forced=True))


def _message(data: bytes, way: _Way) -> bytes:
    if is_wire_form(data):
        return with_crlf(data)
    if not way.forced and _is_signed_message(split_entity(data)) and is_eight_bit_form(whole := with_crlf(data)):
        return whole
    return with_crlf(_entity(data, way, 0))


def _is_signed_message(entity: Entity) -> bool:
    return any(found.name in {"dkim-signature", "arc-message-signature"} for found in entity.fields)


def _entity(data: bytes, way: _Way, depth: int, default: str = "text/plain") -> bytes:
    lines = crlf(data)
    # Binary content is the only one in which a bare CR or LF is no line end (RFC 2045 §2.9).
    if is_wire_form(lines) and (lines is data or b"binary" not in lines.lower()):
        return lines
    entity = split_entity(data)
    if way.attached and entity.body and not entity.blank:
        raise _Lossy  # readers do not agree where the header ends
    kind = content_type(entity, default)
    if depth > MAX_DEPTH or kind == "multipart/signed":  # the signature is for the body, not for this header
        fields, body = _fields(entity, way), crlf(entity.body)
        return _joined(entity, fields, body if is_wire_form(body) else way.kept(body), way)
    if not kind:
        return _whole(entity, way)
    if kind.startswith("multipart/"):
        return _multipart(entity, kind, way, depth)
    if kind.startswith("message/"):
        return _message_part(entity, kind, way, depth)
    return _leaf(entity, kind, way)


def _multipart(entity: Entity, kind: str, way: _Way, depth: int) -> bytes:
    boundary = boundary_of(entity)
    pieces = list(split_multipart(entity.body, boundary)) if boundary else []
    if len(pieces) < 2:  # not one delimiter: a multipart without parts
        return _whole(entity, way)
    default = "message/rfc822" if kind == "multipart/digest" else "text/plain"
    chunks: list[bytes] = []
    for piece in pieces:
        if piece.kind == "part":
            chunks.append(_entity(piece.data, way, depth + 1, default))
        elif piece.kind == "delimiter" or is_wire_form(piece.data):
            chunks.append(crlf(piece.data))
        elif way.attached and not way.forced:
            raise _Lossy
        # Else preamble or epilogue, which no reader shows (RFC 2046 §5.1.1): it is left out.
    body = b"".join(chunks)
    fields = _fields(entity, way)
    if body.isascii() and entity.encoding in {"8bit", "binary"}:
        fields = _with_encoding(fields, "7bit")
    return _joined(entity, fields, body, way)


def _message_part(entity: Entity, kind: str, way: _Way, depth: int) -> bytes:
    """An attached message, a delivery report or the like."""
    if kind not in _MESSAGES or entity.encoding not in _IDENTITY:
        return _whole(entity, way)
    if not way.forced and _is_signed_message(split_entity(entity.body)) and not is_wire_form(entity.body):
        return _whole(entity, way)
    try:
        body = _entity(entity.body, _Way(forced=way.forced, attached=True), depth + 1)
    except _Lossy:
        return _whole(entity, way)
    fields = _fields(entity, way)
    if entity.encoding in {"8bit", "binary"}:
        fields = _with_encoding(fields, "7bit")
    return _joined(entity, fields, body, way)


def _whole(entity: Entity, way: _Way) -> bytes:
    """An entity whose type allows no transfer encoding: its bytes in eight bits, else as a file."""
    if way.attached:
        raise _Lossy
    body = crlf(entity.body)
    if is_wire_form(body):
        return _joined(entity, _fields(entity, way), body, way)
    if not way.forced and is_eight_bit_form(body):
        fields = _fields(entity, way)
        if entity.encoding == "7bit":
            fields = _with_encoding(fields, "8bit")
        return _joined(entity, fields, body, way)
    return _as_file(entity, way)


def _as_file(entity: Entity, way: _Way) -> bytes:
    """The body as ``application/octet-stream`` in base64 (RFC 2046 §4.5.1): every byte of it arrives."""
    disposition = entity.first("content-disposition")
    kept = [found for found in _fields(entity, way) if found.name != "content-type"]
    kept.append(Field("content-type", b"Content-Type: application/octet-stream\r\n"))
    if not disposition:
        kept.append(Field("content-disposition", b'Content-Disposition: attachment; filename="message.eml"\r\n'))
    return _joined(entity, _with_encoding(kept, "base64"), base64_lines(entity.body), way)


def _leaf(entity: Entity, kind: str, way: _Way) -> bytes:
    fields = _fields(entity, way)
    if is_wire_form(entity.body):
        return _joined(entity, fields, entity.body, way)
    encoding = entity.encoding
    content = _decoded(entity, kind)
    if content is None:
        if encoding == "base64" and not way.attached and is_wire_form(lines := _in_short_lines(entity.body)):
            return _joined(entity, fields, lines, way)
        if not way.attached and (way.forced or not keeps_to_lines(crlf(entity.body))):
            return _as_file(entity, way)
        return _joined(entity, fields, way.kept(entity.body), way)
    if kind.startswith("text/") and encoding != "binary" and crlf(content) == content:
        encoding, body = encode_text(content)
    else:
        encoding, body = "base64", base64_lines(content)
    return _joined(entity, _with_encoding(fields, encoding), body, way)


def _in_short_lines(encoded: bytes) -> bytes:
    """Base64 that is not valid; readers ignore its line ends (RFC 2045 §6.8)."""
    encoded = _BLANKS.sub(b"", encoded)
    return b"".join(encoded[at : at + 76] + b"\r\n" for at in range(0, len(encoded), 76))


def _decoded(entity: Entity, kind: str) -> bytes | None:
    """The content of a leaf; None where its transfer encoding is unknown or broken."""
    body, encoding = entity.body, entity.encoding
    if encoding == "base64":
        try:
            return a2b_base64(_BLANKS.sub(b"", body), strict_mode=True)
        except Base64Error:
            return None
    if encoding == "quoted-printable":
        return a2b_qp(crlf(body))
    if encoding not in _IDENTITY:
        return None
    # Lines of text end with CRLF; other content has line ends only where the message itself has them instead of CRLF.
    # Text with NUL is UTF-16 or no text: there CR and LF are halves of characters.
    is_lines = kind.startswith("text/") and b"\x00" not in body
    is_lines = is_lines or (entity.blank != b"\r\n" and encoding != "binary")
    return crlf(body) if is_lines and encoding != "binary" else body


def _fields(entity: Entity, way: _Way) -> list[Field]:
    if not is_wire_form(entity.lead):
        way.kept(entity.lead)
    return [Field(found.name, _field(found, way)) for found in entity.fields]


def _field(found: Field, way: _Way) -> bytes:
    encoded = with_crlf(found.encoded)
    if is_wire_form(encoded):
        return encoded
    made = seven_bit_field(found, guess=not way.attached, parameters=way.forced)
    return way.kept(encoded) if made is None else made


def _with_encoding(fields: list[Field], encoding: str) -> list[Field]:
    made = Field("content-transfer-encoding", f"Content-Transfer-Encoding: {encoding}\r\n".encode())
    return [*(found for found in fields if found.name != made.name), made]


def _joined(entity: Entity, fields: list[Field], body: bytes, way: _Way) -> bytes:
    lead = entity.lead if way.attached else crlf(entity.lead)
    return b"".join((lead, *(found.encoded for found in fields), b"\r\n", body))


# Header fields of a message


def split_fields(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The header fields (name in lower case, bytes with CRLF) and the body of a message.

    What stands in front of the first field (an mbox line) is left out.  The body keeps its line ends, but for LF in a
    message that has LF everywhere.
    """
    entity = split_entity(data)
    keeps_ends = entity.blank == b"\r\n" or b"binary" in data.lower()
    body = entity.body if keeps_ends else crlf(entity.body)
    return [(name, with_crlf(encoded)) for name, encoded in entity.fields], body


def needs_smtputf8(data: bytes) -> bool:
    """Whether the header names an address beyond ASCII (RFC 6532); other bytes above 127 need only 8BITMIME."""
    if data.isascii():
        return False
    return any(_is_utf8_address_list(found) for found in _address_fields(data))


def _address_fields(data: bytes) -> Iterator[Field]:
    return (found for found in split_entity(data).fields if found.name in ADDRESS_FIELDS)


def _is_utf8_address_list(found: Field) -> bool:
    if found.encoded.isascii():
        return False
    try:
        return not format_list(found.value.encode("ascii", "surrogateescape").decode()).isascii()
    except ValueError:  # malformed
        return False


def recipients_in_ascii(data: bytes) -> bytes:
    """The message with To and Cc in ASCII: what ASCII cannot name becomes an empty group (RFC 6857 §3.1.6)."""
    fields, body = split_fields(data)
    return b"".join((*(_recipients_in_ascii(name, encoded) for name, encoded in fields), b"\r\n", body))


def _recipients_in_ascii(name: str, encoded: bytes) -> bytes:
    if name not in {"to", "cc"} or encoded.isascii():
        return encoded
    try:
        return folded_field(name.title(), format_list(field_text(encoded), utf8=False)).encode()
    except ValueError:  # more than addresses
        return encoded
