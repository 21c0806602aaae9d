"""The bytes that ``message()`` of an ``EmailMessage`` makes, without the fields that the outbox removes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, cast

import django
from django.core.mail import DNS_NAME, EmailMessage

from prx_email_django.compose.attachment_store import too_large
from prx_email_django.compose.headers import check_head_size
from prx_email_django.conf import outbox_settings
from prx_email_django.django_mail.caller_fields import as_caller_wrote
from prx_email_django.django_mail.envelope import InvalidHeader
from prx_email_django.django_mail.forwarded import Forwarded, as_given, can_set_aside, is_changed_in_writing
from prx_email_django.django_mail.normalised import check_tree, is_plain, normalised
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.entity import split_entity
from prx_email_django.mime.field_kinds import HIDDEN_FIELDS, SINGLE_FIELDS
from prx_email_django.mime.recode import field_text, split_fields, to_wire
from prx_email_django.mime.transfer import MAX_LINE, keeps_to_lines

#: Header fields with this prefix are options for the outbox; they are never sent.
PREFIX = "x-outbox-"
#: A Message-ID of ``email.utils.make_msgid``, which Django uses.
_MADE_ID = re.compile(r"<\d+\.\d+\.\d+@(.+)>")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered message, seven bits and CRLF, and the fields that were taken out of it."""

    raw: bytes
    #: The Message-ID that the caller chose, which ``raw`` has too; else empty.
    message_id: str
    #: Fields with ``PREFIX``: the rest of the name, in lower case -> value.
    outbox_fields: dict[str, str]


def render_email(message: EmailMessage) -> Rendered:
    """Render the message once, as Django's SMTP backend does.

    Raises:
        ValueError: raised by ``message.message()``, or for a header that has no wire form.
    """
    began = datetime.now(UTC)
    with normalised(message):
        fields, body = split_fields(_as_bytes(message))
    kept: list[bytes] = []
    outbox_fields: dict[str, str] = {}
    message_id = ""
    for name, encoded in _once(fields):
        value = field_text(encoded)
        if name.startswith(PREFIX):
            outbox_fields[name.removeprefix(PREFIX)] = value
        elif name == "message-id":
            if value and _is_chosen(message, name, value, made=_is_made_id(value)):
                message_id = _fitting(value)
                kept.append(encoded)
        elif name == "date":
            if _is_chosen(message, name, value, made=_is_between(value, began, datetime.now(UTC))):
                kept.append(as_caller_wrote(message, name, encoded))
        elif name not in HIDDEN_FIELDS:
            kept.append(as_caller_wrote(message, name, encoded))
    if not any(name == "mime-version" for name, _ in fields):  # on Django 6.1, where the body is empty
        kept.append(b"MIME-Version: 1.0\r\n")
    check_head_size(b"".join(kept).decode("latin-1"))
    raw = to_wire(b"".join((*kept, b"\r\n", body)))
    if not keeps_to_lines(raw):
        raise InvalidHeader(
            f"the message must not have a line above {MAX_LINE} characters where nothing may encode it: in a "
            "header of a part, or in a signed part (RFC 5322 §2.1.1)",
            code="invalid_header",
        )
    return Rendered(raw, message_id, outbox_fields)


def _once(fields: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The fields, of ``SINGLE_FIELDS`` the first of each."""
    seen: set[str] = set()
    for name, encoded in fields:
        if name not in SINGLE_FIELDS or name not in seen:
            yield name, encoded
        seen.add(name)


def _fitting(message_id: str) -> str:
    if len(message_id) >= MAX_LINE or not decode_words(message_id).isascii():
        raise InvalidHeader("headers: a Message-ID must be ASCII and fit on a line", code="invalid_header")
    return message_id


def check_attachment_sizes(raw: bytes) -> None:
    """Check the size of every file and inline part against ``ATTACHMENT_MAX_SIZE``.

    Raises:
        AttachmentRejected: ``attachment_too_large``.
    """
    limit = outbox_settings().attachment_max_size
    if len(raw) <= limit:
        return
    for part in message_from_bytes(raw).walk():
        if part.get_content_disposition() in {"attachment", "inline"} and _size(part, limit) > limit:
            raise too_large()


def _as_bytes(message: EmailMessage) -> bytes:
    """The bytes of ``message.message()``; where Django makes them, with forwarded messages as they were given."""
    if not can_set_aside(message):
        return _rendered_bytes(message)
    forwarded = Forwarded(message)
    return forwarded.put_back(_rendered_bytes(forwarded.message))


def _rendered_bytes(message: EmailMessage) -> bytes:
    make: Callable[..., Any] = message.message
    takes_policy = django.VERSION >= (6, 0) and _accepts(make, "policy")
    made = make(policy=policy.SMTP) if takes_policy else make()
    check_tree(made)
    if isinstance(made, Message) and is_changed_in_writing(made):
        return as_given(made)
    try:
        encoded = made.as_bytes(linesep="\r\n") if _accepts(made.as_bytes, "linesep") else made.as_bytes()
    # A multipart without boundary, in eight bits; fields that it cannot parse: the standard library cannot write it.
    except (AttributeError, LookupError, RecursionError, TypeError, UnicodeError):
        if not isinstance(made, Message):
            raise
        encoded = as_given(made)
    return _with_whole_header(made, cast(bytes, encoded))


def _with_whole_header(made: object, encoded: bytes) -> bytes:
    """The rendered message; without folds where the standard library put one in front of a comment without a blank.

    Such a line would be a field of its own, or end the header.

    Raises:
        InvalidHeader: ``header_injection``: the header is broken without folds too.
    """
    if not isinstance(made, Message) or _has_fields_of(made, encoded):
        return encoded
    # That of the base class: Django 5.2's own takes no policy.
    encoded = Message.as_bytes(made, policy=made.policy.clone(max_line_length=0, linesep="\r\n"))
    if not _has_fields_of(made, encoded):
        raise InvalidHeader("headers: a value must not end its field", code="header_injection")
    return encoded


def _has_fields_of(made: Message, encoded: bytes) -> bool:
    entity = split_entity(encoded)
    return bool(entity.blank) and [found.name for found in entity.fields] == [name.lower() for name in made]


def _accepts(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name or parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _is_chosen(message: EmailMessage, name: str, value: str, *, made: bool) -> bool:
    """Whether the caller set this field; ``made``: the value looks as if Django had made it in this call.

    An overridden ``message()`` may call Django's and keep its values, or set its own.  It has set the value if the
    value does not look like Django's, or if the message has it as an attribute.
    """
    if any(given.lower() == name for given in message.extra_headers):
        return True
    if is_plain(message):
        return False
    return not made or any(attribute == value for attribute in vars(message).values())


def _is_made_id(value: str) -> bool:
    match = _MADE_ID.fullmatch(value)
    return match is not None and match[1] == str(DNS_NAME)


def _is_between(value: str, earliest: datetime, latest: datetime) -> bool:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return False
    # The offset "-0000" (UTC, of unknown origin) is parsed as naive.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return earliest - timedelta(seconds=1) <= moment <= latest


def _size(part: Message, limit: int) -> int:
    payload = part.get_payload()
    if not isinstance(payload, str):  # an attached message
        return sum(len(as_given(attached)) for attached in cast("list[Message]", payload or []))
    if len(payload) <= limit:  # no transfer encoding makes content shorter
        return len(payload)
    content = cast(bytes, part.get_payload(decode=True))
    if part.get_content_maintype() == "text":  # rendering made CRLF line ends and added the last line end
        content = content.replace(b"\r\n", b"\n").removesuffix(b"\n")
    return len(content)
