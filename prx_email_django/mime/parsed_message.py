"""What the standard library's parser keeps outside the header of a message that it has read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from email.message import Message
from typing import Any, cast

#: A field with a blank in front of the colon (RFC 5322 §4.5.2).
_FROM = re.compile(r"From[ \t]+:[^\r\n]*")


def from_fields(message: Message) -> Iterator[bytes]:
    """Fields ``From : …``, which the parser takes for lines of an mbox, with what continues them, where this is known.

    Only where the first one stands in the header is known: in front of all other fields, or behind some of them.
    """
    misplaced = (MisplacedEnvelopeHeaderDefect, FirstHeaderLineIsContinuationDefect)
    lines = [message.get_unixfrom() or ""]
    lines += [cast(Any, defect).line for defect in message.defects if isinstance(defect, misplaced)]
    is_continued = False
    for line in lines:
        is_continued = bool(_FROM.match(line)) or (is_continued and line[:1] in {" ", "\t"})
        if is_continued:
            yield line.rstrip("\r\n").encode("utf-8", "surrogateescape") + b"\r\n"


def begins_with_from(message: Message) -> bool:
    """Whether one of ``from_fields`` is the first field of the header."""
    return bool(_FROM.match(message.get_unixfrom() or ""))


def rest_of_header(message: Message) -> bytes:
    """The text behind a line at which the parser ended the header, such as ``Subject : …``; empty where none did."""
    if not any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in message.defects):
        return b""
    return _begin_of_body(message).encode("utf-8", "surrogateescape")


def from_in_body(message: Message) -> bytes:
    """A field ``From : …`` at the beginning of the body, where the parser puts it if it was the last field.

    Empty where there is none.  Nothing tells it apart from a body that begins so: use it only where no other From is.
    """
    found = _FROM.match(_begin_of_body(message))
    return found[0].encode("utf-8", "surrogateescape") + b"\r\n" if found else b""


def _begin_of_body(message: Message) -> str:
    payload = cast(Any, message)._payload  # get_payload() replaces bytes beyond ASCII
    if isinstance(payload, str):
        return payload
    types = (str(value) for name, value in message.raw_items() if name.lower() == "content-type")
    if payload and next(types, "").lstrip().lower().startswith("message/"):
        return payload[0].get_unixfrom() or ""  # the line became the first one of the attached message
    return message.preamble or ""
