"""Header fields in wire form: folded by ``folded_field``, and encoded, only where this is necessary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import quote

from prx_email_django.mime.addresses import format_list, format_mailbox
from prx_email_django.mime.encoded_words import MAX_WORD_BYTES, decode_words, encode_words
from prx_email_django.mime.field_kinds import ADDRESS_FIELDS, ID_FIELDS, OTHER_ADDRESS_FIELDS, is_structured
from prx_email_django.mime.list_fields import list_in_ascii
from prx_email_django.mime.transfer import LINE, MAX_LINE
from prx_email_django.rules.text import HEADER_BREAK

#: Characters of one header's value; larger values exceed the header limits of common servers.
MAX_HEADER = 16_384
#: Bytes of all the header fields of a message before they are encoded; Exchange takes no more, others take less.
MAX_HEAD = 262_144

#: Length of a line with encoded words (RFC 2047 §2).
_ENCODED_LINE = 76
#: The name of a field (RFC 5322 §3.6.8).
FIELD_NAME = re.compile(r"[!-9;-~]+")
_TOKEN = re.compile(r"[ \t]*[^ \t]+")
_ID = re.compile(r"[!-~]{1,997}")
#: A comma between URIs in angle brackets (RFC 2369 §2).
_COMMA = re.compile(r">,<")
#: A string of JSON, or a mark between its values.
_JSON_GAP = re.compile(r'"(?:[^"\\]|\\.)*"|[,:]')
#: A Message-ID with its angle brackets, in printable ASCII, short enough for a line of its own.
MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,995}>")
_CONTENT_TYPE = re.compile(
    r"""[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:[ \t]*;[ \t]*[\w.*+-]+=(?:"(?:[ !#-\[\]-~]|\\[ -~])*"|[!#-:<-~]+))*[ \t;]*""",
    re.ASCII,
)


def folded_field(name: str, value: str) -> str:
    """One field with its CRLF, folded before white space where the line would be too long.

    The value must be encoded already: ASCII, except for non-ASCII local parts.

    Raises:
        ValueError: a malformed name, a control character, or a word that is too long for any line.
    """
    if not FIELD_NAME.fullmatch(name) or HEADER_BREAK.search(value):
        raise ValueError(f"header {name!r} must have a valid name and no control character in its value")
    value = value.strip(" \t")
    limit = _ENCODED_LINE if "=?" in value else LINE
    if len(name) + 2 + len(value) <= limit:
        return f"{name}: {value}\r\n"
    lines = [f"{name}:"]
    for token in _TOKEN.findall(" " + value):
        # Some readers fail on an empty first line: it is made only before encoded words, whose lines must be short
        # (RFC 2047 §2).
        first = len(lines) == 1 and lines[0] == f"{name}:" and not token.startswith(" =?")
        first = first and len(lines[0]) + len(token) <= MAX_LINE
        if first or len(lines[-1]) + len(token) <= limit:
            lines[-1] += token
        else:
            lines.append(token)
    if any(len(line.encode()) > MAX_LINE for line in lines):
        raise ValueError(f"header {name!r} must not have a word that is too long for any line")
    return "\r\n".join(lines) + "\r\n"


def text_field(name: str, value: str) -> str:
    """An unstructured field (Subject, fields of the caller); encoded words in the value keep their meaning.

    Raises:
        ValueError: a malformed name, a control character or a lone surrogate.
    """
    if HEADER_BREAK.search(value):
        raise ValueError(f"header {name!r} must not have a control character in its value")
    if value.isascii():
        room = MAX_LINE - len(name) - 2
        if _has_words_below(value, room):
            return folded_field(name, value)
        if _has_words_below(spaced := spaced_json(value), room):
            return folded_field(name, spaced)
    return folded_field(name, " ".join(encode_words(decode_words(value.strip(" \t")), _word_size(name))))


def _has_words_below(text: str, length: int) -> bool:
    return len(text) < length or max(map(len, text.split()), default=0) < length


def encoded_field(name: str, value: str) -> str:
    """An unstructured field with all its value in encoded words of our own making; blanks in the value's words stay.

    The words may hold control characters: no reader takes them for the end of the field.

    Raises:
        ValueError: a malformed name or a lone surrogate.
    """
    return folded_field(name, " ".join(encode_words(decode_words(value), _word_size(name))))


def _word_size(name: str) -> int:
    """Bytes in an encoded word that shares a line of 76 characters with the field's name (RFC 2047 §2)."""
    return min(max((76 - len(f"{name}: =?utf-8?b??=")) // 4 * 3, 12), MAX_WORD_BYTES)


def address_field(name: str, mailboxes: Iterable[str]) -> str:
    """A field of addresses, each given as ``ann@x.org`` or ``Ann <ann@x.org>``.

    Raises:
        ValueError: a text in ``mailboxes`` is not exactly one address.
    """
    return folded_field(name, ", ".join(map(format_mailbox, mailboxes)))


def id_field(name: str, value: str) -> str:
    """A field of Message-IDs, without those that no header can carry; "" where none is left."""
    ids = [message_id for message_id in value.split() if _ID.fullmatch(message_id)]
    return folded_field(name, " ".join(ids)) if ids else ""


def any_field(name: str, value: str) -> str:
    """A field of the kind that its name says; an ASCII address list is kept word for word (groups, comments).

    Raises:
        ValueError: see ``text_field`` and ``address_field``.
    """
    lower = name.lower()
    if lower in ADDRESS_FIELDS:
        return folded_field(name, value) if value.isascii() else folded_field(name, format_list(value))
    if lower in ID_FIELDS:
        return id_field(name, value)
    if lower.startswith("list-"):
        return folded_field(name, spaced_uris(list_in_ascii(value)))
    if lower in OTHER_ADDRESS_FIELDS and not value.isascii():
        with suppress(ValueError):  # no addresses
            return folded_field(name, format_list(value, utf8=False))
    return folded_field(name, value) if is_structured(lower) and value.isascii() else text_field(name, value)


def spaced_uris(value: str) -> str:
    """The URIs with a blank behind each comma where the field is long: a line may end only at a blank."""
    return _COMMA.sub(">, <", value) if len(value) > LINE else value


def spaced_json(value: str) -> str:
    """JSON with a blank behind each comma and colon between its values, where a line may end; other text as it is."""
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return value
    return _JSON_GAP.sub(lambda found: f"{found[0]} " if found[0] in {",", ":"} else found[0], value)


def is_message_id(text: str) -> bool:
    """Whether the text is one Message-ID with angle brackets, in printable ASCII, short enough for a line."""
    return MESSAGE_ID.fullmatch(text) is not None


def is_content_type(content_type: str) -> bool:
    """Whether the text is a type with parameters (RFC 2045 §5.1), such as ``text/calendar; method=REQUEST``."""
    return _CONTENT_TYPE.fullmatch(content_type) is not None


def content_type_field(content_type: str) -> str:
    """A Content-Type field.

    Raises:
        ValueError: the text is not a type with parameters (RFC 2045 §5.1).
    """
    if not is_content_type(content_type):
        raise ValueError("a content type must be like text/plain or text/calendar; method=REQUEST")
    return folded_field("Content-Type", content_type.rstrip("; \t"))


def disposition_field(disposition: str, filename: str) -> str:
    """A Content-Disposition field; long file names, and those beyond ASCII, are encoded as RFC 2231 says.

    Raises:
        ValueError: a control character or a lone surrogate in the file name.
    """
    if not filename:
        return folded_field("Content-Disposition", disposition)
    if HEADER_BREAK.search(filename) or "\t" in filename:
        raise ValueError("a file name must not hold a control character")
    if filename.isascii() and len(filename) <= 60:
        escaped = filename.replace("\\", r"\\").replace('"', r"\"")
        return folded_field("Content-Disposition", f'{disposition}; filename="{escaped}"')
    return folded_field("Content-Disposition", "; ".join((disposition, *encoded_parameter("filename", filename))))


def encoded_parameter(name: str, value: str) -> list[str]:
    """A parameter as RFC 2231 encodes it: several (``name*0*=…``) where the value is too long for a line."""
    pieces = _percent_encoded(value)
    if len(pieces) == 1:
        return [f"{name}*={pieces[0]}"]
    return [f"{name}*{number}*={piece}" for number, piece in enumerate(pieces)]


def _percent_encoded(text: str) -> list[str]:
    """The text in pieces that fit on a line and split no character (readers decode each piece alone)."""
    pieces = ["utf-8''"]
    for character in text:
        encoded = quote(character, safe="")
        if len(pieces[-1]) + len(encoded) > 58:
            pieces.append("")
        pieces[-1] += encoded
    return pieces
