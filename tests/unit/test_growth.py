"""Text of strangers takes time in proportion to its length, whatever is in it, and none makes the stack end."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from email import message_from_bytes, policy
from typing import Any

import pytest

from prx_email_django.compose.attachments import MAX_FILENAME, clean_filename
from prx_email_django.compose.templates import _ADDRESS_TWICE
from prx_email_django.django_mail.envelope import envelope_address
from prx_email_django.mime.addresses import split_list, split_mailbox
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.headers import any_field, is_content_type, text_field
from prx_email_django.mime.identity import reply_references
from prx_email_django.mime.received import parse_inbound
from prx_email_django.mime.recode import split_fields, to_seven_bits, to_wire
from prx_email_django.rules.refusals import masked
from prx_email_django.rules.text import clean, redact
from prx_email_django.transports.smtp.replies import MalformedReply, ReplyParser

#: Characters of the smaller input; the larger one has four times as many.  Quadratic time is 16 times as long.
SMALL = 20_000
#: Seconds below which the larger input needs no comparison.
FAST = 0.15

#: A piece that is repeated, and what stands before and behind the repetitions.
PIECES = {
    "quotes": ("", '"', ""),
    "escaped quotes": ('"', '\\"', ""),
    "an odd quote": ('"', "a, ", ""),
    "backslashes": ('"', "\\", ""),
    "comments": ("", "(", ""),
    "closed comments": ("", "()", ""),
    "angles": ("", "<", ""),
    "commas": ("", ",", ""),
    "groups": ("", "a:", ""),
    "at signs": ("", "a@", ""),
    "dots": ("a@", "a.", "example"),
    "beyond ASCII": ("a@", "ü.", "example"),
    "encoded words": ("", "=?utf-8?q?a?= ", ""),
    "adjacent words": ("", "=?utf-8?b?YWFhYWFh?=", ""),
    "open words": ("", "=?utf-8?q?", ""),
    "blanks": ("a", " ", "b"),
    "marks": ("a", "\u0315\u0300", ""),
    "controls": ("", "\x01 ", ""),
    "hyphens": ("", "a-", ""),
    "links": ("", "[(", ""),
    "ids": ("", "<a@b>", ""),
    "parameters": ("text/plain", ';a="b"', ""),
    "open parameters": ("text/plain", ' ; name="ü ', ""),
    "delimiters": ("multipart/mixed; boundary=b\r\n\r\n", "\r\n--b\r\n ü", ""),
    "parts in parts": ("", "multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: ", "ü"),
}


def _text(piece: str, length: int) -> str:
    before, repeated, behind = PIECES[piece]
    return before + repeated * (length // len(repeated)) + behind


def _received(name: str, value: str) -> bytes:
    return b"Message-ID: <1@far.example>\r\n" + f"{name}: {value}\r\n\r\n".encode()


def _inbound(name: str, *, parsed: bool) -> Callable[[str], Any]:
    def read(value: str) -> None:
        raw = _received(name, value.replace("\x01", "\x02"))
        parse_inbound(message_from_bytes(raw, policy=policy.default) if parsed else raw)

    return read


READERS: dict[str, Callable[[str], Any]] = {
    **{f"bytes {name}": _inbound(name, parsed=False) for name in ("From", "Reply-To", "Subject", "References")},
    **{f"parsed {name}": _inbound(name, parsed=True) for name in ("From", "Reply-To", "Subject", "References")},
    "mailbox": lambda text: split_mailbox.__wrapped__(text),
    "list": split_list,
    "words": decode_words,
    "wire form": lambda text: to_wire(b"Content-Type: " + text.encode()),
    "seven bits": lambda text: to_seven_bits(b"Content-Type: " + text.encode()),
    "fields": lambda text: split_fields(text.encode()),
    "references": lambda text: reply_references(text, text, "<a@b>"),
    "file name": clean_filename,
    "content type": is_content_type,
    "text field": lambda text: text_field("Subject", text),
    "address field": lambda text: any_field("To", text),
    "envelope": lambda text: envelope_address("to", text),
    "log line": redact,
    "masked words": masked,
    "links of an HTML text": lambda text: _ADDRESS_TWICE.sub(r"\1", text),
    "one line": clean,
    "reply": lambda text: ReplyParser().feed(b"250-" + text.encode() + b"\r\n250-"),
}


def _seconds(read: Callable[[str], Any], text: str) -> float:
    # A collection takes as long as the process is large, and coverage slows down Python's own code: neither says
    # anything about the reader.
    gc.disable()
    tracer = sys.gettrace()
    sys.settrace(None)
    began = time.process_time()
    try:
        with suppress(ValueError):  # refused, as malformed
            read(text)
        return time.process_time() - began
    finally:
        sys.settrace(tracer)
        gc.enable()


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("reader", READERS)
def test_four_times_the_text_takes_about_four_times_as_long(reader: str, piece: str) -> None:
    large = _seconds(READERS[reader], _text(piece, SMALL * 4))
    if large > FAST:
        assert large < 10 * _seconds(READERS[reader], _text(piece, SMALL))


def test_a_long_subject_of_adjacent_words_is_read_once() -> None:
    words = "=?utf-8?b?YWFhYWFh?=" * 100_000
    began = time.process_time()
    assert len(decode_words(words)) == 600_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize("quoted", ['"', '"\\"', '"Ann', '"\\\\\\"'])
def test_addresses_behind_a_quote_that_is_never_closed_are_found(quoted: str) -> None:
    assert split_list(f"bob@example.org, {quoted} <ann@example.org>, cid@example.org")[-1] == "cid@example.org"
    assert parse_inbound(_received("From", f"{quoted}, ann@example.org")).sender == "ann@example.org"


def test_a_long_file_name_keeps_its_start_and_its_extension() -> None:
    name = clean_filename("report " * 100_000 + ".pdf")
    assert name.startswith("report report")
    assert name.endswith(".pdf")
    assert len(name.encode()) <= MAX_FILENAME


@pytest.mark.parametrize("data", [b"250-x\r\n" * 100_000, b"x" * 1_000_000, b"250 " + b"x" * 1_000_000])
@pytest.mark.parametrize("step", [1, 700, 1_000_000])
def test_a_reply_that_never_ends_is_given_up(data: bytes, step: int) -> None:
    parser = ReplyParser()
    with pytest.raises(MalformedReply):
        for at in range(0, len(data), step):
            parser.feed(data[at : at + step])
