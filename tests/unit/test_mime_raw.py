"""Messages that are rendered already, as the email backend stores them: completed, and brought to wire form."""

from __future__ import annotations

import base64
import email.policy
from email.message import EmailMessage, MIMEPart

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_email_django.mime.recode import split_fields, to_seven_bits
from prx_email_django.mime.rendering import render
from tests.unit.mime_contents import bodies, header_texts, mail, parsed


def rendered(raw: bytes, **values: object) -> bytes:
    data = render(mail(raw=raw, **values))
    assert data.isascii()
    assert b"\x00" not in data
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
    assert max(map(len, data.split(b"\r\n"))) <= 998
    return data


def leaves(message: EmailMessage) -> list[tuple[str, str | None, bytes]]:
    """Type, file name and bytes of every part with content; texts as their lines."""
    return [
        (part.get_content_type(), part.get_filename(), _content(part))
        for part in message.walk()
        if not part.is_multipart()
    ]


def _content(part: MIMEPart) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    if part.get_content_maintype() == "text":
        return payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
    return payload


def sample(subject: str = "größer", text: str = "grüße\n", html: str = "<p>漢字</p>") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "Jörg <joerg@example.com>"
    message["To"] = "bob@example.org"
    message["Bcc"] = "secret@example.com, more@example.com"
    message.set_content(text, cte="8bit")
    message.add_alternative(html, subtype="html", cte="8bit")
    message.add_attachment(b"\x00\xff\r\n", maintype="application", subtype="pdf", filename="größe.pdf")
    return message


@given(header_texts, bodies, bodies)
@settings(max_examples=60)
def test_what_another_renderer_said_is_said_still(subject: str, text: str, html: str) -> None:
    raw = sample(subject, text, html).as_bytes()
    ours, theirs = parsed(rendered(raw)), parsed(raw)
    assert leaves(ours) == leaves(theirs)
    assert ours["Subject"] == theirs["Subject"]
    assert ours["From"] == theirs["From"]


def test_seven_bit_messages_are_not_changed() -> None:
    raw = (
        b"From: a@example.com\r\nMessage-ID: <own@example.com>\r\nDate: x\r\nX-Odd:  two\r\n\tspaces \r\n\r\nhello\r\n"
    )
    assert rendered(raw) == raw


def test_message_id_and_date_are_added_only_where_they_lack() -> None:
    assert rendered(b"Subject: x\n\nhello").startswith(b"Message-ID: <outbox-7-0@mail.example.com>\r\nDate: Tue, 24")
    for own in (
        b"message-id: <own@example.com>",
        b"Message-ID : <own@example.com>",
        b"MESSAGE-ID:\n <own@example.com>",
    ):
        data = rendered(b"Subject: x\n" + own + b"\n\nhello")
        assert data.lower().count(b"message-id") == 1
        assert b"own@example.com" in data


def test_extra_headers_stand_in_front() -> None:
    data = rendered(b"Date: x\n\nhello", headers=(("X-Original-To", "ann@example.com"),))
    assert data == (
        b"Message-ID: <outbox-7-0@mail.example.com>\r\nX-Original-To: ann@example.com\r\nDate: x\r\n\r\nhello\r\n"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"Bcc: secret@example.com\nSubject: x\n\nhello",
        b"Subject: x\nBCC:\n secret@example.com,\n\tother-secret@example.com\n\nhello",
        b"Subject: x\nBcc : secret@example.com\n\nhello",
        b"Subject: x\nResent-Bcc: secret@example.com\n\nhello",
        b"From mbox Mon Jan  1\nBcc: secret@example.com\nSubject: x\n\nhello",
        b" stray\nBcc: secret@example.com\nSubject: x\n\nhello",
        b"Subject: x\rBcc: secret@example.com\r\rhello",
        "Bcc: sécret <secret@example.com>\nSubject: x\n\nhello".encode(),
    ],
)
def test_blind_copies_are_not_given_away(raw: bytes) -> None:
    data = rendered(raw)
    assert b"cret" not in data
    assert b"\r\nSubject: x\r\n" in data
    assert data.endswith(b"\r\n\r\nhello\r\n")


def test_raw_utf8_headers_are_encoded_not_replaced() -> None:
    raw = "Subject: größer\nFrom: Jörg <joerg@bücher.example>\nX-Note: naïve\nContent-Type: text/plain\n\nhello"
    message = parsed(rendered(raw.encode()))
    assert message["Subject"] == "größer"
    assert message["From"].addresses[0].display_name == "Jörg"
    assert message["From"].addresses[0].addr_spec == "joerg@xn--bcher-kva.example"
    assert message["X-Note"] == "naïve"
    assert parsed(rendered("Subject: größer\n\nx".encode("latin-1")))["Subject"] == "größer"


def test_parts_without_a_charset_keep_their_bytes() -> None:
    raw = b"Content-Type: application/x-thing\nContent-Transfer-Encoding: 8bit\n\n\xff\xfe\x00abc\n"
    assert parsed(rendered(raw)).get_payload(decode=True) == b"\xff\xfe\x00abc\r\n"


def test_overlong_lines_are_wrapped_up_whatever_their_encoding() -> None:
    body = base64.b64encode(bytes(3000))
    message = parsed(rendered(b"Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n" + body))
    assert message.get_payload(decode=True) == bytes(3000)
    assert parsed(rendered(b"Subject: x\n\n" + b"y" * 5000)).get_content().strip() == "y" * 5000
    long_header = rendered(b"X-Long: " + b" ".join([b"word"] * 400) + b"\n\nhello")
    assert parsed(long_header)["X-Long"] == " ".join(["word"] * 400)


def test_preambles_and_attached_messages_do_not_smuggle_eight_bits() -> None:
    inner = sample().as_bytes(policy=email.policy.SMTP)
    raw = (
        b'Content-Type: multipart/mixed; boundary="b"\nContent-Transfer-Encoding: 8bit\n\n'
        b"pr\xc3\xa4ambel\n--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n"
        + inner
        + b"\n--b--\nepil\xc3\xb6g\n"
    )
    message = parsed(rendered(raw))
    assert leaves(message) == leaves(parsed(raw))
    assert {part.get("Content-Transfer-Encoding", "7bit") for part in message.walk() if part.is_multipart()} == {"7bit"}


def test_lines_that_begin_with_from_are_not_mangled() -> None:
    text = "From here on\nñ\n"
    raw = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nFrom here on\n--b\n\n" + text.encode() + b"--b--\n"
    assert b">From" not in rendered(raw)


@given(st.binary(max_size=300))
def test_whatever_somebody_wrote_is_rendered_and_holds_no_lone_line_end(raw: bytes) -> None:
    for data in (render(mail(raw=raw)), to_seven_bits(render(mail(raw=raw)))):
        assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")


@given(st.lists(st.sampled_from([b"Subject: x", b"Bcc: y", b" ", b"z", b":", b"", b"\xff: q", b"From m"]), max_size=8))
def test_splitting_loses_nothing(found: list[bytes]) -> None:
    data = b"".join(line + b"\r\n" for line in found)
    fields, body = split_fields(data)
    header = b"".join(encoded for _, encoded in fields)
    assert data.endswith((header + body, header + b"\r\n" + body))
