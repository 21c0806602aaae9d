"""Received messages come from anybody: nothing in them may raise, or inject a header into a reply."""

from __future__ import annotations

import email
import email.policy
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.compose.validation import normalise_recipients
from prx_email_django.mime.received import Inbound, parse_inbound

RAW = b"""\
Message-ID: <m1@example.com>
In-Reply-To: <m0@example.com>
References: <r1@example.com>
 <m0@example.com>
From: =?utf-8?q?J=C3=B6rg?= <joerg@Example.com>
Reply-To: "List, The" <list@example.com>, other@example.com
Subject: =?iso-8859-1?q?gr=F6=DFer?=
 als gedacht
Subject: a second one

Body
"""

EXPECTED = Inbound(
    message_id="<m1@example.com>",
    in_reply_to="<m0@example.com>",
    sender='"Jörg" <joerg@example.com>',
    reply_to=('"List, The" <list@example.com>', "other@example.com"),
    subject="größer als gedacht",
    references="<r1@example.com> <m0@example.com>",
)


@pytest.mark.parametrize(
    "message",
    [
        RAW,
        RAW.replace(b"\n", b"\r\n"),
        email.message_from_bytes(RAW),
        email.message_from_bytes(RAW, policy=email.policy.default),
        email.message_from_bytes(RAW, policy=email.policy.SMTPUTF8),
    ],
    ids=["lf", "crlf", "compat32", "default", "smtputf8"],
)
def test_bytes_and_every_message_class_give_the_same_values(message: bytes | Message) -> None:
    assert parse_inbound(message) == EXPECTED


def test_the_answer_goes_to_reply_to_else_to_the_sender() -> None:
    assert parse_inbound(RAW).answer_to == EXPECTED.reply_to
    assert parse_inbound(b"From: ann@example.com\nReply-To: nobody\n\n").answer_to == ("ann@example.com",)
    assert parse_inbound(b"Subject: x\n\n").answer_to == ()


def test_hidden_line_ends_cannot_reach_a_reply() -> None:
    raw = b"From: =?utf-8?q?A=0D=0ABcc:_x?= <a@example.com>\nSubject: =?utf-8?q?A=0D=0ABcc:_x=00?=\n\n"
    found = parse_inbound(raw)
    assert found.subject == "A Bcc: x"
    assert found.answer_to == ()


def test_headers_of_the_body_are_not_headers() -> None:
    assert parse_inbound(b"Subject: x\n\nFrom: evil@example.com\n").sender == ""


def test_raw_eight_bit_headers_are_read() -> None:
    assert parse_inbound("Subject: größer\n\n".encode()).subject == "größer"
    assert parse_inbound("Subject: größer\n\n".encode("latin-1")).subject == "größer"


class Hostile(Message):
    """A message whose headers raise, as the standard library's parser does for some malformed headers."""

    def get(self, name: str, failobj: object = None) -> object:  # type: ignore[override]
        raise IndexError(name)


def test_a_header_that_the_standard_library_cannot_parse_counts_as_absent() -> None:
    assert parse_inbound(Hostile()) == Inbound("", "", "", (), "", "")


@given(st.binary(max_size=200), st.sampled_from([b"From: ", b"Reply-To: ", b"Subject: ", b"References: ", b""]))
def test_no_malformed_header_breaks_reading_or_replying(value: bytes, name: bytes) -> None:
    found = parse_inbound(name + value)
    assert parse_inbound(name + value) == found
    if found.answer_to:
        assert normalise_recipients(found.answer_to)
    assert len(found.sender) <= 998
    assert "\n" not in found.subject + found.references + found.message_id


def test_endless_headers_are_cut() -> None:
    raw = b"Subject: " + b"x" * 10**6 + b"\nFrom: " + b"y" * 10**6 + b"@z\nMessage-ID: <" + b"i" * 2000 + b">\n\n"
    found = parse_inbound(raw)
    assert (len(found.subject), found.sender, found.message_id) == (998, "", "")
