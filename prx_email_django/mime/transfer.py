"""Transfer encodings (RFC 2045 §6): the shortest that gives seven bits and short lines, by functions written in C."""

from __future__ import annotations

from binascii import b2a_base64, b2a_qp

#: Preferred and largest length of a line in bytes, without its CRLF (RFC 5322 §2.1.1).
LINE, MAX_LINE = 78, 998

#: Data up to this size are copied where that is faster.
_COPIED = 65536
#: Bytes that are encoded at once: whole lines of 57 bytes, 76 characters each.
_BLOCK = 57 * 4096
_HIGH = bytes(range(128, 256))
#: Control characters except tab and line end: allowed in a body, but some servers change them.
CONTROLS = bytes({*range(32), 127} - {9, 10, 13})


def crlf(data: bytes) -> bytes:
    """The data with CRLF for every line end (CRLF, LF or CR)."""
    if b"\r" not in data:
        return data.replace(b"\n", b"\r\n")
    if is_canonical(data):
        return data  # the data may be large: no copy
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def with_crlf(data: bytes) -> bytes:
    """The data with CRLF for every line end (CRLF, LF or CR), also at the end of the last line."""
    data = crlf(data)
    return data if data.endswith(b"\r\n") or not data else data + b"\r\n"


def is_canonical(data: bytes) -> bool:
    """Whether every CR and every LF is one of a CRLF."""
    if len(data) <= _COPIED:  # two copies take a third of the time that counting takes
        return data.translate(None, b"\r").replace(b"\n", b"\r\n") == data
    pairs = data.count(b"\r\n")
    return data.count(b"\n") == pairs and data.count(b"\r") == pairs


def is_wire_form(data: bytes) -> bool:
    """Whether data can be sent to every server as it is: seven bits, CRLF, no NUL, no line above 998 bytes."""
    return data.isascii() and is_eight_bit_form(data)


def is_eight_bit_form(data: bytes) -> bool:
    """Whether data can be sent with 8BITMIME (RFC 6152 §3): CRLF, no NUL, no line above 998 bytes."""
    return b"\x00" not in data and is_canonical(data) and keeps_to_lines(data)


def keeps_to_lines(data: bytes) -> bool:
    """Whether no line is longer than ``MAX_LINE``; the data is searched for line ends, not split, to save memory."""
    at = 0
    while len(data) - at > MAX_LINE:
        found = data.rfind(b"\r\n", at, at + MAX_LINE + 2)
        if found < 0:
            return False
        at = found + 2
    return True


def longest_line(data: bytes) -> int:
    """Length of the longest line of data with CRLF line ends; splitting is much faster than a regular expression."""
    return max(map(len, data.split(b"\r\n")))


def base64_lines(content: bytes) -> bytes:
    """Base64 in lines of 76 characters, each with its CRLF (RFC 2045 §6.8)."""
    if len(content) <= _BLOCK:
        return _base64_block(content)
    # Block by block: a list of all the lines takes more memory than the lines.
    return b"".join([_base64_block(content[at : at + _BLOCK]) for at in range(0, len(content), _BLOCK)])


def _base64_block(content: bytes) -> bytes:
    encoded = b2a_base64(content, newline=False)
    if not encoded:
        return b""
    return b"\r\n".join([encoded[at : at + 76] for at in range(0, len(encoded), 76)]) + b"\r\n"


def _quoted_printable(data: bytes) -> bytes:
    encoded = b2a_qp(data)
    # It ends its own lines as the first line of the data ends, and with LF where the data have one line.
    return encoded if b"\r\n" in data else encoded.replace(b"\n", b"\r\n")


def encode_text(data: bytes) -> tuple[str, bytes]:
    """The name of the transfer encoding, and the encoded text; ``data`` must have CRLF line ends (``with_crlf``)."""
    if data.isascii():
        if keeps_to_lines(data) and len(data.translate(None, CONTROLS)) == len(data):
            return "7bit", data
        return "quoted-printable", _quoted_printable(data)
    high = len(data) - len(data.translate(None, _HIGH))
    # Quoted-printable adds two bytes for each byte above 127, base64 a third of all bytes and the line ends.
    if high * 2 < len(data) * 0.37:
        return "quoted-printable", _quoted_printable(data)
    return "base64", base64_lines(data)
