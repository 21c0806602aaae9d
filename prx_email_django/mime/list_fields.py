"""Fields of mailing lists (``List-…``, RFC 2369, RFC 2919) beyond ASCII.

No encoded word may stand in a URI or a list's name, which programs read; only in a comment, or in the phrase before the
name (RFC 2047 §5).
"""

from __future__ import annotations

import re
from urllib.parse import quote

from prx_email_django.mime.address_tokens import Token, tokens
from prx_email_django.mime.encoded_words import decode_words, encode_words
from prx_email_django.rules.domains import ascii_domain

_BRACKETED = re.compile(r"(<[^<>]*>)")


def list_in_ascii(value: str) -> str:
    """The value of a ``List-…`` field in ASCII; a value in ASCII stays as it is.

    URIs are percent-encoded (RFC 3987 §3.1), a list's name is written as a domain, other text as encoded words.

    Raises:
        ValueError: a lone surrogate.
    """
    if value.isascii():
        return value
    written = ""
    for at, piece in enumerate(_BRACKETED.split(value)):
        for part in [_bracketed(piece)] if at % 2 else map(_outside, tokens(piece)):
            # An encoded word must be separated from what stands beside it.
            is_word = written.endswith("?=") or part.startswith("=?")
            is_joined = written and is_word and not (written[-1].isspace() or part[0].isspace())
            written += f" {part}" if is_joined else part
    return written


def _bracketed(piece: str) -> str:
    if piece.isascii():
        return piece
    try:
        return f"<{ascii_domain(piece[1:-1], underscores=True)}>"
    except ValueError:
        return "".join(character if character.isascii() else quote(character) for character in piece)


def _outside(token: Token) -> str:
    """The token in ASCII; blanks around text stay, since they separate it."""
    if token.written.isascii():
        return token.written
    words = " ".join(encode_words(decode_words(token.text.strip())))
    if token.kind == "comment":
        return f"({words})"
    before, after = (" " * blank for blank in (token.written[0].isspace(), token.written[-1].isspace()))
    return f"{before}{words}{after}"
