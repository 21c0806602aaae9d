"""Whatever tree of parts a message has: what is read after the way is what was read before."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message
from itertools import count
from typing import Any, cast

import django
from django.core.mail import EmailMultiAlternatives
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_email_django.django_mail.source import render_email
from prx_email_django.mime.recode import to_seven_bits, to_wire
from prx_email_django.mime.rendering import render
from prx_email_django.mime.transfer import base64_lines, is_eight_bit_form
from tests.unit.mime_contents import mail

TEXT = st.lists(
    st.sampled_from(
        [b"", b"Hello", b"From x", b".", "Grüße".encode(), b"\xff\xfe", b"trail ", b"=3D", b"x" * 1200, b"--"]
    ),
    max_size=4,
).map(b"\r\n".join)
ENCODINGS = st.sampled_from([b"", b"7bit", b"8bit", b"8BIT", b"binary", b"x-odd"])
NAMES = st.sampled_from(["", "a.txt", "größe.pdf", "größe " + "x" * 80 + ".pdf"])
TYPES = st.sampled_from([b"", b"text/plain; charset=utf-8", b"text/html", b"application/pdf", b"image/png", b"broken"])


@st.composite
def leaf_entities(draw: Any) -> bytes:
    """A part with content, in any transfer encoding that it names or does not name."""
    head, name, kind = b"", draw(NAMES), draw(TYPES)
    content = draw(TEXT)
    if kind:
        head += b"Content-Type: " + kind + b"\r\n"
    if name:
        head += f'Content-Disposition: attachment; filename="{name}"\r\n'.encode()
    if draw(st.booleans()):
        return head + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64_lines(content)
    encoding = draw(ENCODINGS)
    if encoding:
        head += b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    return head + b"\r\n" + content


@st.composite
def containers(draw: Any, children: Any) -> bytes:
    """A multipart, signed or not, with or without what stands around its parts, or an attached message."""
    parts = draw(st.lists(children, min_size=1, max_size=3))
    boundary = next(mark for number in count() if (mark := b"=_%d_" % number) not in b"".join(parts))
    kind = draw(st.sampled_from([b"multipart/mixed", b"multipart/signed", b"multipart/digest", b"message/rfc822"]))
    if kind == b"message/rfc822":
        subject = draw(st.sampled_from(["Subject: hello", "Subject: größer", "From: <<x@@y>, ö"]))
        return b"Content-Type: message/rfc822\r\n\r\n" + subject.encode() + b"\r\n" + parts[0]
    around = draw(st.sampled_from([b"", b"preamble\r\n"]))
    body = (
        around + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    )
    return b"Content-Type: " + kind + b'; boundary="' + boundary + b'"\r\n\r\n' + body


entities = st.recursive(leaf_entities(), containers, max_leaves=6)


def tree(message: Message, *, names: bool = True) -> Any:
    """What a mail program reads: types, names and content; lines of text as they are after any transport."""
    payload = message.get_payload()
    if isinstance(payload, list):
        return message.get_content_type(), [tree(cast(Message, part), names=names) for part in payload]
    content = cast(bytes, message.get_payload(decode=True))
    name = message.get_filename() if names else None
    return message.get_content_type(), name, re.sub(rb"\r\n|\r|\n", b"\n", content).rstrip(b"\n")


def as_message(entity: bytes) -> bytes:
    return "Subject: Größe\r\nFrom: a@example.com\r\nMIME-Version: 1.0\r\n".encode() + entity


def signed_parts(data: bytes) -> list[bytes]:
    """The bodies of signed parts that are in no other signed part."""
    found = []
    while match := re.search(rb'multipart/signed; boundary="(=_\d+_)"\r\n\r\n', data):
        end = data.index(b"--" + match[1] + b"--\r\n", match.end())
        found.append(data[match.end() : end])
        data = data[end:]
    return found


@given(entities)
@settings(max_examples=300, deadline=None)
def test_nothing_is_read_differently_and_signed_parts_keep_their_bytes(entity: bytes) -> None:
    data = as_message(entity)
    wire = render(mail(raw=data))
    if not is_eight_bit_form(data):
        return  # a part of it may have become a file
    for signed in signed_parts(data):
        assert signed in wire
    assert tree(message_from_bytes(wire)) == tree(message_from_bytes(data))
    assert to_wire(wire) == wire
    assert is_eight_bit_form(wire)


@given(entities)
@settings(max_examples=200, deadline=None)
def test_for_a_server_without_8bitmime_only_signed_parts_keep_eight_bits(entity: bytes) -> None:
    data = as_message(entity)
    seven = to_seven_bits(render(mail(raw=data)))
    assert seven.isascii() or b"multipart/signed" in data
    # A part may have become a file, see test_forwarded_wire; one of an unknown encoding is a file (RFC 2045 §6.4).
    if any(word in data for word in (b"message/rfc822", b"multipart/digest", b"x-odd")) or not is_eight_bit_form(data):
        return
    assert tree(message_from_bytes(seven), names=False) == tree(message_from_bytes(data), names=False)


ATTACHMENTS = st.one_of(
    st.tuples(NAMES, st.text(max_size=20), st.just("text/plain")),
    st.tuples(NAMES, st.binary(max_size=40), st.sampled_from(["application/pdf", "text/plain", None])),
    st.tuples(NAMES, entities.map(as_message), st.just("message/rfc822")),
)


@given(
    st.text(st.characters(exclude_categories=["C"]), max_size=30),
    st.text(max_size=60),
    st.lists(ATTACHMENTS, max_size=3),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_what_django_sends_is_what_the_outbox_sends(
    subject: str, body: str, attachments: list[Any], html: bool
) -> None:
    message = EmailMultiAlternatives(subject, body, "app@example.com", ["ann@example.org"])
    try:
        for attachment in attachments:
            message.attach(*attachment)
        if html:
            message.attach_alternative("<p>" + body, "text/html")
        made: Any = message.message()
        theirs = made.as_bytes() if django.VERSION >= (6, 0) else made.as_bytes(linesep="\r\n")
    except Exception:  # noqa: BLE001 - Django does not send it
        return
    ours = render(mail(raw=render_email(message).raw))
    if all(is_eight_bit_form(a[1]) for a in attachments if a[2] == "message/rfc822"):
        assert tree(message_from_bytes(ours), names=False) == tree(message_from_bytes(theirs), names=False)
    for attachment in attachments:
        if attachment[2] == "message/rfc822":
            for signed in signed_parts(attachment[1]):
                assert signed in ours or base64_lines(attachment[1]) in ours
