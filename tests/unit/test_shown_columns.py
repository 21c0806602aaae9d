"""What is only shown never decides whether a message can be queued or a page opened, whatever tree it has."""

from __future__ import annotations

from email.message import EmailMessage as ParsedMessage
from email.message import Message
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prx_email_django.django_mail.columns import shown_columns
from prx_email_django.django_mail.parsed_text import inline_parts
from prx_email_django.models.message import AS_SENT

TYPES = [
    "text/plain",
    "text/plain; charset=unknown-8bit-x",
    "text/html; charset=utf-16; charset=x",
    'text/html; charset="\x00"',
    "text/plain; charset*=x''%ff",
    "text/plain; charset*0*=utf-8'en'%; charset*1=b",
    "multipart/mixed",
    'multipart/alternative; boundary=""',
    'multipart/related; boundary="b"; start="<x>"',
    "multipart/signed; protocol=x",
    "message/rfc822",
    "message/partial",
    "message/delivery-status",
    "text",
    "/",
    ";",
    "",
    "text/" + "(" * 300,
    "x" * 3000 + "/y",
    "text/plain; name==?utf-8?q?=FF?=",
]
ENCODINGS = ["base64", "quoted-printable", "x-uuencode", "8bit", "binary", "unknown", "", "base64, base64", "\x00"]
NAMES = [
    "Subject",
    "Content-ID",
    "Content-Disposition",
    "Content-Type",
    "Content-Transfer-Encoding",
    "To",
    "MIME-Version",
]
BODIES = [
    "!!!not base64=",
    "=E",
    "begin 666 x\nnot uu",
    "\x00",
    "\udcff\udcfe",
    "--b\n\nx\n--b--",
    "größe",
    "<p>x",
    "\ud800",
]
VALUES = [
    "=?x?q?a?=",
    "=?utf-8?b?!?=",
    '"',
    "<",
    "(" * 200,
    "\x00",
    "attachment; filename*=x''%ff",
    "=?utf-7?q?+2AA-?=",
    "<a@[>",
]


@st.composite
def trees(draw: st.DrawFn, depth: int = 0) -> Message:
    """A tree of the standard library's ``Message``, past its checks."""
    part = Message()
    part._headers = [  # type: ignore[attr-defined]
        ("Content-Type", draw(st.sampled_from(TYPES))),
        ("Content-Transfer-Encoding", draw(st.sampled_from(ENCODINGS))),
        *draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=20)), max_size=3)),
    ][draw(st.integers(0, 2)) :]
    if depth < 3 and draw(st.booleans()):
        part._payload = draw(st.lists(trees(depth + 1), max_size=3))  # type: ignore[attr-defined]
    else:
        part._payload = draw(st.sampled_from(BODIES) | st.text(max_size=60))  # type: ignore[attr-defined]
    return part


def raw_of(part: Message) -> bytes:
    """The tree as bytes, also where the standard library's generator would raise."""
    head = "".join(f"{name}: {value}\r\n" for name, value in part.raw_items())
    payload: Any = part._payload  # type: ignore[attr-defined]
    if isinstance(payload, list):
        body = b"".join(b"--b\r\n" + raw_of(child) + b"\r\n" for child in payload) + b"--b--\r\n"
    else:
        body = payload.encode("utf-8", "surrogatepass")
    return head.encode("utf-8", "surrogatepass") + b"\r\n" + body


def nested(depth: int) -> bytes:
    """Parts in parts."""
    return b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth))


class Overridden(EmailMultiAlternatives):
    """A subclass whose ``message()`` says what its attributes do not."""

    def message(self, **kwargs: Any) -> Any:
        """Not called here."""
        raise NotImplementedError


@settings(max_examples=100)
@given(trees().map(raw_of) | st.binary(max_size=300))
@example(nested(200))
@example(nested(1200))
@example(b"Content-Type: text/plain; charset=" + b"(" * 5000 + b"\r\n\r\nx")
@example(b"Content-Type: message/rfc822\r\n\r\n" * 400)
@example(b"Subject: " + b"(" * 20_000 + b"\r\nContent-Type: multipart/mixed\r\n\r\nno boundary")
def test_no_tree_breaks_what_is_shown(raw: bytes) -> None:
    columns = shown_columns(Overridden("s", "b", "a@example.com", ["b@example.org"]), raw)
    for name in ("subject", "body_text", "body_html"):
        columns[name].encode()
        assert "\x00" not in columns[name]


@pytest.mark.parametrize("depth", [3, 200])
def test_inline_parts_of_any_tree_are_read(depth: int) -> None:
    parsed = ParsedMessage(policy=AS_SENT)
    parsed._headers = [("Content-ID", "<a>"), ("Content-Type", "text/" + "(" * depth)]  # type: ignore[attr-defined]
    list(inline_parts(parsed))
