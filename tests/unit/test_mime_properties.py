"""Rendered messages are read as those of the standard library are."""

from __future__ import annotations

import base64
import dataclasses
import re
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.mime.bodies import MailPart
from prx_email_django.mime.rendering import MailContent, render
from prx_email_django.mime.transfer import _BLOCK, base64_lines, is_wire_form, with_crlf
from tests.unit.mime_contents import bodies, by_stdlib, lines, mail, mails, parsed


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, _BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK + 57])
def test_base64_in_blocks_is_that_of_the_standard_library(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    assert base64_lines(content) == base64.encodebytes(content).replace(b"\n", b"\r\n")


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"a" * 997, b"a" * 998, b"a" * 999]), max_size=8))
def test_a_line_is_too_long_exactly_if_one_of_the_split_lines_is(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    lone = re.search(rb"(?<!\r)\n|\r(?!\n)", data)
    assert is_wire_form(data) == (not lone and max(map(len, data.split(b"\r\n"))) <= 998)
    ended = data if data.endswith((b"\r", b"\n")) or not data else data + b"\n"
    assert with_crlf(data) == re.sub(rb"\r\n|\r|\n", b"\r\n", ended)


def addresses(message: EmailMessage, name: str) -> list[tuple[str, str]]:
    header = message[name]
    return [(address.display_name, address.addr_spec) for address in header.addresses] if header else []


def given_addresses(mailboxes: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(address.display, address.addr_spec) for address in map(split_mailbox, mailboxes)]


def text_of(message: EmailMessage, kind: str) -> list[str]:
    body = message.get_body((kind,))
    return lines(body.get_content()) if body else []


@given(mails)
@settings(max_examples=60)
def test_no_byte_is_sent_that_a_seven_bit_server_would_change(of: MailContent) -> None:
    data = render(of)
    assert data.isascii()
    assert b"\x00" not in data
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
    assert data.endswith(b"\r\n")
    found = data.split(b"\r\n")
    assert max(map(len, found)) <= 998
    header = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert all(line.strip() for line in header)


@given(mails)
@settings(max_examples=60)
def test_no_header_is_read_differently_from_what_was_given(of: MailContent) -> None:
    message = parsed(render(of))
    assert message["Subject"] == of.subject
    assert message["Message-ID"] == of.message_id
    assert message["Date"].datetime == of.date.replace(microsecond=0)
    assert addresses(message, "From") == given_addresses((of.from_email,))
    assert addresses(message, "To") == given_addresses(of.to)
    assert addresses(message, "Cc") == given_addresses(of.cc)
    assert addresses(message, "Reply-To") == given_addresses(of.reply_to)
    assert [message[name] for name, _ in of.headers] == [value for _, value in of.headers]


@given(mails)
@settings(max_examples=60)
def test_no_body_or_attachment_is_altered_on_the_way(of: MailContent) -> None:
    message = parsed(render(of))
    assert text_of(message, "plain") == (lines(of.body_text) if of.body_text else [])
    assert text_of(message, "html") == (lines(of.body_html) if of.body_html else [])
    attachments = [
        (part.get_filename(), part.get_content_type(), part.get_content()) for part in message.iter_attachments()
    ]
    assert attachments == [(part.filename, part.content_type, part.content) for part in of.parts]
    assert not any(part.defects for part in message.walk())


@given(mails)
@settings(max_examples=60)
def test_nothing_reads_differently_from_what_the_standard_library_makes(of: MailContent) -> None:
    ours, built = parsed(render(of)), by_stdlib(of)
    for name in ("Date", "Message-ID"):
        assert ours[name] == built[name]
    for name in ("From", "To", "Cc", "Reply-To"):
        # As it was built: folding loses quotes in some of the supported Pythons, and spaces get into long names.
        assert addresses(ours, name) == addresses(built, name)
    theirs = parsed(built.as_bytes())
    for kind in ("plain", "html"):
        assert (text_of(ours, kind) or [""]) == (text_of(theirs, kind) or [""])
    assert [part.get_content() for part in ours.iter_attachments()] == [
        part.get_content() for part in theirs.iter_attachments()
    ]
    assert [part.get_content_type() for part in ours.walk()] == [part.get_content_type() for part in theirs.walk()]


@given(mails)
def test_two_attempts_do_not_differ_in_a_single_byte(of: MailContent) -> None:
    assert render(of) == render(dataclasses.replace(of))


@given(bodies, st.binary(max_size=200))
def test_a_part_that_looks_like_a_boundary_cannot_cut_the_message(text: str, content: bytes) -> None:
    first = render(mail(body_text="x", body_html="y", parts=(MailPart("attachment", "a", "image/png", content),)))
    delimiters = "\n".join(line.decode() for line in first.split(b"\r\n") if line.startswith(b"--=_"))
    of = mail(
        body_text=f"{text}\n{delimiters}\n",
        body_html=delimiters,
        parts=(MailPart("attachment", "m.eml", "message/rfc822", f"Subject: x\n\n{delimiters}\n".encode()),),
    )
    message = parsed(render(of))
    assert text_of(message, "plain") == lines(of.body_text)
    assert text_of(message, "html") == lines(delimiters)
    (attached,) = message.iter_attachments()
    assert lines(attached.get_content().get_content()) == lines(delimiters)
