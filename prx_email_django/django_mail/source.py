"""The octets of a message, as ``message()`` makes them, less what belongs to the outbox."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, cast

import django
from django.core.mail import DNS_NAME, EmailMessage

from prx_email_django import errors
from prx_email_django.conf import outbox_settings
from prx_email_django.django_mail.envelope import has_utf8_local_part
from prx_email_django.errors import AttachmentRejected
from prx_email_django.mime.headers import address_field
from prx_email_django.mime.recode import field_text, seven_bit, split_fields
from prx_email_django.mime.transfer import is_wire_form, with_crlf

#: Header fields with this prefix speak to the outbox; they never leave it.
PREFIX = "x-outbox-"
_HIDDEN = frozenset({"bcc", "resent-bcc"})
#: What ``email.utils.make_msgid`` makes, and so Django.
_MADE_ID = re.compile(r"<\d+\.\d+\.\d+@(.+)>")


@dataclass(frozen=True, slots=True)
class Rendered:
    """The octets, seven bits and CRLF, and what was taken out of them."""

    raw: bytes
    #: Chosen by the caller; it stands in ``raw`` too.
    message_id: str
    #: Fields of ``PREFIX``: the rest of the name in lower case -> value.
    own_fields: dict[str, str]


def is_plain(message: EmailMessage) -> bool:
    """Whether Django's own ``message()`` renders it, so that its attributes say all of it."""
    return getattr(type(message), "message", None) is EmailMessage.message


def rendered(message: EmailMessage) -> Rendered:
    """Render the message once, as Django's SMTP backend does.

    Raises:
        ValueError: what ``message.message()`` raises, or a header that cannot go over the wire.
    """
    began = datetime.now(UTC)
    fields, body = split_fields(with_crlf(_octets(message)))
    kept: list[bytes] = []
    own_fields: dict[str, str] = {}
    message_id = ""
    for name, octets in fields:
        value = field_text(octets)
        if name.startswith(PREFIX):
            own_fields[name.removeprefix(PREFIX)] = value
        elif name == "message-id":
            if not message_id and value and _is_chosen(message, name, value, made=_is_made_id(value)):
                message_id = value
                kept.append(octets)
        elif name == "date":
            if _is_chosen(message, name, value, made=_is_between(value, began, datetime.now(UTC))):
                kept.append(octets)
        elif name not in _HIDDEN:
            kept.append(_with_true_addresses(message, name, octets))
    raw = b"".join((*kept, b"\r\n", body))
    return Rendered(raw if is_wire_form(raw) else seven_bit(raw), message_id, own_fields)


def check_attachment_sizes(raw: bytes) -> None:
    """Hold every file and inline part against ``ATTACHMENT_MAX_SIZE``.

    Raises:
        AttachmentRejected: ``attachment_too_large``.
    """
    limit = outbox_settings().attachment_max_size
    if len(raw) <= limit:
        return
    for part in message_from_bytes(raw).walk():
        if part.get_content_disposition() in {"attachment", "inline"} and _size(part, limit) > limit:
            raise AttachmentRejected(errors.ATTACHMENT_TOO_LARGE, code="attachment_too_large")


def _octets(message: EmailMessage) -> bytes:
    make: Callable[..., Any] = message.message
    modern = django.VERSION >= (6, 0) and _accepts(make, "policy")
    made = make(policy=policy.SMTP) if modern else make()
    octets = made.as_bytes(linesep="\r\n") if _accepts(made.as_bytes, "linesep") else made.as_bytes()
    return cast(bytes, octets)


def _accepts(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(one.name == name or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _is_chosen(message: EmailMessage, name: str, value: str, *, made: bool) -> bool:
    """Whether the caller set this field; ``made``: it looks as if Django had made it in this very call.

    An overridden ``message()`` may call Django's and leave its values in place, or put its own there: then it is
    told by its looks, or by being kept on the message.
    """
    if any(given.lower() == name for given in message.extra_headers):
        return True
    if is_plain(message):
        return False
    return not made or any(kept == value for kept in vars(message).values())


def _is_made_id(value: str) -> bool:
    match = _MADE_ID.fullmatch(value)
    return match is not None and match[1] == str(DNS_NAME)


def _is_between(value: str, earliest: datetime, latest: datetime) -> bool:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return False
    # "-0000" (UTC, of unknown origin) is read as naive.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return earliest - timedelta(seconds=1) <= moment <= latest


def _with_true_addresses(message: EmailMessage, name: str, octets: bytes) -> bytes:
    """The field itself, or anew where an address has a local part that Django can only write as encoded words."""
    attribute = {"from": "from_email", "to": "to", "cc": "cc", "reply-to": "reply_to"}.get(name)
    if attribute is None or any(given.lower() == name for given in message.extra_headers):
        return octets
    given = getattr(message, attribute)
    mailboxes = [str(one) for one in ([given] if attribute == "from_email" else given)]
    if not any(map(has_utf8_local_part, mailboxes)):
        return octets
    return address_field(octets.partition(b":")[0].decode("ascii"), mailboxes).encode()


def _size(part: Message, limit: int) -> int:
    payload = part.get_payload()
    if not isinstance(payload, str):  # a message
        return sum(len(one.as_bytes()) for one in cast("list[Message]", payload or []))
    if len(payload) <= limit:  # no transfer encoding makes anything shorter
        return len(payload)
    octets = cast(bytes, part.get_payload(decode=True))
    if part.get_content_maintype() == "text":  # as it was given: rendering made the line ends and added the last one
        octets = octets.replace(b"\r\n", b"\n").removesuffix(b"\n")
    return len(octets)
