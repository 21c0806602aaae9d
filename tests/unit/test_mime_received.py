"""Received messages come from anybody: nothing in them may raise, or inject a header into a reply."""

from __future__ import annotations

import email
import email.policy
from email import message_from_bytes, policy
from email.message import Message
from typing import Any

import pytest
from hypothesis import given, settings
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


def answers_to(found: Inbound) -> tuple[str, ...]:
    """The addresses that a reply goes to (RFC 5322 §3.6.3): Reply-To, else From."""
    return found.reply_to or ((found.sender,) if found.sender else ())


def test_a_reply_to_that_nobody_can_be_reached_at_counts_as_absent() -> None:
    found = parse_inbound(b"From: ann@example.com\nReply-To: nobody\n\n")
    assert (found.reply_to, found.sender) == ((), "ann@example.com")
    found = parse_inbound(b"Subject: x\n\n")
    assert (found.reply_to, found.sender) == ((), "")


def test_hidden_line_ends_cannot_reach_a_reply() -> None:
    raw = b"From: =?utf-8?q?A=0D=0ABcc:_x?= <a@example.com>\nSubject: =?utf-8?q?A=0D=0ABcc:_x=00?=\n\n"
    found = parse_inbound(raw)
    assert found.subject == "A Bcc: x"
    assert answers_to(found) == ('"A Bcc: x" <a@example.com>',)


def test_headers_of_the_body_are_not_headers() -> None:
    assert parse_inbound(b"Subject: x\n\nFrom: evil@example.com\n").sender == ""


def test_a_blank_in_front_of_the_colon_hides_no_header() -> None:
    found = parse_inbound(b"From : ann@example.org\r\nSubject : Hello\r\nMessage-ID : <1@example.org>\r\n\r\n")
    assert (found.sender, found.subject, found.message_id) == ("ann@example.org", "Hello", "<1@example.org>")


def test_words_of_an_unknown_charset_are_read_as_utf_8() -> None:
    assert parse_inbound(b"Subject: =?unknown-8bit?q?gr=C3=B6=C3=9Fer?=\r\n\r\n").subject == "größer"
    assert parse_inbound(b"Subject: =?unknown-8bit?q?gr=F6=DFer?=\r\n\r\n").subject == "größer"


def test_raw_eight_bit_headers_are_read() -> None:
    assert parse_inbound("Subject: größer\n\n".encode()).subject == "größer"
    assert parse_inbound("Subject: größer\n\n".encode("latin-1")).subject == "größer"


class Hostile(Message):
    """A message whose headers raise, as the standard library's parser does for some malformed headers."""

    def get(self, name: str, failobj: object = None) -> object:  # type: ignore[override]
        raise IndexError(name)


def test_a_header_that_the_standard_library_cannot_parse_counts_as_absent() -> None:
    found = parse_inbound(Hostile())
    assert (found.message_id, answers_to(found), found.subject) == ("", (), "")


#: A field's value, and the addresses that a reply goes to.
WRITTEN = {
    "MAILER-DAEMON@mx.example.org (Mail Delivery System)": ['"Mail Delivery System" <MAILER-DAEMON@mx.example.org>'],
    "ann@example.org (=?utf-8?q?J=C3=B6rg?=)": ['"J\u00f6rg" <ann@example.org>'],
    "ann (her account) @ example.org (at home)": ['"at home" <ann@example.org>'],
    "ann@example.org (" + "(" * 5000 + ")" * 5000 + ")": ['"' + "(" * 200 + '" <ann@example.org>'],
    "Ann (a, b; c@x.org) <ann@example.org>": ['"Ann (a, b; c@x.org)" <ann@example.org>'],
    "undisclosed-recipients:;": [],
    "Team: a@x.org, Bo <b@x.org>;": ["a@x.org", '"Bo" <b@x.org>'],
    "Team: a@x.org;, c@x.org, Others:;": ["a@x.org", "c@x.org"],
    "b@a_b.example": ["b@a_b.example"],
    "b..c@docomo.ne.jp, b.@docomo.ne.jp": ['"b..c"@docomo.ne.jp', '"b."@docomo.ne.jp'],
    "ann@x.org <ann@x.org>": ['"ann@x.org" <ann@x.org>'],
    "=?utf-8?q?Doe,_J?= <j@x.org>": ['"Doe, J" <j@x.org>'],
    "Ann <ann@x.org, b@x.org": ['"Ann" <ann@x.org>', "b@x.org"],
    "<@relay.example:ann@x.org>": ["ann@x.org"],
    "<mailto:ann@x.org>": ["ann@x.org"],
    "a@[IPv6:2001:db8::1], b@[192.0.2.1]": ["a@[IPv6:2001:db8::1]", "b@[192.0.2.1]"],
}


@pytest.mark.parametrize("written", WRITTEN, ids=lambda text: text[:30])
@pytest.mark.parametrize("name", ["From", "Reply-To"])
@pytest.mark.parametrize("kind", ["bytes", "compat32", "default"])
def test_addresses_that_people_write_are_answered(kind: str, name: str, written: str) -> None:
    raw = f"Message-ID: <1@x.org>\r\n{name}: {written}\r\n\r\n".encode()
    policies: dict[str, email.policy.Policy[Any]] = {"compat32": email.policy.compat32, "default": email.policy.default}
    given: Any = raw if kind == "bytes" else email.message_from_bytes(raw, policy=policies[kind])
    found = parse_inbound(given)
    answers = list(found.reply_to if name == "Reply-To" else answers_to(found))
    expected = WRITTEN[written] if name == "Reply-To" else WRITTEN[written][:1]
    assert [answer.replace(")", "").replace("(", "") for answer in answers] == [
        answer.replace(")", "").replace("(", "") for answer in expected
    ]
    if answers:
        assert normalise_recipients(answers)


def test_what_cannot_be_read_is_named() -> None:
    raw = b"From: Ann <ann@x.org>\nReply-To: nobody, ann@x.org, <>\nReferences: none\nMessage-ID: bare@x.org\n\n"
    found = parse_inbound(raw)
    assert (found.message_id, found.reply_to) == ("<bare@x.org>", ("ann@x.org",))
    assert found.left_out == ("Reply-To: 2 that are no addresses", "References: no Message-ID in it can be read")


def test_ids_in_encoded_words_are_read() -> None:
    """Python 3.11's email package writes a long References field so."""
    raw = (
        b"Message-ID: =?utf-8?q?=3C1=40x=2Eorg=3E?=\n"
        b"References: =?utf-8?q?=3Ca=40x=2Eorg=3E_=3Cb=40?=\n =?utf-8?q?x=2Eorg=3E?=\n"
        b"In-Reply-To: =?utf-8?b?PGJAeC5vcmc+?=\n\n"
    )
    for given_message in (
        raw,
        email.message_from_bytes(raw),
        email.message_from_bytes(raw, policy=email.policy.default),
    ):
        found = parse_inbound(given_message)
        assert found.message_id == "<1@x.org>"
        assert (found.references, found.in_reply_to) == ("<a@x.org> <b@x.org>", "<b@x.org>")


@given(st.text(max_size=80), st.sampled_from(["compat32", "default"]))
def test_a_parsed_message_says_what_its_bytes_say(value: str, kind: str) -> None:
    raw = b"Message-ID: <1@x.org>\nFrom: " + value.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"")
    raw += b"\n\n"
    policy: Any = email.policy.compat32 if kind == "compat32" else email.policy.default
    assert parse_inbound(email.message_from_bytes(raw, policy=policy)) == parse_inbound(raw)


@given(st.binary(max_size=200), st.sampled_from([b"From: ", b"Reply-To: ", b"Subject: ", b"References: ", b""]))
def test_no_malformed_header_breaks_reading_or_replying(value: bytes, name: bytes) -> None:
    found = parse_inbound(name + value)
    assert parse_inbound(name + value) == found
    if answers_to(found):
        assert normalise_recipients(answers_to(found))
    assert len(found.sender) <= 998
    assert "\n" not in found.subject + found.references + found.message_id


def test_endless_headers_are_cut() -> None:
    raw = b"Subject: " + b"x" * 10**6 + b"\nFrom: " + b"y" * 10**6 + b"@z\nMessage-ID: <" + b"i" * 2000 + b">\n\n"
    found = parse_inbound(raw)
    assert (len(found.subject), found.sender, found.message_id) == (998, "", "")


# What the standard library's parser drops or moves

_PIECES = [
    *(b"a@x.org", b"Ann", b"<", b">", b"@", b"(", b"((", b")", b"\\", b'"', b",", b";", b":", b" ", b"\t", b"Team:"),
    *(b"<1@x>", b"=?utf-8?q?<3=40x>?=", b"=?x-unknown?q?=E9?=", b"=?utf-8?q?=0D=0AX: y?=", b"=?", b"?=", b"=?utf-8?"),
    *(b"=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "größe".encode(), "größe".encode("latin-1"), b"\xff\xfe", b"\x00", b"\x7f"),
    *("\u2028\x85".encode(), b"\x0b", b"\x1c", b"\x85", b"\r\n ", b"\n\t", b"\r\n \r\n ", b"\r ", b"b..c@docomo.ne.jp"),
    *(b"multipart/mixed; boundary=b", b"text/plain; charset=unknown; name*0*=utf-8''%ff; name*1=x", b"x" * 90),
]
_FIELD_NAMES = [
    *(b"From", b"from", b"Reply-To", b"Subject", b"Message-ID", b"References", b"In-Reply-To", b"Content-Type", b"X-A"),
    *(b"Subject\t", b"Re ply"),
]
_FIELDS = st.tuples(
    st.sampled_from(_FIELD_NAMES),
    st.sampled_from([b": ", b":", b":\r\n "]),
    st.lists(st.sampled_from(_PIECES), max_size=7).map(b"".join),
    st.sampled_from([b"\r\n", b"\n", b"\r"]),
).map(b"".join)
_MESSAGES = st.tuples(
    st.sampled_from([b"", b"", b"From a@b Mon\n", b">From x\n", b": x\r\n", b"From : a@x.org\r\n\t(Ann)\r\n"]),
    st.lists(_FIELDS, min_size=1, max_size=6).map(b"".join),
    st.sampled_from([b"\r\n", b"\n", b""]),
    st.sampled_from([b"", b"body\r\n", b"Subject: no\r\n", b"--b\r\n\r\nx\r\n--b--\r\n"]),
).map(b"".join)


@given(_MESSAGES)
@settings(max_examples=1500, deadline=None)
def test_bytes_and_parsed_messages_are_read_alike(raw: bytes) -> None:
    read = [parse_inbound(raw)]
    read += [parse_inbound(message_from_bytes(raw, policy=kind)) for kind in (policy.compat32, policy.default)]
    assert read[0] == read[1] == read[2]
    assert len({found.fingerprint for found in read}) == 1


@pytest.mark.parametrize("kind", [policy.compat32, policy.default])
@pytest.mark.parametrize("before", [b"", b"Received: x\r\n", b"Received: x\r\nTo: b@x.org\r\n"])
def test_a_sender_with_a_blank_before_the_colon_is_read(before: bytes, kind: policy.Policy[Any]) -> None:
    header = "From : Zoë <zoe@x.org>\r\n: nameless\r\nSubject : Größe\r\nMessage-ID : <1@x.org>\r\n"
    raw = before + f"{header}\r\nFrom: evil@x.org\r\n".encode()
    found = parse_inbound(message_from_bytes(raw, policy=kind))
    assert (found.sender, found.subject, found.message_id) == ('"Zoë" <zoe@x.org>', "Größe", "<1@x.org>")
    assert found == parse_inbound(raw)


@pytest.mark.parametrize("kind", [policy.compat32, policy.default])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"", b"\r\nbody\r\n"),
        (b"", b"\n"),
        (b"", b""),
        (b"Content-Type: multipart/mixed; boundary=b\r\n", b"\r\n--b\r\n\r\nx\r\n--b--\r\n"),
        (b"Content-Type: multipart/mixed\r\n", b"\r\nno boundary\r\n"),
        (b"Content-Type: message/rfc822\r\n", b"\r\nFrom: evil@x.org\r\n\r\nx\r\n"),
        (b"Content-Type: message/delivery-status\r\n", b"\r\nAction: failed\r\n\r\n"),
    ],
)
def test_such_a_sender_is_read_behind_all_other_fields(
    content_type: bytes, body: bytes, kind: policy.Policy[Any]
) -> None:
    raw = b"Message-ID: <1@x.org>\r\n" + content_type + "From : Zoë <zoe@x.org>\r\n".encode() + body
    found = parse_inbound(message_from_bytes(raw, policy=kind))
    assert found.sender == '"Zoë" <zoe@x.org>'
    assert (found, found.fingerprint) == (parse_inbound(raw), parse_inbound(raw).fingerprint)


@pytest.mark.parametrize("kind", [policy.compat32, policy.default])
def test_a_body_that_begins_so_does_not_take_the_senders_place(kind: policy.Policy[Any]) -> None:
    raw = b"From: zoe@x.org\r\nMessage-ID: <1@x.org>\r\n\r\nFrom : evil@x.org\r\n"
    assert parse_inbound(message_from_bytes(raw, policy=kind)).sender == "zoe@x.org"
