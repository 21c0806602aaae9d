"""The header values of a received message that a reply needs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.errors import MessageError
from email.message import Message

from prx_email_django.mime.addresses import Address, quoted, read_list
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.entity import split_entity
from prx_email_django.mime.headers import MESSAGE_ID
from prx_email_django.mime.parsed_message import begins_with_from, from_fields, from_in_body, rest_of_header
from prx_email_django.mime.recode import field_text
from prx_email_django.mime.transfer import with_crlf
from prx_email_django.rules.text import CONTROL

#: Characters kept of a header and of a display name, and read of any header: nothing that a sender writes is unbounded.
MAX_VALUE, MAX_NAME, MAX_IDS = 998, 360, 16_384

#: Characters read of each header.
_READ = {
    "In-Reply-To": MAX_VALUE,
    "References": MAX_IDS,
    "From": MAX_IDS,
    "Reply-To": MAX_IDS,
    "Subject": MAX_VALUE,
}
#: A field without a name, behind which the header goes on, and how many of them are passed over.
_NAMELESS = re.compile(rb":[^\r\n]*(?:\r\n|\Z)(?:[ \t][^\r\n]*(?:\r\n|\Z))*")
_MAX_NAMELESS = 20
_NAMES = ("message-id", "in-reply-to", "references", "from", "reply-to", "subject")


@dataclass(frozen=True, slots=True)
class Inbound:
    """Header values of a received message: decoded, without control characters, "" or () where a header is absent."""

    #: With angle brackets.
    message_id: str
    in_reply_to: str
    #: ``Ann <ann@x.org>`` or ``ann@x.org``: the first usable address of From.
    sender: str
    #: The usable addresses of Reply-To, in the same form.
    reply_to: tuple[str, ...]
    subject: str
    #: Message-IDs separated by spaces.
    references: str
    #: What the other values do not hold of the message, in words for people; () where nothing is missing.
    left_out: tuple[str, ...] = ()
    #: Hash of the header: tells apart messages that have no Message-ID.
    fingerprint: str = field(default="", compare=False)


def parse_inbound(raw: bytes | Message) -> Inbound:
    """The header values that a reply needs; malformed headers count as absent and never raise."""
    fields = list(_fields_of_bytes(raw) if isinstance(raw, bytes) else _fields_of_message(raw))
    values = dict.fromkeys(_NAMES, "")
    for name, value in fields:
        if name in values and not values[name]:
            values[name] = value
    values["subject"] = _clean(decode_words(values["subject"][:MAX_IDS]))
    message_ids = _ids(values["message-id"]) or _bare_id(values["message-id"])
    senders, answers = _addresses(values["from"]), _addresses(values["reply-to"])
    return Inbound(
        message_id="".join(message_ids[:1]),
        in_reply_to=" ".join(_ids(values["in-reply-to"][:MAX_VALUE])),
        sender=senders.written[0] if senders.written else "",
        reply_to=tuple(answers.written),
        subject=values["subject"][:MAX_VALUE],
        references=" ".join(_ids(values["references"])),
        left_out=(
            *_absent(message_ids, senders.written),
            *_left_out(values, {"From": senders.unreadable, "Reply-To": answers.unreadable}),
        ),
        fingerprint=_fingerprint(fields),
    )


def _absent(message_ids: list[str], senders: list[str]) -> Iterator[str]:
    if not message_ids:
        yield "Message-ID: none that a reply could name, so the message cannot be replied to"
    if not senders:
        yield "From: no address"


def _fingerprint(fields: list[tuple[str, str]]) -> str:
    # Sorted: the standard library's parser loses the place of some fields.
    text = "\n".join(sorted(f"{name}:{' '.join(value.split())}" for name, value in fields))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _left_out(values: dict[str, str], unreadable: dict[str, int]) -> Iterator[str]:
    for name, count in unreadable.items():
        if count:
            yield f"{name}: {count} that {'is no address' if count == 1 else 'are no addresses'}"
    for name, ids in (("In-Reply-To", values["in-reply-to"]), ("References", values["references"])):
        if ids.strip() and not _ids(ids):
            yield f"{name}: no Message-ID in it can be read"
    for name, length in _READ.items():
        if len(values[name.lower()]) > length:
            yield f"{name}: what stands behind its first {length} characters"


def _fields_of_bytes(raw: bytes) -> Iterator[tuple[str, str]]:
    data = with_crlf(raw)
    for _round in range(_MAX_NAMELESS):
        entity = split_entity(data)
        for found in entity.fields:
            yield found.name, field_text(found.encoded)
        skipped = None if entity.blank else _NAMELESS.match(entity.body)
        if not skipped:
            break
        data = entity.body[skipped.end() :]


def _fields_of_message(message: Message) -> list[tuple[str, str]]:
    """The header fields as they were received."""
    fields = list(_kept_fields(message))
    if not any(name == "from" for name, _ in fields):
        fields += _fields_of_bytes(from_in_body(message))
    return fields


def _kept_fields(message: Message) -> Iterator[tuple[str, str]]:
    """The header fields that the parser kept in the header, or whose place it remembers.

    The standard library's parser of header values fails on some, takes quadratic time, and follows comments in
    comments until the stack ends.
    """
    lost = list(_fields_of_bytes(b"".join(from_fields(message))))
    if begins_with_from(message):
        yield from lost
    for name, value in message.raw_items():
        yield str(name).strip().lower(), field_text(b":" + with_crlf(_as_bytes(value)).removesuffix(b"\r\n"))
    if not begins_with_from(message):
        yield from lost
    yield from _fields_of_bytes(rest_of_header(message))


def _as_bytes(value: object) -> bytes:
    """A header's value; the parser keeps bytes beyond ASCII as lone surrogates."""
    try:
        text = str(value)
    except (LookupError, MessageError, ValueError):  # a ``Header`` of an unknown charset
        return b""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other lone surrogates
        return text.encode("utf-8", "replace")


def _ids(text: str) -> list[str]:
    """The Message-IDs of a field; some senders make encoded words of a long one."""
    return MESSAGE_ID.findall(decode_words(text[:MAX_IDS]))


def _bare_id(text: str) -> list[str]:
    """A Message-ID that was written without its angle brackets."""
    bare = f"<{text.strip()}>"
    return [bare] if MESSAGE_ID.fullmatch(bare) else []


@dataclass(frozen=True, slots=True)
class _Mailboxes:
    #: Each address once, in the form of ``Inbound.sender``.
    written: list[str]
    #: How many items are no address.
    unreadable: int


def _addresses(text: str) -> _Mailboxes:
    found = read_list(text[:MAX_IDS])
    return _Mailboxes(list(dict.fromkeys(map(_written, found.addresses))), len(found.unreadable))


def _written(address: Address) -> str:
    if not address.display:
        return address.addr_spec
    return f"{quoted(address.display[:MAX_NAME])} <{address.addr_spec}>"


def _clean(text: str) -> str:
    return " ".join(CONTROL.sub(" ", text).split())
