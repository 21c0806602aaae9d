"""Encoded words (RFC 2047): how text beyond ASCII travels in a header."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp, b2a_base64

#: Octets of UTF-8 that one word can hold (75 characters on the wire, RFC 2047 §2).
WORD_OCTETS = 45

_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")


def encode_words(text: str, octets: int = WORD_OCTETS) -> list[str]:
    """The text as encoded words, none of which splits a character (RFC 2047 §5).

    Raises:
        ValueError: a lone surrogate.
    """
    data = text.encode()
    words: list[str] = []
    start = 0
    while start < len(data):
        end = start + octets
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode()}?=")
        start = end
    return words


def decode_words(text: str) -> str:
    """The text with its encoded words decoded; what cannot be decoded stays as it is.

    White space between two words is part of neither (RFC 2047 §6.2), and neighbours of one charset are joined before
    decoding, since careless senders split characters.
    """
    if "=?" not in text:
        return text
    result: list[str] = []
    octets, charset, end = b"", "", 0
    for match in _WORD.finditer(text):
        gap = text[end : match.start()]
        word = _octets(match[2], match[3])
        if word is None:
            continue
        adjacent = bool(charset) and not gap.strip(" \t")
        if not adjacent or charset != match[1].lower():
            result.append(_text(octets, charset))
            octets = b""
        if not adjacent:
            result.append(gap)
        octets, charset, end = octets + word, match[1].lower(), match.end()
    return "".join((*result, _text(octets, charset), text[end:]))


def _octets(encoding: str, data: str) -> bytes | None:
    raw = data.encode("utf-8", "surrogateescape")
    if encoding in "qQ":
        return a2b_qp(raw, header=True)
    try:
        return a2b_base64(raw + b"=" * (-len(raw) % 4))
    except Base64Error:
        return None


def _text(octets: bytes, charset: str) -> str:
    try:
        return octets.decode(charset or "ascii", "replace")
    except (LookupError, ValueError):  # no such charset, or one that is not for text
        return octets.decode("latin-1")
