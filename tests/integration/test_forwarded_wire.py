"""Forwarded messages arrive as somebody else made them, whatever they break, and whatever the server takes."""

from __future__ import annotations

import base64
import email.policy
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message, MIMEPart
from email.mime.message import MIMEMessage
from typing import Any, cast

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

import prx_email_django as prx
from tests.integration.backend_messages import make_email
from tests.integration.foreign_messages import ENCODED, FILES, HEAD, KEPT
from tests.support import wire
from tests.support.smtp_server import Received, SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


TYPES = ["message/rfc822", "text/plain"]

catcher = wire.catcher


@pytest.fixture(scope="module")
def old_catcher() -> Iterator[SmtpServer]:
    with SmtpServer(eight_bit=False, utf8=False) as server:
        yield server


@pytest.fixture
def server(catcher: SmtpServer, settings: Any) -> SmtpServer:
    return wire.prepared(catcher, settings, ATTACHMENT_CONTENT_TYPES=TYPES)


@pytest.fixture
def old_server(old_catcher: SmtpServer, settings: Any) -> SmtpServer:
    return wire.prepared(old_catcher, settings, ATTACHMENT_CONTENT_TYPES=TYPES)


def with_forwarded(content: Any) -> EmailMultiAlternatives:
    made = make_email("Größe", "Süß\n")
    made.attach("fwd.eml", content, "message/rfc822")
    made.attach("notes.txt", "Zeile ä\n", "text/plain")
    return made


def attached(received: Received) -> Message:
    return cast(Message, message_from_bytes(received.data).get_payload(1))


CRLF = email.policy.compat32.clone(linesep="\r\n")


def leaves(data: bytes) -> list[Any]:
    return [
        (part.get_content_type(), part.get_filename(), cast(bytes, part.get_payload(decode=True)))
        for part in message_from_bytes(data).walk()
        if not part.is_multipart()
    ]


@pytest.mark.parametrize("name", KEPT)
def test_not_one_byte_of_a_forwarded_message_changes(name: str, server: SmtpServer) -> None:
    received = wire.sent(with_forwarded(KEPT[name]), server)
    head, _, rest = received.data.partition(b"message/rfc822\r\n")
    assert b"\r\n\r\n" + KEPT[name] + b"\r\n--" in b"\r\n" + rest
    assert ("BODY=8BITMIME" in received.options) == (not received.data.isascii())
    assert attached(received).get_filename() == "fwd.eml"


@pytest.mark.parametrize("name", [*KEPT, *ENCODED])
def test_a_server_without_8bitmime_gets_the_same_parts_or_a_file(name: str, old_server: SmtpServer) -> None:
    content = (KEPT | ENCODED)[name]
    received = wire.sent(with_forwarded(content), old_server)
    assert received.data.isascii() and "BODY=8BITMIME" not in received.options
    part = attached(received)
    assert part.get_filename() == "fwd.eml"
    if content.isascii() and max(map(len, content.split(b"\r\n"))) <= 998 and b"\x00" not in content:
        assert content in received.data
    elif part.get_content_type() == "message/rfc822":
        inner = leaves(cast(Message, part.get_payload(0)).as_bytes(policy=CRLF))
        assert [(kind, content) for kind, _, content in inner] == [
            (kind, content) for kind, _, content in leaves(content)
        ]
        if "raw_file_name" in name:
            assert inner[1][1].startswith("größe")
    else:
        assert part.get_content_type() == "application/octet-stream"
        assert part.get_payload(decode=True) == content


def test_a_raw_file_name_keeps_type_and_place_on_a_server_without_8bitmime(old_server: SmtpServer) -> None:
    part = attached(wire.sent(with_forwarded(KEPT["raw_file_name_and_text"]), old_server))
    assert part.get_content_type() == "message/rfc822"
    text, pdf = cast("list[Message]", cast(Message, part.get_payload(0)).get_payload())
    assert text.get_payload(decode=True) == "Grüße\r\n".encode()
    assert (pdf.get_content_type(), pdf.get_filename()) == ("application/pdf", "größe.pdf")


@pytest.mark.parametrize("name", ENCODED)
def test_what_can_be_encoded_without_loss_travels_in_seven_bits(name: str, server: SmtpServer) -> None:
    received = wire.sent(with_forwarded(ENCODED[name]), server)
    assert received.data.isascii()
    assert max(map(len, received.data.split(b"\r\n"))) <= 998
    part = attached(received)
    assert part.get_content_type() == "message/rfc822"
    inner = cast(Message, part.get_payload(0))
    assert leaves(inner.as_bytes(policy=CRLF)) == leaves(ENCODED[name])


@pytest.mark.parametrize("name", FILES)
def test_what_no_server_can_be_given_arrives_whole_as_a_file(name: str, server: SmtpServer) -> None:
    received = wire.sent(with_forwarded(FILES[name]), server)
    assert b"\x00" not in received.data
    assert max(map(len, received.data.split(b"\r\n"))) <= 998
    part = attached(received)
    assert (part.get_content_type(), part.get_filename()) == ("application/octet-stream", "fwd.eml")
    assert part.get_payload(decode=True) == FILES[name]


# However it is given

RAW = KEPT["long_raw_file_name"]


def as_mime_message(content: bytes) -> Any:
    if django.VERSION < (6, 0):
        return MIMEMessage(message_from_bytes(content))
    part = MIMEPart(policy=email.policy.SMTP)
    part["Content-Type"] = "message/rfc822"
    part.set_payload([message_from_bytes(content, policy=email.policy.SMTP)])
    return part


@pytest.mark.parametrize("name", ["long_raw_file_name", "no_boundary", "malformed_from", "long_header_lines"])
@pytest.mark.parametrize("kind", ["compat32", "default", "part"])
def test_a_parsed_message_is_forwarded_as_it_was_read(kind: str, name: str, server: SmtpServer) -> None:
    content = KEPT[name]
    made = make_email()
    if kind == "part":
        made.attach(as_mime_message(content))
    else:
        policy: Any = getattr(email.policy, kind)
        made.attach("fwd.eml", cast(Any, message_from_bytes(content, policy=policy)), "message/rfc822")
    assert content in wire.sent(made, server).data


@pytest.mark.parametrize("kind", ["compat32", "default"])
@pytest.mark.parametrize("before", [b"", b"X-First: 1\r\n"])
def test_a_from_with_a_blank_before_its_colon_is_forwarded(before: bytes, kind: str, server: SmtpServer) -> None:
    content = before + b"From : Zoe <zoe@example.net>\r\nSubject: Offer\r\n\r\nhi\r\n"
    made = make_email()
    made.attach("fwd.eml", cast(Any, message_from_bytes(content, policy=getattr(email.policy, kind))), "message/rfc822")
    data = wire.sent(made, server).data
    fields = content.splitlines(keepends=True)
    assert all(line in data for line in fields)
    assert before or content in data


def test_enqueue_forwards_them_like_the_backend(server: SmtpServer) -> None:
    for name, content in (KEPT | ENCODED | FILES).items():
        forwarded = prx.AttachmentInput("fwd.eml", "message/rfc822", content=content)
        prx.enqueue(account="main", to="ann@example.org", subject="Größe", body_text="Süß", attachments=[forwarded])
        assert prx.drain().sent == 1
        received = server.messages.pop()
        assert received.data.isascii() or "BODY=8BITMIME" in received.options
        assert (content in received.data) == (name in KEPT), name
        by_backend = wire.sent(with_forwarded(content), server)
        part = attached(received)
        assert part.get_content_type() == attached(by_backend).get_content_type(), name
        assert part.get_filename() == "fwd.eml"


def test_line_ends_of_a_file_become_those_of_mail_but_binary_content_stays(server: SmtpServer) -> None:
    binary = b"\x00\r\xff\n\r\n"
    content = (
        HEAD.replace(b"\r\n", b"\n")
        + b'Content-Type: multipart/mixed; boundary="=_b"\n\n--=_b\n\ntext\n--=_b\n'
        + b"Content-Type: image/png\nContent-Transfer-Encoding: binary\n\n"
        + binary
        + b"\n--=_b--\n"
    )
    forwarded = prx.AttachmentInput("fwd.eml", "message/rfc822", content=content)
    prx.enqueue(account="main", to="ann@example.org", subject="s", body_text="b", attachments=[forwarded])
    assert prx.drain().sent == 1
    part = attached(server.messages.pop())
    assert part.get_content_type() == "message/rfc822"
    assert [content for _, _, content in leaves(cast(Message, part.get_payload(0)).as_bytes())] == [b"text", binary]


# The message itself was made by somebody else


class Resent(EmailMultiAlternatives):
    """Sends a received message on as it is."""

    def message(self, **kwargs: Any) -> Any:
        """An object with the method that Django's SMTP backend calls."""
        return _Bytes(self.received)  # type: ignore[attr-defined]


class _Bytes:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def as_bytes(self, linesep: str = "\r\n") -> bytes:
        """The message as bytes."""
        return self._raw


def resent(content: bytes) -> EmailMessage:
    made = Resent("", "", "app@example.com", ["ann@example.org"])
    made.received = content  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("kind", ["server", "old_server"])
def test_a_message_of_somebody_else_is_sent_on(kind: str, request: pytest.FixtureRequest) -> None:
    server: SmtpServer = request.getfixturevalue(kind)
    for name, content in (KEPT | ENCODED | FILES).items():
        received = wire.sent(resent(content), server)
        assert received.data.endswith(b"\r\n")
        assert "BODY=8BITMIME" not in received.options or not received.data.isascii()
        assert kind == "server" or received.data.isascii(), name
        if name in KEPT and kind == "server" and name != "raw_file_name_and_text":
            assert content.partition(b"\r\n\r\n")[2] in received.data, name


class Parsed(Resent):
    """Sends a parsed message on."""

    def message(self, **kwargs: Any) -> Any:
        """The standard library's message, which cannot write all that it has read."""
        return message_from_bytes(self.received)  # type: ignore[attr-defined]


def test_a_parsed_message_that_the_standard_library_cannot_write_is_sent_on(server: SmtpServer) -> None:
    made = resent(KEPT["no_boundary"])
    made.__class__ = Parsed
    with pytest.raises(UnicodeEncodeError):
        made.message().as_bytes()
    assert KEPT["no_boundary"].partition(b"\r\n\r\n")[2] in wire.sent(made, server).data


def test_the_file_of_a_resent_message_holds_its_whole_body(server: SmtpServer) -> None:
    received = wire.sent(resent(FILES["no_boundary_and_a_long_line"]), server)
    part = message_from_bytes(received.data)
    assert part.get_content_type() == "application/octet-stream"
    assert base64.b64decode(cast(str, part.get_payload())) == b"\xff" * 2000 + b"\r\n"
    assert part["Subject"] == "Offer"
