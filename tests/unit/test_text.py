"""Text that other people wrote: addresses in it are redacted, and columns are long enough for what is kept of it."""

from __future__ import annotations

import re
import time

import pytest
from django.db.models import Model
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.compose.attachments import MAX_FILENAME
from prx_email_django.compose.validation import MAX_KEY, MAX_TAG
from prx_email_django.django_mail import envelope
from prx_email_django.mime import addresses, received
from prx_email_django.models import (
    Account,
    AccountState,
    Attachment,
    DeliveryAttempt,
    InboundMessage,
    OutboxMessage,
    OutboxState,
    Recipient,
)
from prx_email_django.rules.text import (
    CONTROL,
    HEADER_BREAK,
    INVISIBLE,
    MAX_COLUMN,
    MAX_ENHANCED_CODE,
    MAX_TEXT,
    NOT_TEXT,
    redact,
    redact_address,
)


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


@pytest.mark.parametrize(
    ("model", "names", "kept"),
    [
        (OutboxMessage, ("last_error", "provider_response"), MAX_TEXT),
        (DeliveryAttempt, ("error",), MAX_TEXT),
        (Recipient, ("text",), MAX_TEXT),
        (DeliveryAttempt, ("enhanced_code",), MAX_ENHANCED_CODE),
        (DeliveryAttempt, ("peer", "worker"), MAX_COLUMN),
        (AccountState, ("pause_reason",), MAX_COLUMN),
        (OutboxState, ("pause_reason",), MAX_COLUMN),
        (OutboxMessage, ("tag",), MAX_TAG),
        (OutboxMessage, ("idempotency_key",), MAX_KEY),
        (OutboxMessage, ("from_email",), addresses.MAX_MAILBOX),
        (OutboxMessage, ("envelope_from",), envelope.ADDRESS_COLUMN),
        (Recipient, ("address",), envelope.ADDRESS_COLUMN),
        (Account, ("email", "user"), addresses.MAX_ADDRESS),
        (InboundMessage, ("message_id", "in_reply_to", "sender"), received.MAX_VALUE),
        (Attachment, ("filename",), MAX_FILENAME),
    ],
)
def test_a_column_holds_what_is_cut_for_it(model: type[Model], names: tuple[str, ...], kept: int) -> None:
    """PostgreSQL would refuse the statement that records an outcome, because of its decoration."""
    for name in names:
        length = model._meta.get_field(name).max_length
        assert length is not None and length >= kept, name


@pytest.mark.parametrize(
    ("character", "forbidden_in"),
    [
        ("\x00", {CONTROL, NOT_TEXT, HEADER_BREAK, INVISIBLE}),
        ("\ud800", {CONTROL, NOT_TEXT, INVISIBLE}),
        ("\n", {CONTROL, HEADER_BREAK, INVISIBLE}),
        ("\t", {CONTROL, INVISIBLE}),
        ("\x7f", {CONTROL, HEADER_BREAK, INVISIBLE}),
        ("\x85", {CONTROL, INVISIBLE}),
        ("\u2028", {CONTROL, INVISIBLE}),
        ("\u202e", {INVISIBLE}),
        ("\ufeff", {INVISIBLE}),
        (" ", set()),
        ("\xfc", set()),
    ],
)
def test_each_class_forbids_the_characters_that_it_is_for(character: str, forbidden_in: set[re.Pattern[str]]) -> None:
    found = {pattern for pattern in (CONTROL, NOT_TEXT, HEADER_BREAK, INVISIBLE) if pattern.search(character)}
    assert found == forbidden_in
