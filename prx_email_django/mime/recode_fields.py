"""Header fields that others made, in seven bits: what RFC 2047 and RFC 2231 allow, and nothing that loses bytes."""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from prx_email_django.mime.addresses import format_list
from prx_email_django.mime.encoded_words import encode_words
from prx_email_django.mime.entity import Field
from prx_email_django.mime.field_kinds import ADDRESS_FIELDS, OTHER_ADDRESS_FIELDS, is_structured
from prx_email_django.mime.headers import any_field, encoded_parameter, folded_field, text_field
from prx_email_django.mime.transfer import crlf

#: Fields that describe an entity in parameters (RFC 2045 §5.1, RFC 2183).
_WITH_PARAMETERS = frozenset({"content-type", "content-disposition"})
_PARAMETER = re.compile(rb';\s*([\w.*+-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)', re.ASCII | re.DOTALL)
#: Parameters whose value is text: another value is kept as it is, or the entity could not be read any more.
_TEXT_PARAMETERS = frozenset({b"filename", b"name", b"description", b"title"})
#: Bytes of a parameter beside which a line has room for nothing else; the standard library does not split it.
_LONG_PARAMETER = 900


def seven_bit_field(given: Field, *, guess: bool, parameters: bool) -> bytes | None:
    """The field with CRLF in seven bits and short lines; None where this is not possible without loss.

    With ``guess``, a local part beyond ASCII is kept in UTF-8.

    Text in UTF-8 becomes encoded words, addresses too; a field with a grammar is only folded.

    ``guess``: what is not UTF-8 is taken for Latin-1, and a control character may stand in an encoded word.
    ``parameters``: file names of Content-Type and Content-Disposition are encoded as RFC 2231 says; one that fits on no
    line always is.
    """
    encoded = crlf(given.encoded)
    name = encoded.partition(b":")[0].strip(b" \t").decode("ascii")
    text = _text(encoded, guess=guess)
    if text is None:
        return None
    try:
        made = _made(given.name, name, text, guess=guess)
    except ValueError:  # malformed addresses, a word that is too long for any line, a control character
        # Nobody can read the addresses, and a server without 8BITMIME takes no raw bytes.
        made = _in_words(name, text) if guess and parameters and given.name in ADDRESS_FIELDS else ""
    if not made and given.name in _WITH_PARAMETERS and (parameters or text.isascii()):
        return _with_encoded_parameters(name, encoded)
    # Only addresses can be beyond ASCII here: their header is in UTF-8 then (RFC 6532).
    return made.encode() if made and (guess or made.isascii()) else None


def _made(kind: str, name: str, text: str, *, guess: bool) -> str:
    if kind in ADDRESS_FIELDS:
        return folded_field(name, text if text.isascii() else format_list(text))
    if kind in OTHER_ADDRESS_FIELDS:
        return any_field(name, text)
    if is_structured(kind):
        return folded_field(name, text) if text.isascii() else ""
    try:
        return text_field(name, text)
    except ValueError:
        if not guess:
            raise
        return _in_words(name, text)


def _in_words(name: str, text: str) -> str:
    return folded_field(name, " ".join(encode_words(text)))


def field_text(encoded: bytes) -> str:
    """The value of a field, unfolded, read as UTF-8 (RFC 6532 §3), else as Latin-1, which some senders write."""
    return _text(encoded, guess=True) or ""


def _text(encoded: bytes, *, guess: bool) -> str | None:
    value = encoded.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1") if guess else None


def _with_encoded_parameters(name: str, encoded: bytes) -> bytes | None:
    value = encoded.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")
    value = _PARAMETER.sub(_encoded_parameter, value)
    try:
        return folded_field(name, value.decode("ascii")).encode()
    except ValueError:
        return None


def _encoded_parameter(match: re.Match[bytes]) -> bytes:
    name, value = match[1], match[2]
    kind = name.lower().removesuffix(b"*")
    is_long = len(match[0]) > _LONG_PARAMETER and kind != b"boundary" and (kind in _TEXT_PARAMETERS or value.isascii())
    if not is_long and (kind not in _TEXT_PARAMETERS or value.isascii()):
        return b"; " + match[0][1:].lstrip()  # a line may end only at a blank
    if value.startswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    charset = b"utf-8" if _is_utf8(value) else b"iso-8859-1"
    if name.endswith(b"*"):  # encoded already
        charset, _, value = value.partition(b"'")
        value = unquote_to_bytes(value.partition(b"'")[2])
        if charset.lower() != b"utf-8" or not _is_utf8(value):
            return match[0]
    if is_long:
        return "".join(f"; {part}" for part in _split(name, value.decode(charset.decode("ascii")))).encode("ascii")
    return b"; %b*=%b''%b" % (name, charset, quote_from_bytes(value, safe="").encode("ascii"))


def _split(name: bytes, value: str) -> list[str]:
    return encoded_parameter(name.removesuffix(b"*").decode("ascii"), value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
