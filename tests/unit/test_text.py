"""What logs and error columns may show."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.rules.text import redact, redact_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ann@example.com", "a***@example.com"),
        ("a@example.com", "a***@example.com"),
        ('"ann lee"@example.com', "a***@example.com"),
        ('"a@b"@example.com', "a***@example.com"),
        ("ünal@example.com", "ü***@example.com"),
        ("@example.com", "***@example.com"),
        ("ann", "***"),
        ("", "***"),
    ],
)
def test_an_address_keeps_one_letter(address: str, expected: str) -> None:
    assert redact_address(address) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550 5.1.1 <ann@example.com>: no such user", "550 5.1.1 <a***@example.com>: no such user"),
        ("ann@example.com,bob@example.com", "a***@example.com,b***@example.com"),
        ("to=ann.lee+x@example.com; x", "t***@example.com; x"),
        ("user ann@[192.0.2.1] unknown", "user a***@[192.0.2.1] unknown"),
        ("<ünal@bücher.example>", "<ü***@bücher.example>"),
        ('550 <"ann lee"@example.com>', "550 <a***@example.com>"),
        ("line\r\n\tone\x00\x1b[31m", "line one [31m"),
        ("no address @ all", "no address @ all"),
        ("", ""),
    ],
)
def test_addresses_inside_text_are_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_text_is_cut_after_it_was_redacted_so_that_the_cut_reveals_nothing() -> None:
    text = redact("x" * 150 + " secret.person@example.com and so on")
    assert len(text) == 160
    assert "secret" not in text


@given(
    st.text(max_size=400), st.from_regex(r"[a-z]{4,20}@[a-z]{2,9}\.[a-z]{2,4}", fullmatch=True), st.text(max_size=400)
)
def test_no_surroundings_uncover_an_address(before: str, address: str, after: str) -> None:
    text = redact(f"{before} {address} {after}")
    assert address not in text
    assert len(text) <= 160
    assert "\n" not in text


def test_a_hostile_reply_does_not_hold_the_log() -> None:
    start = time.thread_time()  # what this thread costs, however busy the machine is
    redact("a" * 10**7)
    redact('"a' * 10**6)
    assert time.thread_time() - start < 5
