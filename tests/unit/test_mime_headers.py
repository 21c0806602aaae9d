"""Header fields: folding, encoded words, file names, addresses."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prx_email_django.mime.bodies import MailPart
from prx_email_django.mime.encoded_words import decode_words, encode_words
from prx_email_django.mime.headers import address_field, folded_field, text_field
from prx_email_django.mime.rendering import render
from tests.unit.mime_contents import mail, parsed


def test_short_headers_are_left_alone() -> None:
    assert text_field("Subject", "Hello there") == "Subject: Hello there\r\n"
    assert text_field("X-Empty", "") == "X-Empty: \r\n"


def test_long_headers_fold_without_losing_a_space() -> None:
    value = " ".join(f"word{number}" for number in range(60)).replace("word7 ", "word7   ")
    folded = text_field("Subject", value)
    assert max(map(len, folded.split("\r\n"))) <= 78
    assert folded.replace("\r\n", "") == f"Subject: {value}"


def test_a_long_link_is_not_split() -> None:
    """The standard library encodes it, and List-Unsubscribe stops working."""
    link = f"<https://example.com/{'x' * 300}>, <mailto:out@example.com>"
    assert text_field("List-Unsubscribe", link).replace("\r\n", "") == f"List-Unsubscribe: {link}"


def test_a_word_that_fits_on_no_line_is_encoded() -> None:
    data = render(mail(headers=(("X-Long", "x" * 5000),)))
    assert max(map(len, data.split(b"\r\n"))) <= 78
    assert parsed(data)["X-Long"] == "x" * 5000


def test_encoded_lines_keep_to_76_characters() -> None:
    for name in ("Subject", "X-A-Header-Name-Of-Some-Length"):
        assert max(map(len, text_field(name, "größe " * 60).split("\r\n"))) <= 76
    mailbox = "山田太郎（営業部） <yamada@example.co.jp>"
    assert max(map(len, address_field("From", [mailbox]).split("\r\n"))) <= 76


def test_a_subject_that_was_encoded_by_its_caller_means_what_it_encodes() -> None:
    encoded = "=?utf-8?q?gr=C3=B6=C3=9Fer?="
    assert parsed(render(mail(subject=encoded)))["Subject"] == "größer"
    assert parsed(render(mail(subject=f"ü {encoded}")))["Subject"] == "ü größer"


def test_a_field_refuses_what_would_start_another() -> None:
    with pytest.raises(ValueError, match="control character"):
        folded_field("X", "a\r\nb")


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=300))
@example("é" * 100)
@example("a" + "漢😀" * 100)
def test_no_character_is_lost_or_split_between_encoded_words(text: str) -> None:
    words = encode_words(text)
    assert all(len(word) <= 75 for word in words)
    assert "".join(map(decode_words, words)) == text
    assert decode_words("\r\n ".join(words).replace("\r\n", "")) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("=?ISO-8859-1?Q?a_b=FC?= tail", "a bü tail"),
        ("=?utf-8?b?w7w=?=\t=?utf-8?b?w7w?=", "üü"),
        ("=?utf-8?b?ww==?= =?utf-8?b?vA==?=", "ü"),  # a character split between two words
        ("a =?utf-8?q?b?= c =?utf-8?q?d?=", "a b c d"),
        ("=?utf-8*en?q?b?=", "b"),
        ("=?no-such?q?b=FF?=", "bÿ"),
        ("=?hex?q?b=FF?=", "bÿ"),  # a codec, but not of text
        ("=?utf-8?b?a?=", "=?utf-8?b?a?="),
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("=?utf-8?q?a", "=?utf-8?q?a"),
        ("=?\x00?q?a?=", "a"),
    ],
)
def test_decoding_accepts_malformed_words(text: str, expected: str) -> None:
    assert decode_words(text) == expected


@given(st.text(st.sampled_from("=?utf-8qb_ \t*ABC\xff漢"), max_size=60))
def test_decoding_never_fails(text: str) -> None:
    assert isinstance(decode_words(text), str)


@pytest.mark.parametrize(
    "name",
    [
        "report.pdf",
        'a "quoted" \\ name.pdf',
        "größe.pdf",
        "漢字" * 24 + ".pdf",
        "x" * 140 + ".pdf",
        "50%'*.pdf",
        "😀é.txt",
    ],
)
def test_file_names_arrive_as_they_were_given(name: str) -> None:
    data = render(mail(parts=(MailPart("attachment", name, "application/pdf", b"x"),)))
    assert max(map(len, data.split(b"\r\n"))) <= 78
    (attached,) = parsed(data).iter_attachments()
    assert attached.get_filename() == name


def test_a_name_longer_than_an_encoded_word_is_read_as_one_name() -> None:
    display = "Bundesministerium für Digitales und Staatsmodernisierung, Öffentlichkeitsarbeit"
    line = render(mail(from_email=f'"{display}" <a@example.com>')).decode().split("\r\nTo:")[0].partition("From:")[2]
    name, _, spec = line.replace("\r\n", "").strip().rpartition(" ")
    assert (decode_words(name), spec) == (display, "<a@example.com>")


def test_many_recipients_fold_between_addresses() -> None:
    to = tuple(f"somebody.number{number}@example.com" for number in range(100))
    data = render(mail(to=to))
    assert max(map(len, data.split(b"\r\n"))) <= 78
    assert tuple(address.addr_spec for address in parsed(data)["To"].addresses) == to


def test_json_without_blanks_is_folded_between_its_values() -> None:
    value = json.dumps(
        {"to": [f"a,b:{number}@example.org" for number in range(200)], 'q"': "\\"}, separators=(",", ":")
    )
    field = text_field("X-SMTPAPI", value)
    assert "=?" not in field and max(map(len, field.split("\r\n"))) <= 78
    assert json.loads(field.partition(":")[2].replace("\r\n", "")) == json.loads(value)
    assert "=?" in text_field("X-Note", value.replace("{", "", 1))
    assert folded_field("X-SMTPAPI", '{"a":1}') == text_field("X-SMTPAPI", '{"a":1}')
