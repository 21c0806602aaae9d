"""Attachments of a call: checked against the policy, and read once, while the message is queued.

No path is kept: the content goes into the database.
"""

from __future__ import annotations

import binascii
import mimetypes
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeAlias

from prx_email_django import errors
from prx_email_django.compose.attachment_store import read_stored, store_not_configured, too_large
from prx_email_django.compose.validation import as_text, check_header_text
from prx_email_django.errors import AttachmentRejected, InvalidMessage
from prx_email_django.mime.headers import is_content_type
from prx_email_django.rules.text import INVISIBLE, MAX_COLUMN, clean
from prx_email_django.store.draft import DraftPart

#: Bytes of UTF-8 in a file name (most file systems allow 255, and mail programs append suffixes).
MAX_FILENAME = 150
FALLBACK_FILENAME = "attachment"
#: Characters of a longer file name that are looked at, from its start and from its end: NFC takes quadratic time.
_START, _END = 900, 100

_TYPES_SETTING = 'PRX_EMAIL["ATTACHMENT_CONTENT_TYPES"]'
_INLINE_ID = re.compile(r"[!-;=?-~]{1,200}")


@dataclass(frozen=True, slots=True)
class AttachmentInput:
    """An attachment as a caller gives it, with exactly one of ``content``, ``base64`` and ``path``.

    ``path`` is relative to the attachment store (``ATTACHMENT_STORE``).  ``inline_id="logo"`` makes an inline image of
    the attachment, which the HTML body shows with ``<img src="cid:logo">``.
    """

    filename: str
    content_type: str
    content: bytes | None = field(default=None, repr=False)
    base64: str | None = field(default=None, repr=False)
    path: str | None = None
    inline_id: str = ""

    def __post_init__(self) -> None:
        """Evaluate lazy translations."""
        for name in ("filename", "content_type", "base64", "path", "inline_id"):
            object.__setattr__(self, name, as_text(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class AttachmentPolicy:
    """What is accepted: ``max_size`` in bytes, types in lower case (None: any), the store (None: no paths)."""

    max_size: int
    content_types: frozenset[str] | None
    store: str | os.PathLike[str] | None = None


#: An attachment as Django's ``EmailMessage`` takes it: file name, content, type (left out: guessed from the name).
DjangoAttachment: TypeAlias = tuple[str | None, bytes | str] | tuple[str | None, bytes | str, str | None]
OneAttachment: TypeAlias = AttachmentInput | DjangoAttachment
Attachments: TypeAlias = OneAttachment | Iterable[OneAttachment] | None


def as_attachments(attachments: Attachments) -> list[AttachmentInput]:
    """The attachment or attachments as a list; None is the empty list.

    Raises:
        InvalidMessage: ``invalid_option`` where a value is not an attachment.
    """
    given: Any = attachments
    if given is None:
        return []
    if isinstance(given, AttachmentInput) or _is_django_attachment(given):
        return [_as_input(given)]
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise _not_an_attachment(given)
    return [_as_input(attachment) for attachment in given]


def _is_django_attachment(given: object) -> bool:
    return (
        isinstance(given, tuple)
        and len(given) in {2, 3}
        and isinstance(as_text(given[0]), str | None)
        and isinstance(as_text(given[1]), str | bytes)
    )


def _as_input(given: Any) -> AttachmentInput:
    if isinstance(given, AttachmentInput):
        return given
    if not _is_django_attachment(given):
        raise _not_an_attachment(given)
    filename, content, content_type = (*given, None)[:3]
    filename, content, content_type = as_text(filename), as_text(content), as_text(content_type)
    return AttachmentInput(
        filename=filename or "",
        content_type=content_type or mimetypes.guess_type(filename or "")[0] or "application/octet-stream",
        content=content.encode() if isinstance(content, str) else content,
    )


def _not_an_attachment(given: object) -> InvalidMessage:
    return InvalidMessage(
        f"attachments must be AttachmentInput or (filename, content, content_type), not {type(given).__name__}",
        code="invalid_option",
    )


def load(attachment: AttachmentInput, policy: AttachmentPolicy) -> DraftPart:
    """Check the attachment against the policy and read its content.

    Raises:
        AttachmentRejected: with one of its codes.
        InvalidMessage: ``header_injection`` (control characters in the file name or inline id), ``invalid_option``.
    """
    _check_source(attachment)
    check_header_text("attachment: filename", attachment.filename)
    _check_inline_id(attachment.inline_id)
    _check_type(attachment.content_type, policy.content_types)
    name = attachment.filename or PurePath(attachment.path or "").name
    return DraftPart(
        kind="inline" if attachment.inline_id else "attachment",
        filename=clean_filename(name),
        content_type=attachment.content_type.strip(" "),
        content=_content(attachment, policy),
        inline_id=attachment.inline_id,
    )


def clean_filename(name: str) -> str:
    """A file name for every system: no directories, no invisible characters, no leading dots, at most 150 bytes."""
    name = name.replace("\\", "/").rpartition("/")[2]
    if len(name) > _START + _END:
        name = name[:_START] + name[-_END:]
    name = INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    name = name.strip().lstrip(".").rstrip(". ").strip()
    return _shortened(name) or FALLBACK_FILENAME


def decode_base64(text: str, max_size: int) -> bytes:
    """Strict base64 (no white space, full padding); the size is checked before the text is decoded.

    Raises:
        AttachmentRejected: ``attachment_too_large``, ``attachment_invalid_base64``.
    """
    if len(text) // 4 * 3 - text[-2:].count("=") > max_size:
        raise too_large()
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise AttachmentRejected(
            "attachment must be valid base64, without line ends", code="attachment_invalid_base64"
        ) from error


def _content(attachment: AttachmentInput, policy: AttachmentPolicy) -> bytes:
    if attachment.base64 is not None:
        return decode_base64(attachment.base64, policy.max_size)
    if attachment.path is not None:
        if not policy.store:
            raise store_not_configured()
        return read_stored(policy.store, attachment.path, policy.max_size)
    content = attachment.content or b""
    if len(content) > policy.max_size:
        raise too_large()
    return bytes(content)


def _check_source(attachment: AttachmentInput) -> None:
    sources = (attachment.content, attachment.base64, attachment.path)
    if sum(source is not None for source in sources) != 1:
        raise AttachmentRejected("attachment must have one of content, base64 and path", code="attachment_source")
    if attachment.content is not None and not isinstance(attachment.content, bytes | bytearray | memoryview):
        raise AttachmentRejected("attachment content must be bytes; encode text first", code="attachment_source")
    if not all(isinstance(text, str | None) for text in sources[1:]):
        raise AttachmentRejected("attachment base64 and path must be strings", code="attachment_source")


def _check_type(content_type: str, allowed: frozenset[str] | None) -> None:
    essence = content_type.partition(";")[0].strip().lower()
    is_allowed = allowed is None or essence in allowed
    is_allowed = is_allowed and len(content_type) <= MAX_COLUMN
    if not is_allowed or not is_content_type(content_type.strip(" ")) or essence.startswith("multipart/"):
        named = clean(essence) or "no type"
        reason = "is not a type that an attachment can have" if is_allowed else f"is not in {_TYPES_SETTING}"
        error = AttachmentRejected(errors.ATTACHMENT_TYPE_NOT_ALLOWED, code="attachment_type_not_allowed")
        error.add_note(f"{named} {reason}")
        raise error


def _check_inline_id(inline_id: str) -> None:
    check_header_text("attachment: inline_id", inline_id)
    if inline_id and not _INLINE_ID.fullmatch(inline_id):
        raise InvalidMessage(
            "attachment: inline_id must be at most 200 printable ASCII characters, without spaces and angle brackets",
            code="invalid_option",
        )


def _shortened(name: str) -> str:
    """The name in at most ``MAX_FILENAME`` bytes; the extension is kept, and no character is split."""
    if len(name.encode()) <= MAX_FILENAME:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    room = MAX_FILENAME - len((dot + extension).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + extension
