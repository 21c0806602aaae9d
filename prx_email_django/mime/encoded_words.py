"""Encoded words (RFC 2047): text beyond ASCII in a header."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp, b2a_base64

#: Bytes of UTF-8 that one encoded word can hold (75 characters in the header, RFC 2047 §2).
MAX_WORD_BYTES = 45

#: Characters of an encoded word (RFC 2047 §2).
MAX_WORD = 75

#: What the standard library calls raw bytes of a header (RFC 1428).
_NO_CHARSET = "unknown-8bit"
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")


def encode_words(text: str, size: int = MAX_WORD_BYTES) -> list[str]:
    """The text as encoded words of at most ``size`` bytes of UTF-8; no word splits a character (RFC 2047 §5).

    Raises:
        ValueError: a lone surrogate.
    """
    data = text.encode()
    words: list[str] = []
    start = 0
    while start < len(data):
        end = start + size
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(data[start:end], newline=False).decode()}?=")
        start = end
    return words


def has_wrong_words(text: str) -> bool:
    """Whether an encoded word is longer than RFC 2047 §2 allows, or of no charset; the standard library makes both."""
    return any(len(match[0]) > MAX_WORD or match[1].lower() == _NO_CHARSET for match in _WORD.finditer(text))


def with_right_words(text: str) -> str:
    """The text, in which words of no charset, and those that are too long, are short words of UTF-8."""

    def right(word: re.Match[str]) -> str:
        return "\r\n ".join(encode_words(decode_words(word[0]))) if has_wrong_words(word[0]) else word[0]

    return _WORD.sub(right, text)


def decode_words(text: str) -> str:
    """The text with its encoded words decoded; what cannot be decoded stays as it is.

    White space between two words belongs to neither (RFC 2047 §6.2).  Adjacent words of one charset are joined before
    they are decoded, since some senders split characters between words.
    """
    if "=?" not in text:
        return text
    result: list[str] = []
    encoded: list[bytes] = []  # words of one charset, not joined before the end: joining each takes quadratic time
    charset, end = "", 0
    for match in _WORD.finditer(text):
        gap = text[end : match.start()]
        word = _bytes_of_word(match[2], match[3])
        if word is None:
            continue
        adjacent = bool(charset) and not gap.strip(" \t")
        if not adjacent or charset != match[1].lower():
            result.append(_text(encoded, charset))
            encoded = []
        if not adjacent:
            result.append(gap)
        encoded.append(word)
        charset, end = match[1].lower(), match.end()
    return "".join((*result, _text(encoded, charset), text[end:]))


def _bytes_of_word(encoding: str, data: str) -> bytes | None:
    raw = data.encode("utf-8", "surrogateescape")
    if encoding in "qQ":
        return a2b_qp(raw, header=True)
    try:
        return a2b_base64(raw + b"=" * (-len(raw) % 4))
    except Base64Error:
        return None


def _text(words: list[bytes], charset: str) -> str:
    encoded = b"".join(words)
    try:
        return encoded.decode(charset or "ascii", "replace")
    except (LookupError, ValueError):  # an unknown charset, or a codec that is not for text
        pass
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1")
