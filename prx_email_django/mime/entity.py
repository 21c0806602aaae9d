"""MIME entities as bytes: where header, body and parts begin and end.  What is put together again is what was split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from prx_email_django.mime.address_tokens import tokens

#: Parts in parts that are looked at; what lies deeper stays as it is.
MAX_DEPTH = 40

_END = rb"(?:\r\n|\r|\n)"
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r\n]*(?:\r\n|\r|\n|\Z)(?:[ \t][^\r\n]*(?:\r\n|\r|\n|\Z))*")
#: An mbox line and continuation lines in front of the first field: they are not part of the message.
_NO_FIELD = re.compile(rb"(?:>?From (?![ \t]*:)[^\r\n]*(?:\r\n|\r|\n))?(?:[ \t][^\r\n]*(?:\r\n|\r|\n))*")
_LINE_END = re.compile(_END)
_TYPE = re.compile(r"[ \t]*([\w!#$&^.+-]+/[\w!#$&^.+-]+)[ \t]*(?:;|$)", re.ASCII)
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)


class Field(NamedTuple):
    """A header field: its name in lower case, and its bytes with all line ends."""

    name: str
    encoded: bytes

    @property
    def value(self) -> str:
        """The value, unfolded; bytes above 127 as surrogates."""
        value = _LINE_END.sub(b"", self.encoded.partition(b":")[2])
        return value.strip(b" \t").decode("ascii", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity; ``lead + fields + blank + body`` are its bytes."""

    #: What stands in front of the first field and is none.
    lead: bytes
    fields: tuple[Field, ...]
    #: The line end of the empty line behind the header; empty where there is none.
    blank: bytes
    body: bytes

    def first(self, name: str) -> str:
        """The value of the first field of this name; empty where there is none."""
        return next((field.value for field in self.fields if field.name == name), "")

    @property
    def encoding(self) -> str:
        """The transfer encoding in lower case; ``7bit`` where none is named."""
        return _without_comments(self.first("content-transfer-encoding")).lower() or "7bit"


def split_entity(data: bytes) -> Entity:
    """Split an entity at its first empty line, or at the first line that is no field."""
    lead = _NO_FIELD.match(data)
    at = begin = lead.end() if lead else 0
    fields: list[Field] = []
    while match := _FIELD.match(data, at):
        fields.append(Field(match[1].decode("ascii").lower(), match[0]))
        at = match.end()
    blank = _LINE_END.match(data, at)
    body_at = blank.end() if blank else at
    return Entity(data[:begin], tuple(fields), data[at:body_at], data[body_at:])


def content_type(entity: Entity, default: str = "text/plain") -> str:
    """The type in lower case, without parameters; what is malformed is plain text (RFC 2045 §5.2).

    Empty for a malformed type of parts or messages: some readers find parts in the body.
    """
    value = _without_comments(entity.first("content-type"))
    if match := _TYPE.match(value):
        return match[1].lower()
    if value.lower().startswith(("multipart", "message")):
        return ""
    return "text/plain" if value else default


def boundary_of(entity: Entity) -> bytes:
    """The boundary of a multipart; empty where none is named."""
    match = _BOUNDARY.search(_without_comments(entity.first("content-type")))
    if match is None:
        return b""
    boundary = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
    return boundary.rstrip().encode("ascii", "surrogateescape")


def _without_comments(value: str) -> str:
    """The value without its comments (RFC 5322 §3.2.2)."""
    if "(" not in value:
        return value
    return "".join(" " if token.kind == "comment" else token.written for token in tokens(value)).strip()


class Piece(NamedTuple):
    """A stretch of a multipart's body: a part, or what stands between parts (preamble, delimiters, epilogue)."""

    kind: str
    data: bytes


def split_multipart(body: bytes, boundary: bytes) -> Iterator[Piece]:
    """Split the body of a multipart (RFC 2046 §5.1.1) into ``preamble``, ``delimiter``, ``part`` and ``epilogue``.

    Without a delimiter line everything is preamble.
    """
    delimiter = re.compile(rb"(?:\r\n|\r|\n)?(?<![^\r\n])--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\r|\n|\Z)")
    kind, at = "preamble", 0
    for match in delimiter.finditer(body):
        yield Piece(kind, body[at : match.start()])
        yield Piece("delimiter", match[0])
        kind, at = "part", match.end()
        if match[1]:
            kind = "epilogue"
            break
    yield Piece(kind, body[at:])
