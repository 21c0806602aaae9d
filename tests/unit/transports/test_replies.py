"""The parser of replies: tables, and whatever bytes a server may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.text import MAX_TEXT, clean
from prx_email_django.transports.smtp.replies import (
    MAX_LINE,
    MAX_LINES,
    MOST_KNOWN,
    MalformedReply,
    Reply,
    ReplyParser,
)
from tests.support.outgoing_messages import parse_reply


def test_lines_of_one_reply_become_one_text_without_repeated_codes() -> None:
    reply = parse_reply("550-5.1.1 The account\n550-5.1.1 that you tried\n550 5.1.1 does not exist")
    assert (reply.code, reply.enhanced) == (550, "5.1.1")
    assert str(reply) == "550 5.1.1 The account that you tried does not exist"


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [("250 2.1.5 ok", "2.1.5"), ("250 ok 2.1.5", ""), ("250", ""), ("550 5.7.1", "5.7.1"), ("550 5.7.1234 x", "")],
)
def test_enhanced_code_stands_at_the_start(text: str, enhanced: str) -> None:
    assert parse_reply(text).enhanced == enhanced


def test_replies_in_one_segment_stay_apart() -> None:
    replies = ReplyParser().feed(b"250 one\r\n250-two\r\n250 more\r\n354\r\n55")
    assert [str(reply) for reply in replies] == ["250 one", "250 two more", "354 "]


def test_a_line_that_was_a_whole_reply_before_may_be_the_end_of_another_one() -> None:
    parser = ReplyParser()
    replies = [*parser.feed(b"250 ok\r\n250-one\r\n"), *parser.feed(b"250 ok\r\n250 ok\r\n")]
    assert [str(reply) for reply in replies] == ["250 ok", "250 one ok", "250 ok"]


def test_replies_that_never_come_again_are_not_kept() -> None:
    parser = ReplyParser()
    for number in range(10 * MOST_KNOWN):
        parser.feed(b"250 queued as %d\r\n" % number)
    assert len(parser._known) == MOST_KNOWN


@given(st.integers(1, 70), st.integers(1, 70))
def test_cuts_between_segments_change_nothing(first: int, second: int) -> None:
    data = b"250-2.1.0 first\r\n250 2.1.0 last\r\n550 5.1.1 no\n354 go\r\n"
    parser, replies = ReplyParser(), []
    for piece in (data[:first], data[first : first + second], data[first + second :]):
        replies += parser.feed(piece)
    assert [reply.code for reply in replies] == [250, 550, 354]
    assert replies[0].lines == [b"2.1.0 first", b"2.1.0 last"]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"hello\r\n",
        b"25\r\n",
        b"2500 x\r\n",
        b"199 x\r\n",
        b"600 x\r\n",
        b"\xb2\xb2\xb2 x\r\n",
        b"250_x\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"2" * (MAX_LINE + 1),
        b"250-x\r\n" * (MAX_LINES + 1),
    ],
)
def test_what_is_not_a_reply_is_refused_in_a_short_text(data: bytes) -> None:
    with pytest.raises(MalformedReply) as malformed:
        ReplyParser().feed(data)
    assert len(str(malformed.value)) <= MAX_TEXT


def test_replies_before_a_malformed_one_are_kept() -> None:
    replies: list[Reply] = []
    with pytest.raises(MalformedReply):
        ReplyParser().feed_into(b"250 ok\r\nnonsense\r\n", replies)
    assert [reply.code for reply in replies] == [250]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_break_the_parser_or_its_bounds(pieces: list[bytes]) -> None:
    parser = ReplyParser()
    try:
        for piece in pieces:
            for reply in parser.feed(piece):
                assert 200 <= reply.code < 600
                assert len(str(reply)) <= MAX_TEXT and str(reply).isprintable()
    except MalformedReply as malformed:
        assert str(malformed)


@given(st.integers(200, 599), st.lists(st.binary(max_size=60), min_size=1, max_size=MAX_LINES))
def test_every_well_formed_reply_is_read_whole(code: int, texts: list[bytes]) -> None:
    texts = [text.replace(b"\n", b"").rstrip(b"\r") for text in texts]
    marks = [b"-"] * (len(texts) - 1) + [b" "]
    lines = [b"%d%s%s\r\n" % (code, mark, text) for mark, text in zip(marks, texts, strict=True)]
    (reply,) = ReplyParser().feed(b"".join(lines))
    assert (reply.code, reply.lines) == (code, texts)


@given(st.text(max_size=500))
def test_cleaned_text_is_one_short_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= MAX_TEXT
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in cleaned)
    assert "\u202e" not in cleaned and "\u2028" not in cleaned
    cleaned.encode()


@pytest.mark.parametrize("character", ["\u061c", "\u00ad", "\u180e", "\ufff9", "\U000e0041", "\ufffe", "\ue000"])
def test_no_unprintable_character_survives(character: str) -> None:
    assert clean(f"550 a{character}b").isprintable()
