"""A corpus of messages that projects send through Django: name -> a function that makes the message."""

from __future__ import annotations

import email.message
import email.policy
from collections.abc import Callable
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from functools import partial
from typing import Any

import django
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import lazystr

CALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Größe\r\nEND:VCALENDAR\r\n"
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(range(256))

Maker = Callable[[], EmailMessage]
MESSAGES: dict[str, Maker] = {}


def message(make: Maker) -> Maker:
    """Add the function to the corpus."""
    MESSAGES[make.__name__] = make
    return make


def make_email(subject: Any = "Hello", body: Any = "Hi.\n", **fields: Any) -> EmailMultiAlternatives:
    """A message to one recipient, changed by ``fields``."""
    values = {"from_email": "app@example.com", "to": ["ann@example.org"], **fields}
    return EmailMultiAlternatives(subject, body, **values)


@message
def plain() -> EmailMessage:
    return make_email()


@message
def lazy_and_empty() -> EmailMessage:
    return make_email(lazystr(""), lazystr(""))


@message
def non_ascii_everywhere() -> EmailMessage:
    return make_email(
        "Grüße — 你好, " + "lång " * 20,
        "Zürich ✓ \N{PILE OF POO}\n",
        from_email="Jörg Müller <app@exämple.com>",
        to=["Ännchen <ann@exämple.org>", '"O\'Neil, Ünal" <bob@example.org>', "plain@example.org"],
        cc=["李 <li@example.cn>"],
        reply_to=["Hilfe für alle <help@exämple.com>"],
    )


@message
def all_kinds_of_recipients() -> EmailMessage:
    return make_email(to=["ann@example.org", "Bob <bob@example.org>"], cc=["cy@example.org"], bcc=["dee@example.org"])


@message
def the_same_person_twice() -> EmailMessage:
    return make_email(to=["ann@example.org"], cc=["Ann <ann@example.org>"])


@message
def mailboxes_of_this_machine() -> EmailMessage:
    return make_email(from_email="Web <webmaster>", to=["root", "ann@build_host"])


@message
def bcc_only() -> EmailMessage:
    return make_email(to=[], bcc=["dee@example.org", "eve@example.org"])


@message
def header_overrides() -> EmailMessage:
    headers = {
        "From": "Visible <visible@example.com>",
        "To": "List members <list@example.com>",
        "Cc": "watchers@example.com",
        "Reply-To": "reply@example.com",
        "Sender": "real@example.com",
    }
    return make_email(headers=headers, cc=["cy@example.org"], reply_to=["no@example.org"])


@message
def extra_headers() -> EmailMessage:
    headers = {
        "X-Campaign": "frühling",
        "List-Unsubscribe": "<https://example.com/u/" + "t" * 120 + ">, <mailto:u@example.com>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Auto-Submitted": "auto-generated",
        "In-Reply-To": "<parent@example.org>",
        "References": " ".join(f"<ancestor-{number}@example.org>" for number in range(12)),
        "X-Words": "many words " * 40,
    }
    return make_email(headers=headers)


@message
def own_message_id_and_date() -> EmailMessage:
    return make_email(headers={"message-id": "<ticket-7@help.example.com>", "Date": "Mon, 05 Jan 2026 12:00:00 +0100"})


@message
def html_body() -> EmailMessage:
    made = make_email(body="<p>Ünder</p>")
    made.content_subtype = "html"
    return made


@message
def html_alternative() -> EmailMessage:
    made = make_email()
    made.attach_alternative("<p>Hällo</p>", "text/html")
    return made


@message
def calendar_and_amp() -> EmailMessage:
    made = make_email()
    made.attach_alternative("<!doctype html><html ⚡4email></html>", "text/x-amp-html")
    made.attach_alternative("<p>Hi</p>", "text/html")
    made.attach_alternative(CALENDAR, "text/calendar")
    return made


@message
def alternative_of_bytes() -> EmailMessage:
    made = make_email()
    made.attach_alternative(PNG, "application/octet-stream")
    return made


@message
def attachments() -> EmailMessage:
    made = make_email()
    made.attach("notes.txt", "Zeile ä\nzwei\n", "text/plain")
    made.attach("überlänge " + "n" * 90 + ".pdf", PNG, "application/pdf")
    made.attach("latin.txt", "Größe".encode("latin-1"), "text/plain")
    made.attach("empty.bin", b"", "application/octet-stream")
    made.attach(None, PNG, "image/png")
    return made


@message
def attachment_without_body() -> EmailMessage:
    made = make_email(body="")
    made.attach("a.bin", PNG)
    return made


@message
def attached_message() -> EmailMessage:
    inner = make_email("Innen", "Süß\n", to=["inner@example.org"], headers={"Date": "Mon, 05 Jan 2026 12:00:00 +0000"})
    inner.extra_headers["Message-ID"] = "<inner@example.org>"
    made = make_email()
    made.attach("inner.eml", inner, "message/rfc822")
    made.attach("text.eml", "Subject: raw\n\nraw text\n", "message/rfc822")
    return made


@message
def latin_1() -> EmailMessage:
    made = make_email("Größe", "Süßes oder Saures\n" * 30)
    made.encoding = "iso-8859-1"
    made.attach("notes.txt", "Zeile ä\n", "text/plain")
    return made


@message
def long_lines() -> EmailMessage:
    return make_email(body="x" * 3000 + "\nüü" + "y" * 2000 + "\n")


@message
def lines_that_transport_could_eat() -> EmailMessage:
    return make_email(body=".\n..\nFrom me\r\n.hidden\rcarriage\n\n\nQUIT\n")


@message
def trailing_blanks_and_no_line_end() -> EmailMessage:
    return make_email(body="two blanks  \ntab\t\nend")


@message
def templates_are_only_text() -> EmailMessage:
    made = make_email("{{ subject }}", "{{ name }} {% now 'Y' %} {# gone? #} {% nothing %}\n")
    made.attach_alternative("<p>{{ name|safe }}</p>{% include 'x' %}", "text/html")
    return made


@message
def inline_image() -> EmailMessage:
    made = make_email()
    made.attach_alternative('<img src="cid:logo">', "text/html")
    made.attach(_inline_part())
    return made


def _inline_part() -> Any:
    if django.VERSION < (6, 0):
        image = MIMEImage(PNG, "png")
        image.add_header("Content-ID", "<logo>")
        image.add_header("Content-Disposition", "inline", filename="logo.png")
        return image
    part = email.message.MIMEPart(policy=email.policy.SMTP)
    part.set_content(PNG, maintype="image", subtype="png", cid="<logo>", disposition="inline", filename="logo.png")
    return part


if django.VERSION < (6, 0):

    @message
    def mime_base() -> EmailMessage:
        made = make_email()
        made.attach(MIMEApplication(PNG, "x-thing", name="thing.bin"))
        return made


class Signed(EmailMultiAlternatives):
    """An overridden ``message()`` that adds to Django's."""

    def message(self, **kwargs: Any) -> Any:
        """Django's message with a further header."""
        made = super().message(**kwargs)
        made["X-Signature"] = "abc"
        return made


class OldSigned(EmailMultiAlternatives):
    """The same, as written before Django 6.0 added ``policy``."""

    def message(self) -> Any:
        """Django's message with a further header."""
        made = super().message()
        made["X-Signature"] = "abc"
        return made


class FromScratch(EmailMultiAlternatives):
    """An overridden ``message()`` that makes the whole message."""

    def message(self, **kwargs: Any) -> Any:
        """A message that the attributes of the instance do not describe."""
        made = email.message.EmailMessage(policy=email.policy.SMTP)
        made["Subject"] = "Ganz ünders"
        made["From"] = "scratch@example.com"
        made["To"] = "ann@example.org"
        made["Message-ID"] = "<scratch-1@example.com>"
        made["Date"] = "Mon, 05 Jan 2026 12:00:00 +0000"
        made.set_content("Text from scratch.\n")
        made.add_alternative("<p>HTML from scratch.</p>\n", subtype="html")
        return _WithLineEnds(made)


class _WithLineEnds:
    """The methods that the SMTP backend of Django 5.2 needs of a message."""

    def __init__(self, made: email.message.EmailMessage) -> None:
        self._made = made

    def as_bytes(self, linesep: str = "\r\n") -> bytes:
        """The message as bytes."""
        return self._made.as_bytes(policy=self._made.policy.clone(linesep=linesep))


class WithFewerRecipients(EmailMultiAlternatives):
    """An overridden ``recipients()``."""

    def recipients(self) -> list[str]:
        """The recipients without those at example.org, and an archive."""
        return [*(address for address in super().recipients() if "example.org" not in address), "archive@example.com"]


def overriding(kind: type[EmailMultiAlternatives]) -> EmailMultiAlternatives:
    """A message of a subclass."""
    return kind("Hello", "Hi.\n", "app@example.com", ["ann@example.org", "bob@example.net"])


for _kind in (Signed, FromScratch, WithFewerRecipients):
    MESSAGES[_kind.__name__] = partial(overriding, _kind)
