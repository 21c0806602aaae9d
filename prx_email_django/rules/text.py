"""Text that other people wrote: which characters it may hold, and what of it is stored, shown or logged."""

from __future__ import annotations

import re

#: Characters kept of a text that is stored, shown or logged: a reply of a server, an error.
MAX_TEXT = 160
#: Characters of the columns that hold a name or a reason: peer, worker, pause reason.
MAX_COLUMN = 255
#: Characters of the column that holds an enhanced status code, such as ``5.7.1`` (RFC 3463).
MAX_ENHANCED_CODE = 15

_ASCII_CONTROLS = "\x00-\x1f\x7f"
_SURROGATES = "\ud800-\udfff"
_CONTROLS = f"{_ASCII_CONTROLS}\x80-\x9f\u2028\u2029{_SURROGATES}"

#: What no text may hold that a caller gives for a header, an address or a label: C0, DEL, C1, the line and paragraph
#: separators (some readers break a line there) and lone surrogates.
CONTROL = re.compile(f"[{_CONTROLS}]")
#: What no text at all may hold: PostgreSQL stores no NUL, and no encoding has lone surrogates.  Line ends may stand in
#: a body.
NOT_TEXT = re.compile(f"[\x00{_SURROGATES}]")
#: What the three bytes of MariaDB's and MySQL's utf8mb3 cannot hold.
ABOVE_BMP = re.compile("[\U00010000-\U0010ffff]")
#: What breaks a header field that is written.  Tab is white space there, and what lies beyond ASCII is encoded: the
#: headers of messages that others made hold C1 when Latin-1 was guessed.
HEADER_BREAK = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
#: A line end that begins a new field or line of its own: no white space follows, which would continue the field.
LINE_BREAK = re.compile(r"\r\n(?![ \t])|\r(?![\n \t])|(?<!\r)\n(?![ \t])")
#: What is removed from a file name: ``CONTROL``, the bidirectional controls (they show ``gpj.exe`` as ``exe.jpg``) and
#: the byte order mark.
INVISIBLE = re.compile(f"[{_CONTROLS}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
#: What becomes one blank in a log line: ``CONTROL`` and blanks, the non-breaking one too.
_BLANKS = re.compile(f"[{_CONTROLS} \xa0]+")

#: Longer input is cut before addresses are searched, so that the search has a bound.
_MAX_INPUT = 4096
#: A local part has at most 64 bytes (RFC 5321 §4.5.3.1.1), but real ones are longer.
_ADDRESS = re.compile(r"""("[^"@]{0,254}"|[^\s<>()\[\],;:@"]{1,254})@(\[[^\]\s]{1,64}\]|[^\s<>()\[\],;:@"']+)""")


def is_text(text: str) -> bool:
    """Whether the text holds neither NUL nor lone surrogates, as ``NOT_TEXT`` finds them; ASCII is not searched."""
    return "\x00" not in text and (text.isascii() or not NOT_TEXT.search(text))


def shown_name(name: str) -> str:
    """A name as an error may show it: of a URL that was written in its place, which may hold a password, the scheme."""
    scheme, separator, _rest = name.partition("://")
    return f"{scheme}{separator}…" if separator else name


def storable(text: str, encoding: str = "utf-8", *, length: int | None = None, replacement: str = "?") -> str:
    """The text as a column can hold it: at most ``length`` characters, only those of ``encoding`` (a Python codec).

    ``ucs2`` stands for UTF-8 without characters above U+FFFF.  NUL and lone surrogates, which no database holds, become
    U+FFFD; this and every other character outside the encoding becomes ``replacement``.  The result is never longer.
    """
    text = NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text[:length])
    if encoding == "ucs2":
        return ABOVE_BMP.sub(replacement, text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(character if _is_in(character, encoding) else replacement for character in text)
    return text


def _is_in(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """The text on one line: each run of blanks and unprintable characters is one blank, at most 160 characters."""
    if len(text) <= MAX_TEXT and text.isascii() and text.isprintable():
        return text
    printable = "".join(character if character.isprintable() else " " for character in text[: MAX_TEXT * 8])
    text = " ".join(printable.split())
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def redact_address(address: str) -> str:
    """``ann@example.com`` becomes ``a***@example.com``, a text without ``@`` becomes ``***``."""
    local, at, domain = address.rpartition("@")
    first = local.lstrip('"')[:1]
    return f"{first}***@{domain}" if at else "***"


def redact(text: str) -> str:
    """The text on one line with every address in it redacted, then cut at 160 characters."""
    text = _BLANKS.sub(" ", text[:_MAX_INPUT]).strip()
    return _ADDRESS.sub(lambda match: redact_address(match[0]), text)[:MAX_TEXT]
