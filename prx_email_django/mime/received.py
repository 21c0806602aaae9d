"""The header values of a received message that a reply needs."""

from __future__ import annotations

from dataclasses import dataclass
from email.errors import MessageError
from email.message import Message

from prx_email_django.mime.addresses import split_list, split_mailbox
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.headers import MESSAGE_ID
from prx_email_django.mime.recode import field_text, split_fields
from prx_email_django.mime.transfer import with_crlf
from prx_email_django.rules.text import CONTROL

#: Characters kept of a header and of a display name, and read of any header: nothing that a sender writes is unbounded.
MAX_VALUE, MAX_NAME, MAX_IDS = 998, 400, 16_384

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

    @property
    def answer_to(self) -> tuple[str, ...]:
        """The addresses that a reply goes to (RFC 5322 §3.6.3): Reply-To, else From."""
        return self.reply_to or ((self.sender,) if self.sender else ())


def parse_inbound(raw: bytes | Message) -> Inbound:
    """The header values that a reply needs; malformed headers count as absent and never raise."""
    values = _values_of_bytes(raw) if isinstance(raw, bytes) else _values_of_message(raw)
    senders = _addresses(values["from"])
    return Inbound(
        message_id="".join(_ids(values["message-id"])[:1]),
        in_reply_to=" ".join(_ids(values["in-reply-to"][:MAX_VALUE])),
        sender=senders[0] if senders else "",
        reply_to=tuple(_addresses(values["reply-to"])),
        subject=_clean(decode_words(values["subject"][:MAX_IDS]))[:MAX_VALUE],
        references=" ".join(_ids(values["references"])),
    )


def _values_of_bytes(raw: bytes) -> dict[str, str]:
    values = dict.fromkeys(_NAMES, "")
    for name, encoded in split_fields(with_crlf(raw))[0]:
        if name in values and not values[name]:
            values[name] = field_text(encoded)
    return values


def _values_of_message(message: Message) -> dict[str, str]:
    """The headers as they were received.

    The standard library's parser of header values fails on some, takes quadratic time, and follows comments in
    comments until the stack ends.
    """
    values = dict.fromkeys(_NAMES, "")
    for name, value in message.raw_items():
        lower = name.lower()
        if lower in values and not values[lower]:
            values[lower] = field_text(b":" + with_crlf(_as_bytes(value)).removesuffix(b"\r\n"))
    return values


def _as_bytes(value: object) -> bytes:
    """A header's value; the parser keeps bytes beyond ASCII as lone surrogates."""
    try:
        return str(value).encode("utf-8", "surrogateescape")
    except (LookupError, MessageError, ValueError):  # a ``Header`` of an unknown charset, or other lone surrogates
        return b""


def _ids(text: str) -> list[str]:
    return MESSAGE_ID.findall(text[:MAX_IDS])


def _addresses(text: str) -> list[str]:
    addresses: list[str] = []
    for item in split_list(text[:MAX_IDS]):
        try:
            address = split_mailbox(_clean(item))
        except ValueError:
            continue
        addresses.append(_written(address.display, address.addr_spec))
    return list(dict.fromkeys(addresses))


def _written(display: str, addr_spec: str) -> str:
    if not display:
        return addr_spec
    quoted = display[:MAX_NAME].replace("\\", r"\\").replace('"', r"\"")
    return f'"{quoted}" <{addr_spec}>'


def _clean(text: str) -> str:
    return " ".join(CONTROL.sub(" ", text).split())
