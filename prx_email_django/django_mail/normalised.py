"""An ``EmailMessage`` while it is rendered: its headers and file names in the form that every Django renders alike.

Django 5.2 sends a Subject or Content-Type of ``headers=`` beside its own, 6.1 raises for them; 6.1 raises for header
values that are no text, both for lazy file names beyond ASCII.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.headerregistry import BaseHeader
from email.message import Message
from email.utils import format_datetime
from typing import Any, cast

from django.core.mail import EmailMessage
from django.utils.encoding import force_str

from prx_email_django.compose.validation import as_text
from prx_email_django.django_mail.envelope import InvalidHeader
from prx_email_django.mime.field_kinds import BODY_FIELDS, SINGLE_FIELDS
from prx_email_django.mime.headers import FIELD_NAME
from prx_email_django.rules.text import CONTROL, LINE_BREAK


def is_plain(message: EmailMessage) -> bool:
    """Whether Django's own ``message()`` renders the message, so that its attributes describe it completely."""
    return getattr(type(message), "message", None) is EmailMessage.message


@contextmanager
def normalised(message: EmailMessage) -> Iterator[None]:
    """Render the message in this context; its attributes are as before at the end, except those that were set anew.

    Raises:
        InvalidHeader: ``header_injection`` or ``invalid_header``, see ``check_name``; a line end in a file name.
    """
    changes: dict[str, Any] = {}
    headers = _headers(message)
    if headers != dict(message.extra_headers):
        changes["extra_headers"] = headers
    if not str(message.subject) and (subject := subject_of(message)):
        changes["subject"] = subject
    attachments = [_attachment(attachment) for attachment in message.attachments]
    if any(new is not old for new, old in zip(attachments, message.attachments, strict=True)):
        changes["attachments"] = attachments
    before = {name: getattr(message, name) for name in changes}
    for name, value in changes.items():
        setattr(message, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if getattr(message, name) is changes[name]:
                setattr(message, name, value)


def subject_of(message: EmailMessage) -> str:
    """The subject that is sent: the message's own, else that of its headers."""
    given = (value for name, value in header_texts(message) if name.lower() == "subject")
    return str(message.subject) or next(filter(None, given), "")


#: Characters of a header's name: with its colon it must fit on one line, which cannot be folded (RFC 5322 §2.1.1).
MAX_NAME = 996


def check_name(name: str) -> None:
    """Refuse a name that is not one (RFC 5322 §3.6.8): a line end in it would start a field of a stranger's choice.

    Raises:
        InvalidHeader: ``header_injection``, ``invalid_header``.
    """
    if not FIELD_NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise InvalidHeader(
            f"headers: a name must be printable ASCII without space and colon, of 1 to {MAX_NAME} characters",
            code="header_injection" if CONTROL.search(name) else "invalid_header",
        )


def check_tree(made: object) -> None:
    """Check names and values of the fields of every part; the standard library writes line ends in them as they are.

    Within an attached message, which others made, only line ends are refused.

    Raises:
        InvalidHeader: ``header_injection``, ``invalid_header``.
    """
    parts: list[tuple[object, bool]] = [(made, False)]
    while parts:
        part, is_foreign = parts.pop()
        if not isinstance(part, Message):
            continue
        for name, value in part.raw_items():
            if not is_foreign or LINE_BREAK.search(name):
                check_name(name)
            if LINE_BREAK.search(_as_text(value)) and LINE_BREAK.search(_as_written(part, value)):
                raise InvalidHeader(
                    "headers: a value must not hold line ends, nor must a file name", code="header_injection"
                )
        if part.is_multipart():  # else the standard library decodes the payload, and raises for some charsets
            payload = cast("list[object]", part.get_payload())
            is_foreign = is_foreign or part.get_content_maintype() == "message"
            parts += [(child, is_foreign) for child in payload]


def _as_text(value: object) -> str:
    try:
        return str(value)
    except (LookupError, ValueError):  # a ``Header`` of an unknown charset: the generator judges it
        return ""


def _as_written(part: Message, value: object) -> str:
    """The value as it will be written: that of Django 6 is a decoded text, and its encoded words may hold line ends."""
    if not isinstance(value, BaseHeader):
        return _as_text(value)
    return value.fold(policy=cast(Any, part.policy)).removesuffix(part.policy.linesep)


def header_texts(message: EmailMessage) -> Iterator[tuple[str, str]]:
    """Name and value of each of the caller's own headers."""
    for name, value in message.extra_headers.items():
        given = format_datetime(value) if isinstance(value, datetime) else force_str(value)
        yield str(name), given


def _headers(message: EmailMessage) -> dict[str, str]:
    """The headers as texts, without those that Django makes itself from other attributes."""
    kept: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in header_texts(message):
        check_name(name)
        lower = name.lower()
        if lower == "subject" or lower in BODY_FIELDS or (lower in SINGLE_FIELDS and lower in seen):
            continue
        seen.add(lower)
        kept[name] = value
    return kept


def _attachment(given: Any) -> Any:
    """The attachment with a file name that is a plain string."""
    if not isinstance(given, tuple) or not given or given[0] is None:
        return given
    name = as_text(given[0])
    if isinstance(name, str) and ("\n" in name or "\r" in name):
        raise InvalidHeader("attachments: a file name must not hold line ends", code="header_injection")
    if isinstance(name, str):
        name = name.replace("\x00", "")  # no server takes it
    if name == given[0] and isinstance(given[0], str):
        return given
    return type(given)(name, *given[1:]) if hasattr(given, "_fields") else (name, *given[1:])
