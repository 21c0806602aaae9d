"""Forwarded messages (``message/rfc822``) of a Django ``EmailMessage``, kept byte for byte.

Django parses each of them, and the standard library writes it again: with lines folded anew, file names of unknown
charsets, and an error for a multipart without boundary.  Here a placeholder takes the place of each forwarded message
while Django renders the message around it.
"""

from __future__ import annotations

import copy
import secrets
from email import message_from_bytes, policy
from email._policybase import Compat32
from email.generator import BytesGenerator
from email.message import Message
from io import BytesIO
from typing import Any, cast

from django.core.mail import EmailMessage, EmailMultiAlternatives

from prx_email_django.mime.parsed_message import from_fields
from prx_email_django.rules.text import LINE_BREAK

_TYPE = "message/rfc822"


def can_set_aside(message: EmailMessage) -> bool:
    """Whether Django alone renders the message: a subclass with its own steps may sign what they make."""
    steps = [name for name in dir(EmailMultiAlternatives) if name == "message" or name.startswith(("_create", "_add"))]
    own = (EmailMessage, EmailMultiAlternatives)
    return all(any(getattr(type(message), step, None) is getattr(kind, step, None) for kind in own) for step in steps)


class Forwarded:
    """The forwarded messages of one message."""

    def __init__(self, message: EmailMessage) -> None:
        self._found: dict[bytes, bytes] = {}
        #: The message, or a copy of it with a placeholder for each forwarded message.
        self.message = message
        attachments = [self._replaced(attachment) for attachment in message.attachments]
        if self._found:
            self.message = copy.copy(message)
            self.message.attachments = attachments

    def put_back(self, rendered: bytes) -> bytes:
        """The rendered copy with the forwarded messages in their places."""
        for placeholder, content in self._found.items():
            rendered = rendered.replace(placeholder, content)
        return rendered

    def _replaced(self, attachment: Any) -> Any:
        if isinstance(attachment, Message):
            return self._replaced_part(attachment)
        _, content, kind = (*attachment, None, None)[:3]
        if kind != _TYPE or not isinstance(content, bytes | str | Message):
            return attachment
        return attachment[0], self._placeholder(as_given(content)), kind

    def _replaced_part(self, part: Message) -> Message:
        payload = part.get_payload() if part.get_content_type() == _TYPE else None
        if not isinstance(payload, list) or len(payload) != 1:
            return part
        inner = cast(Message, payload[0])
        replaced = copy.copy(part)
        placeholder = self._placeholder(as_given(inner))
        replaced.set_payload([message_from_bytes(placeholder, policy=cast(Any, inner.policy))])
        return replaced

    def _placeholder(self, content: bytes) -> bytes:
        placeholder = b"X-Outbox-Forwarded: %b\r\n\r\n" % secrets.token_hex(16).encode()
        self._found[placeholder] = content
        return placeholder


def as_given(content: bytes | str | Message) -> bytes:
    """The bytes that a parsed message was read from, as far as the parser has kept them."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "surrogateescape")
    written = BytesIO()
    _Verbatim(written, mangle_from_=False, policy=policy.SMTP.clone(max_line_length=0)).flatten(content)
    return written.getvalue()


def is_changed_in_writing(message: Message) -> bool:
    """Whether the standard library would leave out fields that it has read, or write fields of a signed part anew."""
    return any(any(from_fields(part)) or _is_signed_and_read(part) for part in message.walk())


def _is_signed_and_read(part: Message) -> bool:
    """Whether fields of the signed content were read by a parser of the modern API, which folds them anew."""
    if part.get_content_type() != "multipart/signed" or not part.is_multipart() or isinstance(part.policy, Compat32):
        return False
    content = cast("list[Message]", part.get_payload())[:1]
    return any(type(value) is str for child in content for inner in child.walk() for _, value in inner.raw_items())


class _Verbatim(BytesGenerator):
    """Writes header fields as they were read, and a multipart without boundary as the text that it is."""

    def _write_headers(self, message: Message) -> None:
        for line in from_fields(message):
            self._fp.write(line)  # type: ignore[attr-defined]
        for name, value in message.raw_items():
            self._fp.write(_field(message, name, value))  # type: ignore[attr-defined]
        self._fp.write(b"\r\n")  # type: ignore[attr-defined]

    def _handle_multipart(self, message: Message) -> None:
        generator = cast(Any, super())
        if isinstance(message._payload, str):  # type: ignore[attr-defined]
            generator._handle_text(message)
        else:
            generator._handle_multipart(message)


def _field(message: Message, name: str, value: Any) -> bytes:
    if type(value) is str and not LINE_BREAK.search(value):
        try:
            return f"{name}: {value}\r\n".encode("ascii", "surrogateescape")
        except UnicodeEncodeError:  # not read from bytes
            pass
    return cast(bytes, cast(Any, message.policy).clone(linesep="\r\n").fold_binary(name, value))
