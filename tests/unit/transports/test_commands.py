"""Bytes of a transaction: no address adds a command to it, and no line of a body is lost."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.mime.transfer import is_wire_form
from prx_email_django.transports.smtp.commands import (
    Extensions,
    UnsupportedMessage,
    adapt,
    dot_stuffed,
    envelope,
    path,
)
from tests.support.outgoing_messages import BODY, outgoing

ALL = Extensions(pipelining=True, size=True, size_limit=1000, eight_bit=True, utf8=True)


def test_commands_in_order_with_parameters() -> None:
    assert envelope(outgoing(1, "bob@example.org", "eve@example.org"), ALL) == [
        b"MAIL FROM:<ann@example.org> SIZE=%d\r\n" % len(BODY),
        b"RCPT TO:<bob@example.org>\r\n",
        b"RCPT TO:<eve@example.org>\r\n",
        b"DATA\r\n",
    ]


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_address_adds_a_command(sender: str, recipient: str) -> None:
    try:
        commands = envelope(outgoing(1, recipient, sender=sender), ALL)
    except UnsupportedMessage as unsupported:
        assert unsupported.error_code == "content"
        return
    assert len(commands) == 3
    for command in commands:
        assert command.endswith(b"\r\n") and not any(byte < 32 or byte == 127 for byte in command[:-2])


def test_quoted_local_part_may_have_a_blank() -> None:
    assert path('"ann b"@example.org') == '"ann b"@example.org'


@pytest.mark.parametrize(
    "address", ["a b@example.org", "<a@example.org", "a@example.org>", "a\n@example.org", "a@\xad"]
)
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(UnsupportedMessage):
        path(address)


@pytest.mark.parametrize(
    ("options", "extensions", "word"),
    [
        ({"utf8": True}, Extensions(), "SMTPUTF8"),
        ({"sender": "\xe4@example.org"}, Extensions(), "SMTPUTF8"),
        ({"body": b"x" * 1001}, ALL, "1001 bytes"),
    ],
)
def test_what_the_server_lacks_is_named(options: dict[str, object], extensions: Extensions, word: str) -> None:
    with pytest.raises(UnsupportedMessage, match=word):
        envelope(outgoing(1, **options), extensions)


def test_body_at_the_limit_passes() -> None:
    assert envelope(outgoing(body=b"x" * 1000), ALL)


def test_message_without_recipients_is_refused() -> None:
    message = outgoing()
    message.recipients = ()
    with pytest.raises(UnsupportedMessage, match="no recipient"):
        envelope(message, ALL)


def adapted(body: bytes) -> bytes:
    """The body as a session writes it."""
    message = outgoing(body=body)
    adapt(message, Extensions(utf8=True, eight_bit=True))
    return message.body


def unstuffed(data: bytes) -> list[bytes]:
    """The lines that a server reads, up to the final dot."""
    lines = data.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""], "the message ends before its end"
    return [line[1:] if line.startswith(b".") else line for line in lines[:end]]


@given(st.lists(st.sampled_from([b".", b"..", b"a", b"\r\n", b"\n", b"\r", b"\xff", b" "]), max_size=60).map(b"".join))
def test_server_reads_exactly_these_lines_and_one_message(body: bytes) -> None:
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert unstuffed(dot_stuffed(adapted(body)) + b".\r\n") == lines


def test_clean_body_is_not_copied() -> None:
    assert dot_stuffed(adapted(BODY)) is BODY


def test_a_body_that_is_known_to_have_crlf_is_repaired_once_it_was_encoded_anew() -> None:
    body = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nä\r\n.\r\n".encode()
    message = outgoing(body=body, has_crlf=True)
    adapt(message, Extensions())
    assert message.body.isascii() and is_wire_form(message.body)


def test_repairing_line_ends_costs_no_more_than_a_few_copies() -> None:
    """``as_bytes()`` in TRANSFORM_MIME gives such bodies."""
    body = b"\n" * 1_000_000
    tracemalloc.start()
    try:
        stuffed = dot_stuffed(adapted(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stuffed == b"\r\n" * 1_000_000
    assert peak < 6 * len(body), f"{peak / len(body):.0f} times its size"


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"])).map(b"".join))
def test_size_is_that_of_the_repaired_body(body: bytes) -> None:
    repaired = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if body and not repaired.endswith(b"\r\n"):
        repaired += b"\r\n"  # it is written too: before the final dot
    assert f"SIZE={len(repaired)}\r\n".encode() in envelope(outgoing(body=adapted(body)), Extensions(size=True))[0]
