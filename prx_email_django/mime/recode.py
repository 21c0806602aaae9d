"""Messages that others made: split into fields and body, and encoded in seven bits without changing their parts."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message
from email.policy import Compat32

from prx_email_django.mime.addresses import format_list
from prx_email_django.mime.headers import any_field, field
from prx_email_django.mime.transfer import base64_lines, encode_text, is_wire_form

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
#: An mbox line and continuation lines in front of the first field: they are not part of the message.
_NO_FIELD = re.compile(rb"(?:>?From [^\r\n]*\r\n)?(?:[ \t][^\r\n]*\r\n)*")
#: Types of which only identity encodings are allowed (RFC 2045 §6.4).
_COMPOSITE = frozenset({"multipart", "message"})


class _WirePolicy(Compat32):
    """Writes header fields back as they were read; encodes again only what is not in wire form."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value

    def fold_binary(self, name: str, value: str) -> bytes:
        encoded = b"%b: %b\r\n" % (name.encode("ascii"), str(value).encode("ascii", "surrogateescape"))
        return recode_field(encoded)


_POLICY = _WirePolicy(linesep="\r\n", cte_type="7bit", max_line_length=None)


def split_fields(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The header fields (name in lower case, bytes with CRLF) and the body of a message with CRLF line ends."""
    fields: list[tuple[str, bytes]] = []
    leading = _NO_FIELD.match(data)
    at = leading.end() if leading else 0
    while match := _FIELD.match(data, at):
        fields.append((match[1].decode("ascii").lower(), match[0]))
        at = match.end()
    return fields, data[at + 2 if data.startswith(b"\r\n", at) else at :]


def field_text(encoded: bytes) -> str:
    """The value of a field, unfolded, read as UTF-8 (RFC 6532 §3), else as Latin-1, which some senders write."""
    value = encoded.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def recode_field(encoded: bytes) -> bytes:
    """The field itself if it is in wire form, else encoded and folded again.

    Raises:
        ValueError: it holds a control character or a malformed address.
    """
    if is_wire_form(encoded):
        return encoded
    name = encoded.partition(b":")[0].strip(b" \t").decode("ascii")
    return any_field(name, field_text(encoded)).encode()


def recipients_in_ascii(data: bytes) -> bytes:
    """The message with To and Cc in ASCII: what ASCII cannot name becomes an empty group (RFC 6857 §3.1.6)."""
    fields, body = split_fields(data)
    return b"".join((*(_recipients_in_ascii(name, encoded) for name, encoded in fields), b"\r\n", body))


def _recipients_in_ascii(name: str, encoded: bytes) -> bytes:
    if name not in {"to", "cc"} or encoded.isascii():
        return encoded
    try:
        return field(name.title(), format_list(field_text(encoded), utf8=False)).encode()
    except ValueError:  # more than addresses
        return encoded


def seven_bit(data: bytes) -> bytes:
    """The message in seven bits: parts that are not in wire form are encoded, the others keep their bytes.

    Raises:
        ValueError: a header field that cannot be written, see ``recode_field``.
    """
    message = message_from_bytes(data, policy=_POLICY)
    for part in message.walk():
        _recode_part(part)
    return message.as_bytes()


def _recode_part(part: Message) -> None:
    payload = part.get_payload()
    if isinstance(payload, str):
        if payload.isascii() and is_wire_form(payload.encode()):
            return
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes) or part.get_content_maintype() in _COMPOSITE:
            raise ValueError("a multipart or message part must be in seven bits already")
        text = part.get_content_maintype() == "text"
        encoding, encoded = encode_text(content) if text else ("base64", base64_lines(content))
        part.set_payload(encoded.decode("ascii"))
        _set_encoding(part, encoding)
        return
    if part.get("Content-Transfer-Encoding", "7bit").strip().lower() in {"8bit", "binary"}:
        _set_encoding(part, "7bit")
    if not is_wire_form((part.preamble or "").encode("utf-8", "surrogateescape")):
        part.preamble = None
    if not is_wire_form((part.epilogue or "").encode("utf-8", "surrogateescape")):
        part.epilogue = None


def _set_encoding(part: Message, encoding: str) -> None:
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = encoding
