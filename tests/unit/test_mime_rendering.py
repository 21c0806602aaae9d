"""The structure of rendered messages, and their headers."""

from __future__ import annotations

import re
import time
from datetime import datetime
from email.message import EmailMessage, MIMEPart

import pytest

from prx_email_django.mime.bodies import MailPart
from prx_email_django.mime.rendering import render
from tests.unit.mime_contents import lines, mail, parsed

LOGO = MailPart("inline", "logo.png", "image/png", b"\x89PNG", "logo")
PDF = MailPart("attachment", "report.pdf", "application/pdf", b"%PDF\r\n\x00\xff")
INVITATION = MailPart("alternative", "", "text/calendar; method=REQUEST", b"BEGIN:VCALENDAR\nEND:VCALENDAR\n")


def tree(message: EmailMessage) -> list[object]:
    """Content types, nested as the parts are."""
    if not message.is_multipart():
        return [message.get_content_type()]
    children: list[object] = [
        tree(child)[0] if not child.is_multipart() else tree(child) for child in message.iter_parts()
    ]
    return [message.get_content_subtype(), *children]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["text/plain"]),
        ({"body_text": "", "body_html": "<p>"}, ["text/html"]),
        ({"body_text": ""}, ["text/plain"]),
        ({"body_html": "<p>"}, ["alternative", "text/plain", "text/html"]),
        ({"parts": (INVITATION,)}, ["alternative", "text/plain", "text/calendar"]),
        ({"parts": (PDF,)}, ["mixed", "text/plain", "application/pdf"]),
        ({"parts": (LOGO,)}, ["mixed", "text/plain", "image/png"]),
        ({"body_text": "", "body_html": "<p>", "parts": (LOGO,)}, ["related", "text/html", "image/png"]),
        (
            {"body_html": "<p>", "parts": (PDF, LOGO, INVITATION)},
            [
                "mixed",
                ["alternative", "text/plain", ["related", "text/html", "image/png"], "text/calendar"],
                "application/pdf",
            ],
        ),
    ],
)
def test_a_reader_never_finds_a_part_in_the_wrong_place(values: dict[str, object], expected: list[object]) -> None:
    message = parsed(render(mail(**values)))
    assert tree(message) == expected
    assert not any(part.defects for part in message.walk())


def test_an_inline_image_is_found_by_the_html_that_shows_it() -> None:
    message = parsed(render(mail(body_html='<img src="cid:logo">', parts=(LOGO,))))
    image = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert image["Content-ID"] == "<logo>"
    assert image.get_content_disposition() == "inline"
    assert image.get_content() == b"\x89PNG"


def test_an_invitation_keeps_its_method_or_no_calendar_takes_it() -> None:
    message = parsed(render(mail(parts=(INVITATION,))))
    calendar = next(part for part in message.walk() if part.get_content_type() == "text/calendar")
    assert calendar.get_param("method") == "REQUEST"
    assert calendar.get_content_disposition() is None
    assert calendar.get_content().splitlines() == ["BEGIN:VCALENDAR", "END:VCALENDAR"]


def test_text_beyond_ascii_is_not_read_as_ascii() -> None:
    parts = (
        MailPart("attachment", "a.txt", "text/plain", "grüße\r".encode()),
        MailPart("attachment", "b.txt", "text/plain; charset=latin-1", "grüße".encode("latin-1")),
        MailPart("attachment", "c.txt", "text/plain", "grüße".encode("latin-1")),
        MailPart("alternative", "", "text/x-amp-html", "<p>grüße".encode()),
        MailPart("alternative", "", "text/x-utf16; charset=utf-16", "grüße".encode("utf-16")),
    )
    message = parsed(render(mail(parts=parts)))
    amp, utf16 = [part for part in message.walk() if part.get_content_subtype().startswith("x-")]
    attached = list(message.iter_attachments())
    assert amp.get_content().strip() == "<p>grüße"
    assert utf16.get_content() == "grüße"
    assert [part.get_payload(decode=True) for part in attached] == [part.content for part in parts[:3]]
    assert [part.get_content_charset() for part in attached] == ["utf-8", "latin-1", None]


def test_long_lines_are_encoded_before_a_relay_breaks_them() -> None:
    for text, longest in (
        ("word " * 150 + "\n.\n", 998),  # what every server takes needs no encoding
        ("word " * 200, 78),
        ("größe " * 100, 78),
        ("x" * 2000, 78),
        ("漢" * 500, 78),
    ):
        data = render(mail(body_text=text))
        assert max(map(len, data.split(b"\r\n"))) <= longest
        assert (b"quoted-printable" in data or b"base64" in data) is (longest == 78)
        assert parsed(data).get_content().splitlines() == text.splitlines()


def test_a_text_that_holds_its_own_boundary_is_not_cut() -> None:
    boundaries = re.findall(rb'boundary="(.*)"', render(mail(body_text="a", body_html="b", parts=(PDF,))))
    assert len(boundaries) == 2
    text = "".join(f"a\n--{boundary.decode()}\nb\n--{boundary.decode()}--\n" for boundary in boundaries)
    message = parsed(render(mail(body_text=text, body_html=text, parts=(PDF,))))
    bodies = [message.get_body((kind,)) for kind in ("plain", "html")]
    assert [lines(body.get_content()) for body in bodies if body] == [lines(text)] * 2
    assert len(list(message.iter_attachments())) == 1


def test_blind_copies_stay_blind() -> None:
    data = render(mail(headers=(("Bcc", "secret@example.com"), ("Resent-Bcc", "secret@example.com"))))
    assert b"secret" not in data


def test_a_message_id_or_date_of_the_callers_own_is_kept_and_stands_once() -> None:
    own = (("message-id", "<own@example.com>"), ("Date", "Mon, 01 Jan 2024 00:00:00 +0000"), ("To", "list:;"))
    message = parsed(render(mail(headers=own)))
    assert message.get_all("Message-ID") == ["<own@example.com>"]
    assert message.get_all("Date") == ["Mon, 01 Jan 2024 00:00:00 +0000"]
    assert message.get_all("To") == ["list:;"]


def test_the_date_keeps_its_offset() -> None:
    assert b"\r\nDate: Tue, 24 Nov 2026 12:30:05 +0100\r\n" in b"\r\n" + render(mail())


def test_a_reply_stays_in_its_thread() -> None:
    ids = " ".join(f"<{number}.{'x' * 40}@example.com>" for number in range(40))
    message = parsed(render(mail(in_reply_to="<39@example.com> ünreadable", references=ids)))
    assert message["In-Reply-To"] == "<39@example.com>"
    assert message["References"].split() == ids.split()


def test_a_thread_without_a_usable_id_makes_no_empty_header() -> None:
    data = render(mail(in_reply_to="ü", references="ü " + "x" * 1000))
    assert b"In-Reply-To" not in data
    assert b"References" not in data


@pytest.mark.parametrize(
    "values",
    [
        {"subject": "a\r\nBcc: evil@example.com"},
        {"subject": "a\nb"},
        {"subject": "a\x00b"},
        {"subject": "\ud800"},
        {"from_email": "a@example.com\r\nBcc: evil@example.com"},
        {"from_email": "a@example.com, b@example.com"},
        {"to": ("Ann\n <a@example.com>",)},
        {"to": ("=?utf-8?q?a=0D=0ABcc=3A?= <a@example.com>",)},
        {"cc": ("group: a@example.com;",)},
        {"reply_to": ("a@exa mple.com",)},
        {"message_id": "<a b@example.com>\r\n"},
        {"message_id": ""},
        {"date": datetime(2026, 1, 1)},  # noqa: DTZ001 - the naive date is the point
        {"headers": (("X-A: 1\r\nBcc", "v"),)},
        {"headers": (("X A", "v"),)},
        {"headers": (("", "v"),)},
        {"headers": (("X-A", "v\rw"),)},
        {"headers": (("X-A", "ü\r\nBcc: evil@example.com"),)},
        {"headers": (("Content-Type", "text/html"),)},
        {"headers": (("MIME-Version", "1.0"),)},
        {"headers": (("To", "x" * 1100),)},
        {"body_text": "\udc80"},
        {"body_html": "\udc80"},
        {"parts": (MailPart("attachment", "a\r\nX: y", "image/png", b""),)},
        {"parts": (MailPart("attachment", "a\tb", "image/png", b""),)},
        {"parts": (MailPart("attachment", "a", "notamime", b""),)},
        {"parts": (MailPart("attachment", "a", "image/png\r\nX: y", b""),)},
        {"parts": (MailPart("attachment", "a", 'image/png; a="b\r\nc"', b""),)},
        {"parts": (MailPart("attachment", "a", 'image/png; a="ü"', b""),)},
        {"parts": (MailPart("attachment", "a", "multipart/mixed", b""),)},
        {"parts": (MailPart("inline", "a", "image/png", b"", "logo>\r\nX: y"),)},
        {"parts": (MailPart("inline", "a", "image/png", b"", "lögo"),)},
    ],
)
def test_injection_and_malformed_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        render(mail(**values))


def test_a_local_part_beyond_ascii_is_the_only_thing_beyond_seven_bits() -> None:
    data = render(mail(to=("jörg@example.com",), subject="größer", body_text="größer"))
    assert data.decode().encode("ascii", "ignore") == data.replace("ö".encode(), b"")
    assert "To: jörg@example.com\r\n".encode() in data


@pytest.mark.parametrize("name", ["m.eml", "fwd.eml"])
@pytest.mark.parametrize(
    "content",
    [
        b"Subject: inner\r\n\r\nhello\r\n",
        "Subject: grüße\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nhällo\n".encode(),
        b"Subject: inner\n\n" + b"x" * 2000,
        b"Subject: inner\n\nnul\x00\n",
    ],
)
def test_an_attached_message_is_never_wrapped_in_an_encoding_that_readers_must_refuse(
    name: str, content: bytes
) -> None:
    data = render(mail(parts=(MailPart("attachment", name, "message/rfc822", content),)))
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    (attached,) = parsed(data).iter_attachments()
    assert attached.get_content_type() == "message/rfc822"
    assert attached["Content-Transfer-Encoding"] == "7bit"
    assert attached.get_filename() == name
    inner, original = attached.get_content(), parsed(content)
    assert inner.get_payload(decode=True).strip() == original.get_payload(decode=True).strip()
    assert str(inner["Subject"]) in {"inner", "grüße"}


def test_a_delivery_report_beyond_seven_bits_keeps_its_bytes_or_becomes_a_file() -> None:
    def report(content: bytes) -> MIMEPart:
        data = render(mail(parts=(MailPart("attachment", "r", "message/delivery-status", content),)))
        assert content in data or data.isascii()
        (attached,) = parsed(data).iter_attachments()
        return attached

    kept = report(b"Diagnostic-Code: smtp; 550 inconnu \xe9\r\n")
    assert (kept.get_content_type(), kept["Content-Transfer-Encoding"]) == ("message/delivery-status", "8bit")
    file = report(b"\xff\x00")
    assert (file.get_content_type(), file.get_content()) == ("application/octet-stream", b"\xff\x00")


def test_rendering_stays_far_below_what_the_standard_library_takes() -> None:
    """It takes about 25 µs, ``EmailMessage`` 2 ms; the bound only catches a rendering that is as slow."""
    of = mail(body_text="A line of plain text.\n" * 45, body_html="<p>A line of text, größer.</p>\n" * 30)
    took = min(_seconds(of) for _ in range(5))
    assert took < 400e-6


def _seconds(of: object) -> float:
    start = time.thread_time()
    for _ in range(50):
        render(of)  # type: ignore[arg-type]
    return (time.thread_time() - start) / 50
