"""More of the corpus: messages whose content strains the standard library, or that others made."""

from __future__ import annotations

import email
import email.message
import email.policy
from collections.abc import Callable
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import partial
from typing import Any

import django
from django.core.mail import EmailMessage
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from tests.integration.backend_messages import MESSAGES, PNG, make_email, message

# Fields of the header


def _with_headers(headers: dict[str, Any]) -> EmailMessage:
    return make_email(headers=headers)


HEADERS: dict[str, dict[str, Any]] = {
    "subject_in_headers": {"Subject": "Another"},
    "subject_in_headers_in_lower_case": {"subject": "Another"},
    "from_in_lower_case": {"from": "Visible <visible@example.com>"},
    "to_and_cc_in_lower_case": {"to": "list@example.com", "cc": "watchers@example.com"},
    "an_empty_header": {"X-Empty": ""},
    "a_header_that_is_no_text": {"X-Number": 7, "X-Lazy": lazystr("lazy"), "X-Safe": mark_safe("<b>")},
    "a_long_text": {"X-Note": "words of a long note, and more of them; " * 30},
    "text_beyond_ascii": {"X-Note": "Größe und Länge, " * 30},
    "characters_of_four_bytes": {"X-Note": "\N{PILE OF POO}" * 40},
    "a_tab_and_blanks": {"X-Note": "a  b\tc   d"},
    "precedence_and_importance": {"Precedence": "bulk", "Importance": "high", "X-Priority": "1"},
    "one_click": {
        "List-Unsubscribe": "<https://example.com/u/" + "t" * 400 + ">",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    },
    "list_fields": {
        "List-Id": "News of the shop <news.example.com>",
        "List-Archive": "<https://example.com/a/" + "a" * 200 + ">",
        "List-Help": "<mailto:help@example.com?subject=help>",
    },
    "a_feedback_id": {"Feedback-ID": "c17:u3:news:" + "f" * 100},
    "many_references": {"References": " ".join(f"<{number}{'r' * 60}@example.org>" for number in range(60))},
    "a_group_in_to": {"To": "Team: ann@example.org, Bo <bo@example.org>;"},
    "nobody_in_to": {"To": "undisclosed-recipients:;"},
    "a_sender_and_a_return_path": {"Sender": "Bounces <bounces@example.com>", "Errors-To": "errors@example.com"},
    "receipts": {"Disposition-Notification-To": "Größe <app@example.com>", "Return-Receipt-To": "app@example.com"},
    "json": {"X-MC-Metadata": '{"user_id": 7, "name": "' + "n" * 200 + '"}'},
    "an_encoded_word_of_the_caller": {"X-Note": "=?utf-8?q?Gr=C3=B6=C3=9Fe?= stays"},
}
for _name, _headers in HEADERS.items():
    MESSAGES[_name] = partial(_with_headers, _headers)


SUBJECTS: dict[str, Any] = {
    "a_long_subject": "A subject of many words, " * 12,
    "a_long_word_as_subject": "s" * 300,
    "an_encoded_word_as_subject": "=?utf-8?q?Gr=C3=B6=C3=9Fe?= of it",
    "emoji_with_joiners_as_subject": "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} " * 15,
    "blanks_around_the_subject": "  Hello  you ",
    "right_to_left_subject": "שלום " * 20,
}
for _name, _subject in SUBJECTS.items():
    MESSAGES[_name] = partial(make_email, _subject)


MAILBOXES: dict[str, str] = {
    "a_quoted_name_with_commas": '"Doe, Ann; of: \\"X\\"" <ann@example.org>',
    "a_name_with_a_dot": "Ann B. Doe <ann@example.org>",
    "an_address_as_name": '"ann@example.org" <ann@example.org>',
    "a_quoted_local_part": '"ann doe"@example.org',
    "a_plus_and_a_quote": "O'Neil <o'neil+tag@example.org>",
    "a_long_name_beyond_ascii": "Größe " * 30 + "<ann@example.org>",
    "an_address_literal": "ann@[127.0.0.1]",
    "a_domain_in_capitals": "Ann <Ann@EXAMPLE.org>",
    "a_lone_angle_bracket": "<ann@example.org>",
    "a_quoted_address": '"b@example.org"',
    "an_encoded_name": "=?utf-8?q?J=C3=B6rg?= <joerg@example.org>",
}


def _to_and_from(mailbox: str) -> EmailMessage:
    return make_email(to=[mailbox], from_email=mailbox, reply_to=[mailbox])


for _name, _mailbox in MAILBOXES.items():
    MESSAGES[_name] = partial(_to_and_from, _mailbox)


@message
def many_recipients() -> EmailMessage:
    return make_email(to=[f"Recipient number {number} <r{number}@example.org>" for number in range(60)])


# Bodies


BODIES: dict[str, str] = {
    "an_empty_body": "",
    "a_body_of_line_ends": "\n\n\n",
    "lone_carriage_returns": "one\rtwo\r\nthree\n",
    "a_form_feed": "page one\fpage two\n",
    "mostly_beyond_ascii": "你好，世界\n" * 200,
    "a_line_of_998": "x" * 998 + "\n",
    "a_line_of_999_beyond_ascii": "ü" * 999 + "\n",
    "a_boundary_in_the_body": "--===============1234==\n--\n------------\n",
    "a_signature_mark": "Hi\n-- \nAnn\n",
}
for _name, _body in BODIES.items():
    MESSAGES[_name] = partial(make_email, "Hello", _body)


@message
def html_that_is_empty() -> EmailMessage:
    made = make_email(body="")
    made.attach_alternative("", "text/html")
    return made


# Attachments


FILES: dict[str, tuple[Any, ...]] = {
    "a_file_name_with_quotes": ('a "quoted" \\ name.txt', "text", "text/plain"),
    "a_file_name_with_a_semicolon": ("a; b=c.txt", "text", "text/plain"),
    "a_file_name_in_chinese": ("发票" * 20 + ".pdf", PNG, "application/pdf"),
    "a_lazy_file_name": (lazystr("größe.txt"), "text", "text/plain"),
    "a_file_without_a_type": ("notes.unknown", PNG),
    "a_csv_beyond_ascii": ("data.csv", "größe;länge\n" * 10, "text/csv"),
    "bytes_that_are_no_utf_8": ("latin.csv", "größe".encode("latin-1"), "text/csv"),
    "a_calendar_file": ("invite.ics", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "text/calendar; method=REQUEST"),
    "a_large_file": ("large.bin", bytes(range(256)) * 2000, "application/octet-stream"),
    "html_as_file": ("page.html", "<p>Größe</p>", "text/html"),
    "a_file_in_utf_16": ("notes.txt", "größe".encode("utf-16"), "text/plain"),
}


def _with_file(file: tuple[Any, ...]) -> EmailMessage:
    made = make_email()
    made.attach(*file)
    return made


for _name, _file in FILES.items():
    MESSAGES[_name] = partial(_with_file, _file)


FORWARDED = (
    b"From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\r\nTo: ann@example.org\r\nSubject: Forwarded\r\n"
    b"Message-ID: <" + b"m" * 950 + b"@example.org>\r\nDate: Mon, 05 Jan 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b1"\r\n\r\n--b1\r\nContent-Type: text/plain; charset=utf-8\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nR3LDtsOfZQ==\r\n--b1\r\nContent-Type: image/png; name=a.png\r\n"
    b"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=a.png\r\n\r\niVBORw==\r\n"
    b"--b1--\r\n"
)


@message
def a_forwarded_message() -> EmailMessage:
    made = make_email()
    made.attach("forwarded.eml", FORWARDED, "message/rfc822")
    return made


@message
def a_forwarded_message_as_object() -> EmailMessage:
    made = make_email()
    made.attach(None, email.message_from_bytes(FORWARDED), "message/rfc822")
    return made


def _delivery_report() -> EmailMessage:
    made = make_email()
    made.attach("report", "Reporting-MTA: dns; mx.example.org\n\nAction: failed\n", "message/delivery-status")
    return made


def _mime_part(make: Callable[[], MIMEBase]) -> EmailMessage:
    made = make_email()
    made.attach(make())
    return made


def _nested() -> MIMEBase:
    related = MIMEMultipart("related", boundary="=_own_boundary", type="text/html")
    related.attach(MIMEText("<p>Größe</p>", "html", "utf-8"))
    related.attach(MIMEText("plain", "plain", "us-ascii"))
    return related


def _named() -> MIMEBase:
    part = MIMEApplication(PNG, "pdf")
    part.add_header("Content-Disposition", "attachment", filename=("utf-8", "de", "Größe.pdf"))
    part.add_header("Content-Description", "A drawing")
    return part


if django.VERSION < (6, 0):  # from then on a warning of Django
    MESSAGES["a_mime_tree"] = partial(_mime_part, _nested)
    MESSAGES["a_mime_part_with_a_name_beyond_ascii"] = partial(_mime_part, _named)


def _modern_part(change: Callable[[email.message.MIMEPart], None]) -> EmailMessage:
    part = email.message.MIMEPart(policy=email.policy.SMTP)
    change(part)
    made = make_email()
    made.attach(part)  # type: ignore[arg-type]
    return made


def _calendar(part: email.message.MIMEPart) -> None:
    part.set_content("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", subtype="calendar", params={"method": "REQUEST"})


def _long_name(part: email.message.MIMEPart) -> None:
    part.set_content(PNG, "image", "png", filename="größe " + "n" * 120 + ".png", disposition="attachment")


if django.VERSION >= (6, 0):
    MESSAGES["a_delivery_report"] = _delivery_report
    MESSAGES["a_calendar_as_part"] = partial(_modern_part, _calendar)
    MESSAGES["a_part_with_a_long_name"] = partial(_modern_part, _long_name)


#: Messages that Django's own backend raises for, on every version or on some.
ONLY_OURS = {"a_lazy_file_name"}
if django.VERSION >= (6, 0):
    ONLY_OURS |= {"a_header_that_is_no_text", "a_name_with_a_dot"}
    ONLY_OURS |= {"subject_in_headers", "subject_in_headers_in_lower_case"}
