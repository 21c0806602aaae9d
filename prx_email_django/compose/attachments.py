"""Attachments on their way in: the policy, clean file names, and the guard of the attachment store.

An attachment given as a path is read once, while the message is queued, by a walk of directory descriptors that follows
no link.  No path is kept.
"""

from __future__ import annotations

import binascii
import mimetypes
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from errno import ELOOP, ENOTDIR
from pathlib import PurePath
from typing import Any, TypeAlias

from prx_email_django import errors
from prx_email_django.compose.validation import check_header_text
from prx_email_django.errors import AttachmentRejected, InvalidMessage
from prx_email_django.mime.headers import is_content_type
from prx_email_django.rules.text import INVISIBLE

#: Octets of UTF-8 in a file name (most file systems hold 255; readers add suffixes of their own).
MAX_FILENAME = 150
FALLBACK_FILENAME = "attachment"

_INLINE_ID = re.compile(r"[!-;=?-~]{1,200}")

_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class AttachmentInput:
    """An attachment as a caller gives it: exactly one of ``content``, ``base64`` and ``path``.

    ``path`` is relative to the attachment store (``ATTACHMENT_STORE``).  ``inline_id="logo"`` makes it an inline image
    that the HTML body shows by ``<img src="cid:logo">``.
    """

    filename: str
    content_type: str
    content: bytes | None = field(default=None, repr=False)
    base64: str | None = field(default=None, repr=False)
    path: str | None = None
    inline_id: str = ""


@dataclass(frozen=True, slots=True)
class AttachmentPolicy:
    """What is let in: octets of one attachment, types in lower case (None: any), the store (None: no paths)."""

    max_size: int
    content_types: frozenset[str] | None
    store: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class LoadedAttachment:
    """An attachment that passed: clean name, type as given (with parameters), octets."""

    filename: str
    content_type: str
    content: bytes = field(repr=False)
    inline_id: str = ""


#: As Django's ``EmailMessage`` takes one: file name, content, and the type (left out: told by the name).
DjangoAttachment: TypeAlias = tuple[str | None, bytes | str] | tuple[str | None, bytes | str, str | None]
OneAttachment: TypeAlias = AttachmentInput | DjangoAttachment
Attachments: TypeAlias = OneAttachment | Iterable[OneAttachment] | None


def as_attachments(attachments: Attachments) -> list[AttachmentInput]:
    """One attachment or several, or None, as a list.

    Raises:
        InvalidMessage: ``invalid_option`` where one of them is no attachment.
    """
    given: Any = attachments
    if given is None:
        return []
    if isinstance(given, AttachmentInput) or _is_django_attachment(given):
        return [_as_input(given)]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise _no_attachment(given)
    return [_as_input(one) for one in given]


def _is_django_attachment(given: object) -> bool:
    return (
        isinstance(given, tuple)
        and len(given) in {2, 3}
        and isinstance(given[0], str | None)
        and isinstance(given[1], str | bytes)
    )


def _as_input(given: Any) -> AttachmentInput:
    if isinstance(given, AttachmentInput):
        return given
    if not _is_django_attachment(given):
        raise _no_attachment(given)
    filename, content, content_type = (*given, None)[:3]
    return AttachmentInput(
        filename=filename or "",
        content_type=content_type or mimetypes.guess_type(filename or "")[0] or "application/octet-stream",
        content=content.encode() if isinstance(content, str) else content,
    )


def _no_attachment(given: object) -> InvalidMessage:
    return InvalidMessage(
        f"attachments: give AttachmentInput, or (filename, content, content_type), not {type(given).__name__}",
        code="invalid_option",
    )


def load(attachment: AttachmentInput, policy: AttachmentPolicy) -> LoadedAttachment:
    """Check an attachment against the policy and read it.

    Raises:
        AttachmentRejected: see its codes.
        InvalidMessage: ``header_injection`` (control characters in the file name or inline id), ``invalid_option``.
    """
    _check_source(attachment)
    check_header_text("attachment: filename", attachment.filename)
    _check_inline_id(attachment.inline_id)
    _check_type(attachment.content_type, policy.content_types)
    name = attachment.filename or PurePath(attachment.path or "").name
    return LoadedAttachment(
        filename=clean_filename(name),
        content_type=attachment.content_type.strip(" "),
        content=_content(attachment, policy),
        inline_id=attachment.inline_id,
    )


def clean_filename(name: str) -> str:
    """A name that is one, on every system: no directories, nothing invisible, no leading dots, at most 150 octets."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    name = name.strip().lstrip(".").rstrip(". ").strip()
    return _shortened(name) or FALLBACK_FILENAME


def decode_base64(text: str, max_size: int) -> bytes:
    """Strict base64 (no white space, no junk, whole padding); the size is judged before anything is decoded.

    Raises:
        AttachmentRejected: ``attachment_too_large``, ``attachment_invalid_base64``.
    """
    if len(text) // 4 * 3 - text[-2:].count("=") > max_size:
        raise _too_large()
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise AttachmentRejected(
            "attachment is not valid base64 (write it without line ends)", code="attachment_invalid_base64"
        ) from error


def read_stored(store: str | os.PathLike[str], path: str, max_size: int) -> bytes:
    """Read a regular file below the store; no symbolic link on the way is followed, not even one put there just now.

    Each component is opened relative to its directory's descriptor with ``O_NOFOLLOW``, so that renaming directories
    meanwhile changes nothing; ``O_NONBLOCK`` keeps a FIFO from holding the caller.

    Raises:
        AttachmentRejected: ``attachment_path_escapes_root``, ``attachment_not_found``, ``attachment_too_large``,
            ``attachment_store_not_configured`` (also where the system has no ``openat``, as on Windows).
    """
    parts = path.split("/")
    if "\x00" in path or any(part in {"", ".", ".."} for part in parts):
        raise _escapes()
    with ExitStack() as opened:
        directory = _open_store(store, opened)
        for part in parts[:-1]:
            directory = _open_below(directory, part, _DIRECTORY, opened)
        return _read(_open_below(directory, parts[-1], _FILE, opened), max_size)


def _content(attachment: AttachmentInput, policy: AttachmentPolicy) -> bytes:
    if attachment.base64 is not None:
        return decode_base64(attachment.base64, policy.max_size)
    if attachment.path is not None:
        if not policy.store:
            raise _no_store()
        return read_stored(policy.store, attachment.path, policy.max_size)
    content = attachment.content or b""
    if len(content) > policy.max_size:
        raise _too_large()
    return bytes(content)


def _check_source(attachment: AttachmentInput) -> None:
    sources = (attachment.content, attachment.base64, attachment.path)
    if sum(source is not None for source in sources) != 1:
        raise AttachmentRejected("attachment needs exactly one of content, base64 and path", code="attachment_source")
    if attachment.content is not None and not isinstance(attachment.content, bytes | bytearray | memoryview):
        raise AttachmentRejected("attachment content must be bytes; encode text first", code="attachment_source")
    if not all(isinstance(text, str | None) for text in sources[1:]):
        raise AttachmentRejected("attachment base64 and path must be strings", code="attachment_source")


def _check_type(content_type: str, allowed: frozenset[str] | None) -> None:
    essence = content_type.partition(";")[0].strip().lower()
    known = allowed is None or essence in allowed
    if not known or not is_content_type(content_type.strip(" ")) or essence.startswith("multipart/"):
        raise AttachmentRejected(errors.ATTACHMENT_TYPE_NOT_ALLOWED, code="attachment_type_not_allowed")


def _check_inline_id(inline_id: str) -> None:
    check_header_text("attachment: inline_id", inline_id)
    if inline_id and not _INLINE_ID.fullmatch(inline_id):
        raise InvalidMessage(
            "attachment: inline_id is made of printable ASCII without spaces and angle brackets, at most 200 long",
            code="invalid_option",
        )


def _shortened(name: str) -> str:
    """At most ``MAX_FILENAME`` octets, the extension kept, no character cut in half."""
    if len(name.encode()) <= MAX_FILENAME:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    room = MAX_FILENAME - len((dot + extension).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + extension


def _open_store(store: str | os.PathLike[str], opened: ExitStack) -> int:
    if os.open not in os.supports_dir_fd or not _NO_LINK:
        raise _no_store()
    try:
        descriptor = os.open(store, _DIRECTORY)
    except OSError as error:
        raise _no_store() from error
    opened.callback(os.close, descriptor)
    return descriptor


def _open_below(directory: int, part: str, flags: int, opened: ExitStack) -> int:
    try:
        descriptor = os.open(part, flags | _NO_LINK, dir_fd=directory)
    except UnicodeEncodeError as error:
        raise _not_found() from error
    except OSError as error:
        # What a link in the place of a directory gives differs between systems; whether it is one decides the answer,
        # and only the answer: nothing is opened any more.
        if error.errno in {ELOOP, ENOTDIR} and _is_link(directory, part):
            raise _escapes() from error
        raise _not_found() from error
    opened.callback(os.close, descriptor)
    return descriptor


def _is_link(directory: int, part: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _read(descriptor: int, max_size: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise _not_found()
    if found.st_size > max_size:
        raise _too_large()
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_size + 1)
    except OSError as error:
        raise _not_found() from error
    if len(content) > max_size:  # it has grown since
        raise _too_large()
    return content


def _too_large() -> AttachmentRejected:
    return AttachmentRejected(errors.ATTACHMENT_TOO_LARGE, code="attachment_too_large")


def _escapes() -> AttachmentRejected:
    return AttachmentRejected(errors.ATTACHMENT_PATH_ESCAPES_ROOT, code="attachment_path_escapes_root")


def _no_store() -> AttachmentRejected:
    return AttachmentRejected(errors.ATTACHMENT_STORE_NOT_CONFIGURED, code="attachment_store_not_configured")


def _not_found() -> AttachmentRejected:
    return AttachmentRejected("attachment not found in the attachment store", code="attachment_not_found")
