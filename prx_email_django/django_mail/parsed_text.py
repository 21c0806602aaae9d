"""Texts and inline parts of a parsed message, to be shown: a malformed message gives less, and never an error.

The standard library's parser raises a dozen kinds of errors for malformed fields (unknown charsets, NUL in parameters,
comments in comments).  What is only shown must not decide whether a message can be queued or a page can be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from typing import TypeVar, cast

from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.recode import field_text, split_fields
from prx_email_django.mime.transfer import with_crlf

T = TypeVar("T")


def parsed(raw: bytes) -> EmailMessage:
    """The message; only its subject where the standard library cannot parse it (parts in parts, some types)."""
    return _read(lambda: message_from_bytes(raw, policy=policy.default), None) or _with_subject(raw)


def _with_subject(raw: bytes) -> EmailMessage:
    message = EmailMessage(policy=policy.default)
    subject = next((value for name, value in split_fields(with_crlf(raw))[0] if name == "subject"), b"")
    with suppress(ValueError):
        message["Subject"] = decode_words(field_text(subject))
    return message


def subject_of(message: EmailMessage) -> str:
    """The decoded subject; "" where it cannot be read."""
    return _read(lambda: str(message.get("Subject", "")), "")


def body_of(message: EmailMessage, kind: str) -> str:
    """The text of the ``plain`` or ``html`` body, with LF; in Latin-1 where its charset cannot be used."""
    part = _read(lambda: message.get_body((kind,)), None)
    if part is None:
        return ""
    text = _read(lambda: str(part.get_content()), None)
    if text is None:
        text = _read(lambda: content_of(part).decode("latin-1"), "")
    return text.replace("\r\n", "\n")


def inline_parts(message: EmailMessage) -> Iterator[tuple[str, str, bytes]]:
    """Yield Content-ID, type and content of every part that has a Content-ID."""
    parts: list[MIMEPart] = _read(lambda: list(message.walk()), [])
    for part in parts:
        name, kind, content = _read(lambda: _inline(part), ("", "", b""))  # noqa: B023 - called at once
        if name:
            yield name, kind, content


def content_of(part: MIMEPart) -> bytes:
    """The decoded content of a part; empty for a multipart."""
    return cast("bytes | None", part.get_payload(decode=True)) or b""


def _inline(part: MIMEPart) -> tuple[str, str, bytes]:
    name = str(part.get("Content-ID", "")).strip("<> ")
    return (name, part.get_content_type(), content_of(part)) if name else ("", "", b"")


def _read(read: Callable[[], T], fallback: T) -> T:
    try:
        return read()
    except Exception:  # noqa: BLE001 - see this module's docstring
        return fallback
