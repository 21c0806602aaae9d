"""Validation of addresses, recipients, headers and texts: what is refused, and what must be accepted."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prx_email_django.compose.headers import check_header, check_headers
from prx_email_django.compose.validation import (
    addr_spec_of,
    check_subject,
    check_text_fields,
    normalise_recipients,
    parse_address,
)
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.address_tokens import tokens
from prx_email_django.mime.addresses import _USUAL_DOMAIN, _USUAL_LOCAL, Address, _address, format_mailbox, is_usual

_LOCAL_PARTS = st.text("aZ9.+_-'@ é\"", min_size=1, max_size=70)
_DOMAINS = st.text("aZ9.-_@ é[]", min_size=1, max_size=70)

#: Each of these characters ends a line or a text in some program.
CONTROLS = [*map(chr, (*range(32), *range(127, 160))), "\u2028", "\u2029", "\ud800", "\udfff"]


def code_of(function: object, *args: object, **kwargs: object) -> str:
    """The code of the error that the function raises."""
    assert callable(function)
    with pytest.raises(InvalidMessage) as refused:
        function(*args, **kwargs)
    assert refused.value.code in InvalidMessage.codes
    return refused.value.code


_USUAL = st.builds(
    "{}@{}".format, st.from_regex(_USUAL_LOCAL, fullmatch=True), st.from_regex(_USUAL_DOMAIN, fullmatch=True)
)


@given(text=st.one_of(_USUAL, st.builds("{}@{}".format, _LOCAL_PARTS, _DOMAINS)))
@example(f"{'a' * 70}@example.com")
@example(f"a@{'b' * 64}.com")
@example(f"a@{'b' * 61}.c")
@example("a@b.-c")
@example("a.@b.c")
@example("a@b.c\n")
@example("a@b@c")
@example("²@b.c")
def test_what_is_taken_for_a_usual_address_is_what_the_parser_makes_of_it(text: str) -> None:
    if is_usual(text):
        assert _address(tokens(text)) == Address("", text)
        assert addr_spec_of(text, field="to") == parse_address(text, field="to").addr_spec == text


@pytest.mark.parametrize(
    ("text", "display", "spec"),
    [
        ("ann@example.com", "", "ann@example.com"),
        ("  ann@example.com ", "", "ann@example.com"),
        ("Ann <ann@example.com>", "Ann", "ann@example.com"),
        ("<ann@example.com>", "", "ann@example.com"),
        ("Ann<ann@example.com>", "Ann", "ann@example.com"),
        ("Ann B. Lee (Sales) <ann@example.com>", "Ann B. Lee (Sales)", "ann@example.com"),
        ('"Lee, Ann" <ann@example.com>', "Lee, Ann", "ann@example.com"),
        (r'"Ann \"A\" Lee" <ann@example.com>', 'Ann "A" Lee', "ann@example.com"),
        ('Ann "A" Lee <ann@example.com>', "Ann A Lee", "ann@example.com"),
        ('"<x@y>" <ann@example.com>', "<x@y>", "ann@example.com"),
        ("=?utf-8?q?J=C3=B6rg?= <j@example.com>", "Jörg", "j@example.com"),
        ("Jörg <j@example.com>", "Jörg", "j@example.com"),
        ("Ann.Lee+tag@EXAMPLE.com", "", "Ann.Lee+tag@example.com"),
        ("jörg@example.com", "", "jörg@example.com"),
        ("ann@bücher.example", "", "ann@xn--bcher-kva.example"),
        ("ann@BÜCHER。example", "", "ann@xn--bcher-kva.example"),
        ("ann@straße.de", "", "ann@xn--strae-oqa.de"),
        ("ann@xn--bcher-kva.example", "", "ann@xn--bcher-kva.example"),
        ("root@localhost", "", "root@localhost"),
        ("ann@[192.0.2.1]", "", "ann@[192.0.2.1]"),
        ("ann@[IPv6:2001:DB8::1]", "", "ann@[IPv6:2001:db8::1]"),
        ('"ann lee"@example.com', "", '"ann lee"@example.com'),
        ('"ann"@example.com', "", "ann@example.com"),
        ('"a@b"@example.com', "", '"a@b"@example.com'),
        ("ann@example.com (Ann)", "Ann", "ann@example.com"),
        ("(Ann (Sales (EU))) ann@example.com", "Ann (Sales (EU))", "ann@example.com"),
        ("Ann <ann@example.com> (bob@example.com)", "Ann", "ann@example.com"),
        ("ann@exam_ple.com", "", "ann@exam_ple.com"),
        ("a..b@docomo.ne.jp", "", '"a..b"@docomo.ne.jp'),
        ("Ann <ann.@docomo.ne.jp>", "Ann", '"ann."@docomo.ne.jp'),
        (".ann@ezweb.ne.jp", "", '".ann"@ezweb.ne.jp'),
        (r'"a\..b"@docomo.ne.jp', "", '"a..b"@docomo.ne.jp'),
        ("a" * 64 + "@" + "b" * 60 + ".example", "", "a" * 64 + "@" + "b" * 60 + ".example"),
    ],
)
def test_valid_addresses_are_accepted(text: str, display: str, spec: str) -> None:
    assert parse_address(text) == Address(display, spec)
    assert parse_address(format_mailbox(text)) == Address(display, spec)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ann",
        "ann@",
        "@example.com",
        "a@b@example.com",
        "ann@example.com, bob@example.com",
        "ann@example.com; bob@example.com",
        "ann@example.com bob@example.com",
        "Ann <ann@example.com>, Bob <bob@example.com>",
        "Ann <ann@example.com> <bob@example.com>",
        "Ann <ann@example.com> Bob",
        "Lee, Ann <ann@example.com>",
        "evil@example.org <ann@example.com>",
        "friends: ann@example.com;",
        "undisclosed-recipients:;",
        "Ann <>",
        "<ann@example.com",
        "ann@example.com>",
        "an n@example.com",
        "ann@exam ple.com",
        "ann@example..com",
        "ann@.example.com",
        "ann@example.com.",
        "ann@-example.com",
        "ann@" + "a" * 64 + ".com",
        "..@example.com",
        "ann@example.com (Ann",
        "ann@example.com (Ann) <bob@example.com>",
        "ann (Sales) lee@example.com",
        '"ann@example.com',
        "ann\u00a0lee@example.com",
        "ann\u200b@example.com",
        "ann\u202e@example.com",
        "ann@exa\u00admple.c\u00f6m ",
        "ann@[300.1.1.1]",
        "ann@[2001:db8::1]",
        "ann@[IPv6:192.0.2.1]",
        "ann@[192.0.2.1",
        "ann@\u2488.example",
        "a" * 250 + "@example.com",
        "ann@" + "ü." * 200 + "example",
        "<@relay.example:ann@example.com>",
    ],
)
def test_what_is_not_exactly_one_address_is_refused(text: str) -> None:
    assert code_of(parse_address, text) == "invalid_address"


def test_a_refusal_does_not_repeat_the_address() -> None:
    with pytest.raises(InvalidMessage) as refused:
        parse_address("secret.person@exam ple.com", field="cc")
    assert str(refused.value).startswith("cc: ")
    assert "secret" not in str(refused.value)


def test_none_and_numbers_are_refused_with_a_code() -> None:
    assert code_of(parse_address, None) == "invalid_address"
    assert code_of(normalise_recipients, ["ann@example.com", 7]) == "invalid_address"


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_control_character_passes_into_any_header(control: str) -> None:
    assert code_of(check_subject, f"a{control}b") == "header_injection"
    assert code_of(check_header, "X-A", f"a{control}b") == "header_injection"
    assert code_of(check_header, f"X-A{control}Bcc", "v") == "header_injection"
    assert code_of(parse_address, f"a{control}nn@example.com") == "header_injection"
    assert code_of(parse_address, f"ann@example.com{control}") == "header_injection"
    assert code_of(parse_address, f'"A{control}nn" <ann@example.com>') == "header_injection"
    assert code_of(normalise_recipients, "ann@example.com", [f"A{control} <b@example.com>"]) == "header_injection"


def test_line_ends_hidden_in_an_encoded_word_are_refused() -> None:
    assert code_of(parse_address, "=?utf-8?q?a=0D=0ABcc=3A_x?= <ann@example.com>") == "invalid_address"


@given(st.text(max_size=60))
def test_nothing_that_passes_as_an_address_can_break_a_header_or_the_envelope(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidMessage:
        return
    assert address.addr_spec.isprintable()
    assert not set(address.addr_spec.rpartition("@")[2]) & set(" <>,;@")
    assert parse_address(address.addr_spec).addr_spec == address.addr_spec
    assert "\n" not in format_mailbox(text)


def test_the_envelope_names_each_address_once() -> None:
    envelope = normalise_recipients(
        ["Ann <ann@Example.com>", "bob@example.com", "ann@example.COM"],
        ("BOB@example.com", "bob@example.com", "cid@example.com"),
        "Cid <cid@example.com>",
    )
    assert envelope == [
        ("to", "ann@example.com"),
        ("to", "bob@example.com"),
        ("cc", "BOB@example.com"),  # only the receiver knows whether case matters in a local part (RFC 5321 §2.4)
        ("cc", "cid@example.com"),
    ]


@pytest.mark.parametrize("to", ["", " ", [], (), [""], [" ", ""], iter(())])
def test_a_message_to_nobody_is_refused(to: object) -> None:
    assert code_of(normalise_recipients, to, "cc@example.com") == "empty_to"


def test_empty_copies_are_no_copies_but_an_empty_item_is_a_mistake() -> None:
    assert normalise_recipients("a@example.com", "", ()) == [("to", "a@example.com")]
    assert code_of(normalise_recipients, ["a@example.com", ""]) == "invalid_address"
    assert code_of(normalise_recipients, "a@example.com", [""]) == "invalid_address"


def test_the_error_names_the_position_of_a_bad_address() -> None:
    """The error does not repeat the address, which may be private."""
    with pytest.raises(InvalidMessage, match=r"^cc, address 2 of 3: not a valid address"):
        normalise_recipients("a@example.com", ["b@example.com", "secret@", "c@example.com"])
    with pytest.raises(InvalidMessage, match=r"^to: not a valid address"):
        normalise_recipients(["secret@"])


@pytest.mark.parametrize(
    "name",
    [
        "Message-ID",
        "Date",
        "From",
        "To",
        "Cc",
        "Bcc",
        "Sender",
        "Reply-To",
        "Return-Path",
        "Resent-To",
        "resent-bcc",
        "Resent-Message-ID",
        "Content-Type",
        "content-transfer-encoding",
        "Content-X",
        "MIME-Version",
        "Received",
        "DKIM-Signature",
        "bCC",
    ],
)
def test_headers_that_the_app_makes_cannot_be_given(name: str) -> None:
    assert code_of(check_header, name, "x") == "invalid_header"
    assert code_of(check_headers, [("X-Fine", "x"), (name, "x")]) == "invalid_header"


@pytest.mark.parametrize("name", ["", "X A", "X:A", "Bcc ", "Größe", "X-" + "a" * 80, None, 7])
def test_an_invalid_header_name_is_refused(name: object) -> None:
    assert code_of(check_header, name, "x") == "invalid_header"


def test_header_values_are_text_of_bounded_length() -> None:
    assert code_of(check_header, "X-A", 7) == "invalid_header"
    assert code_of(check_header, "X-A", "x" * 20_000) == "invalid_header"
    check_header("List-Unsubscribe", "<https://example.com/out>")
    check_header("X-Größe".encode("ascii", "ignore").decode(), "größer, auch <das>: geht")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"subject": ""}, "empty_subject"),
        ({"subject": "  "}, "empty_subject"),
        ({"subject": None}, "invalid_option"),
        ({"subject": "x" * 20_000}, "invalid_option"),
        ({"body_text": ""}, "empty_body"),
        ({"body_text": " \n"}, "empty_body"),
        ({"body_text": "a\x00"}, "invalid_option"),
        ({"body_text": "\ud800"}, "invalid_option"),
        ({"body_html": "\x00"}, "invalid_option"),
        ({"body_text": b"bytes"}, "invalid_option"),
    ],
)
def test_texts_that_cannot_be_sent_are_refused(values: dict[str, object], code: str) -> None:
    assert code_of(check_text_fields, **{"subject": "Hello", "body_text": "Hello.", **values}) == code


def test_texts_that_can_be_sent_are_taken() -> None:
    check_text_fields(subject="Größe 😀", body_text="line\r\nline\ttab\x0b", body_html="<p>")
    check_text_fields(subject="x", body_text="", body_html="<p>the html is the body</p>")
