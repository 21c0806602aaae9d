"""Validation of the caller's headers, before anything is written; see ``compose.validation``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prx_email_django.compose.validation import check_header_text, demand_text, refuse
from prx_email_django.mime.field_kinds import ID_FIELDS, SINGLE_FIELDS, URI_FIELDS, is_structured
from prx_email_django.mime.headers import FIELD_NAME, MAX_HEAD, MAX_HEADER, spaced_uris
from prx_email_django.mime.transfer import MAX_LINE

#: Headers that the app makes from the message's fields: a second one would contradict the first.
_RESERVED = frozenset(
    {
        "message-id",
        "date",
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "reply-to",
        "return-path",
        "mime-version",
        "received",
        "dkim-signature",
    }
)
_LISTS = (list, tuple)
_RESERVED_PREFIXES = ("resent-", "content-")


def check_header(name: str, value: str) -> None:
    """Check a header of the caller: a name of printable ASCII without a colon, and none that the app makes.

    Raises:
        InvalidMessage: ``header_injection``, ``invalid_header``.
    """
    demand_text("headers: name", name, "invalid_header")
    demand_text("headers: value", value, "invalid_header")
    check_header_text("headers: name", name)
    if not FIELD_NAME.fullmatch(name) or len(name) > 76:
        refuse(
            "invalid_header", "headers: a name must be printable ASCII without space and colon, at most 76 characters"
        )
    lower = name.lower()
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        refuse("invalid_header", f"headers: {name} must not be given: it is made from the message's fields")
    check_header_text(f"headers: {name}", value)
    if is_structured(lower) and not _can_be_written(lower, value):
        refuse(
            "invalid_header",
            f"headers: {name} must be ASCII, its parts separated by white space and each short enough for a line "
            f"({MAX_LINE} characters): RFC 2047 allows no encoded words in it",
        )
    if len(value) > MAX_HEADER:
        refuse("invalid_header", f"headers: the value of {name} must not be longer than {MAX_HEADER} characters")


def _can_be_written(name: str, value: str) -> bool:
    """Whether the value can be folded as it is, each part on a line of its own, behind a blank."""
    needs_ascii = name in URI_FIELDS or name in ID_FIELDS
    fits = all(len(part) < MAX_LINE for part in spaced_uris(value).split() if part.isascii())
    return fits and (value.isascii() or not needs_ascii)


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Check every pair of name and value with ``check_header``.

    Raises:
        InvalidMessage: ``header_injection``, ``invalid_header``.
    """
    seen: set[str] = set()
    for name, value in headers:
        check_header(name, value)
        if name.lower() in SINGLE_FIELDS and name.lower() in seen:
            refuse("invalid_header", f"headers: {name} must not be given twice")
        seen.add(name.lower())


def check_head_size(*values: object) -> None:
    """Refuse header fields that are longer than ``MAX_HEAD`` together; ``values`` are texts, or lists or dicts of them.

    Values that are not text are not counted: they are refused where they are read.

    Raises:
        InvalidMessage: ``message_too_large``.
    """
    if sum(map(_head_bytes, filter(None, values))) > MAX_HEAD:
        refuse(
            "message_too_large",
            f"the header fields of a message must not be longer than {MAX_HEAD} bytes together: give fewer addresses "
            "and headers, or send several messages",
        )


def _head_bytes(value: object) -> int:
    """Bytes of UTF-8; each text counts two more, for what separates it from the next one."""
    if isinstance(value, str):
        return 2 + len(value if value.isascii() else value.encode("utf-8", "replace"))
    if isinstance(value, _LISTS):
        return sum(map(_head_bytes, value))
    if value and isinstance(value, Mapping):
        return sum(_head_bytes(name) + _head_bytes(item) for name, item in value.items())
    return 0
