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
from urllib.parse import quote

import django
from django.core.mail import DNS_NAME, EmailMessage

from prx_email_django.compose.attachment_store import too_large
from prx_email_django.compose.headers import check_head_size
from prx_email_django.conf import outbox_settings
from prx_email_django.django_mail.envelope import InvalidHeader, is_misread_by_django
from prx_email_django.django_mail.forwarded import Forwarded, as_given, can_set_aside
from prx_email_django.django_mail.normalised import check_tree, normalised
from prx_email_django.mime.addresses import format_list, split_list
from prx_email_django.mime.encoded_words import decode_words, has_wrong_words, with_charset
from prx_email_django.mime.headers import (
    ADDRESS_FIELDS,
    HIDDEN_FIELDS,
    SINGLE_FIELDS,
    URI_FIELDS,
    any_field,
    encoded_field,
    folded_field,
)
from prx_email_django.mime.recode import field_text, split_fields, to_wire
from prx_email_django.mime.transfer import LINE, MAX_LINE, longest_line

#: Header fields with this prefix are options for the outbox; they are never sent.
PREFIX = "x-outbox-"
#: Fields of ids that may name other messages than this one.
_THREAD_FIELDS = frozenset({"in-reply-to", "references"})
_URI = re.compile(r"<[^<>]*>")
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


def is_plain(message: EmailMessage) -> bool:
    """Whether Django's own ``message()`` renders the message, so that its attributes describe it completely."""
    return getattr(type(message), "message", None) is EmailMessage.message


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
                kept.append(encoded)
        elif name not in HIDDEN_FIELDS:
            kept.append(_as_given(message, name, encoded))
    if not any(name == "mime-version" for name, _ in fields):  # on Django 6.1, where the body is empty
        kept.append(b"MIME-Version: 1.0\r\n")
    check_head_size(b"".join(kept).decode("latin-1"))
    return Rendered(to_wire(b"".join((*kept, b"\r\n", body))), message_id, outbox_fields)


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
    try:
        encoded = made.as_bytes(linesep="\r\n") if _accepts(made.as_bytes, "linesep") else made.as_bytes()
    except UnicodeEncodeError:  # a multipart without boundary, in eight bits: the standard library cannot write it
        if not isinstance(made, Message):
            raise
        encoded = as_given(made)
    return cast(bytes, encoded)


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


def _as_given(message: EmailMessage, name: str, encoded: bytes) -> bytes:
    """The field; made again where the standard library changes what the caller wrote.

    It makes encoded words of long words in ASCII, also where RFC 2047 §5 allows none (References, List-Unsubscribe,
    JSON), makes encoded words of 76 characters, and drops the quotes of a long display name, so that its commas
    separate addresses.
    """
    if name in ADDRESS_FIELDS:
        return _with_own_addresses(message, name, encoded)
    if name in URI_FIELDS or name in _THREAD_FIELDS:
        return _without_words(name, encoded)
    if b"=?" not in encoded:
        return encoded if longest_line(encoded) <= LINE else _folded(encoded)
    given = next((str(value) for header, value in message.extra_headers.items() if header.lower() == name), "")
    written = field_text(encoded)
    meant = decode_words(written)
    # A text that shows an encoded word, and words of the caller's own, stay encoded.
    is_text = meant.isascii() and "=?" not in meant and "=?" not in given
    if not is_text and not has_wrong_words(written):
        return encoded
    shown = encoded.partition(b":")[0].decode("ascii")
    try:
        return (any_field(shown, meant) if is_text else encoded_field(shown, written)).encode()
    except ValueError:
        return encoded


def _without_words(name: str, encoded: bytes) -> bytes:
    """A field of URIs or ids without encoded words (RFC 2047 §5).

    Characters beyond ASCII are percent-encoded in URIs (RFC 3987 §3.1).  An id that holds some is left out: no message
    has it.

    Raises:
        InvalidHeader: ``invalid_header``, where a URI fits on no line.
    """
    written = field_text(encoded)
    meant = decode_words(written)
    if meant == written and longest_line(encoded) <= LINE:
        return encoded
    if not meant.isascii():
        meant = _ascii_ids(meant) if name in _THREAD_FIELDS else _URI.sub(_ascii_uri, meant)
    if not meant.isascii():  # a comment beside the URIs
        return encoded
    shown = encoded.partition(b":")[0].decode("ascii")
    try:
        return any_field(shown, meant).encode() if meant else b""
    except ValueError as error:
        raise InvalidHeader(f"headers: a part of {shown} must fit on a line", code="invalid_header") from error


def _ascii_ids(text: str) -> str:
    return " ".join(word for word in text.split() if word.isascii())


def _ascii_uri(match: re.Match[str]) -> str:
    return "".join(character if character.isascii() else quote(character) for character in match[0])


def _folded(encoded: bytes) -> bytes:
    """The field folded anew; the standard library leaves some lines long."""
    text = field_text(encoded)
    try:
        return folded_field(encoded.partition(b":")[0].decode("ascii"), text).encode() if text.isascii() else encoded
    except ValueError:
        return encoded


def _is_long_quoted(mailbox: str) -> bool:
    return '"' in mailbox and len(mailbox) > LINE - 8


def _with_own_addresses(message: EmailMessage, name: str, encoded: bytes) -> bytes:
    """The field, made again if it holds an address that Django writes differently."""
    given = _given_addresses(message, name)
    try:
        found = [mailbox for value in given for mailbox in split_list(value)]
        if not any(is_misread_by_django(mailbox) or _is_long_quoted(mailbox) for mailbox in found):
            return _with_short_words(encoded)
        own = ", ".join(map(_formatted, given))
        return folded_field(encoded.partition(b":")[0].decode("ascii"), own).encode()
    except ValueError:  # a header of the caller's own that holds more than addresses, or malformed ones
        return with_charset(encoded.decode("ascii", "surrogateescape")).encode("ascii", "surrogateescape")


def _with_short_words(encoded: bytes) -> bytes:
    text = field_text(encoded)
    if not has_wrong_words(text):
        return encoded
    return folded_field(encoded.partition(b":")[0].decode("ascii"), format_list(text)).encode()


def _formatted(value: str) -> str:
    """The addresses of ``value``; one that only Django's parser reads, such as ``webmaster``, stays as it is."""
    try:
        return format_list(value)
    except ValueError:
        if not value.isascii():
            raise
        return value


def _given_addresses(message: EmailMessage, name: str) -> list[str]:
    """What the caller gave for the header field: addresses, or a list of them."""
    if name not in ADDRESS_FIELDS:
        return []
    for header, value in message.extra_headers.items():
        if header.lower() == name:
            return [str(value)]
    if name == "from":
        return [str(message.from_email)]
    attribute = {"to": "to", "cc": "cc", "reply-to": "reply_to"}.get(name)
    return [str(address) for address in getattr(message, attribute)] if attribute else []


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
