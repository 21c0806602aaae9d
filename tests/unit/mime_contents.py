"""Content for the tests of rendering: by hand, by hypothesis, and rendered by the standard library."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime, timedelta, timezone
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, cast

from hypothesis import strategies as st

from prx_email_django.mime.addresses import split_mailbox
from prx_email_django.mime.bodies import MailPart
from prx_email_django.mime.rendering import MailContent

NOW = datetime(2026, 11, 24, 12, 30, 5, tzinfo=timezone(timedelta(hours=1)))


def mail(**values: Any) -> MailContent:
    """The content of a small message, with ``values`` in place of its defaults."""
    defaults: dict[str, Any] = {
        "from_email": "Ann <ann@example.com>",
        "to": ("bob@example.org",),
        "subject": "Hello",
        "message_id": "<outbox-7-0@mail.example.com>",
        "date": NOW,
        "body_text": "Hello Bob.\n",
    }
    return MailContent(**{**defaults, **values})


def parsed(data: bytes) -> EmailMessage:
    """The message as a mail program parses it."""
    return cast(EmailMessage, email.message_from_bytes(data, policy=email.policy.default))


def lines(text: str) -> list[str]:
    """The lines of a text with any line ends; a line end at the end makes no further line."""
    found = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return found[:-1] if found[-1] == "" else found


def by_stdlib(of: MailContent) -> EmailMessage:
    """The same content as an ``EmailMessage`` of the standard library."""
    message = EmailMessage(policy=email.policy.SMTP.clone(cte_type="7bit"))
    message["Date"] = format_datetime(of.date)
    message["Message-ID"] = of.message_id
    message["From"] = _address(of.from_email)
    for name, addresses in (("To", of.to), ("Cc", of.cc), ("Reply-To", of.reply_to)):
        if addresses:
            message[name] = [_address(address) for address in addresses]
    message["Subject"] = of.subject.strip(" ")
    for name, value in of.headers:
        message[name] = value
    if of.body_text or not of.body_html:
        message.set_content(of.body_text, cte="base64")
        if of.body_html:
            message.add_alternative(of.body_html, subtype="html", cte="base64")
    else:
        message.set_content(of.body_html, subtype="html", cte="base64")
    for part in of.parts:
        if part.kind == "attachment":
            main, _, sub = part.content_type.partition("/")
            message.add_attachment(part.content, maintype=main, subtype=sub, filename=part.filename)
    return message


def _address(text: str) -> Address:
    address = split_mailbox(text)
    return Address(address.display, addr_spec=address.addr_spec)


_plain = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029")
#: Header text without encoded words, and without white space at its ends.
header_texts = st.one_of(st.text(_plain, max_size=200), st.text('abc =?_("\\)<>,;:@.é漢😀', max_size=300)).map(
    lambda text: text.replace("=?", "=!").strip()
)
bodies = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=400),
    st.text("ab .\t=\r\n-ü漢_\x00\x0b", max_size=3000),
)
domains = st.sampled_from(["example.com", "Example.ORG", "localhost", "bücher.example", "[192.0.2.1]", "a-b.c.example"])
locals_ = st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=^_`{|}~-]{1,20}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True)
#: At most one encoded word: the standard library puts spaces between the words of a name (see test_mime_headers).
displays = (
    st.text(_plain, max_size=40)
    .map(lambda text: " ".join(text.replace("=?", "").split()))
    .filter(lambda text: len(text.encode()) <= 45)
)


@st.composite
def mailboxes(draw: st.DrawFn) -> str:
    """``ann@x.org`` or ``"Ann" <ann@x.org>``."""
    spec = f"{draw(locals_)}@{draw(domains)}"
    display = draw(displays)
    quoted = display.replace("\\", r"\\").replace('"', r"\"")
    return f'"{quoted}" <{spec}>' if display else spec


@st.composite
def parts(draw: st.DrawFn) -> MailPart:
    """An attachment whose name may hold anything except control characters."""
    return MailPart(
        kind="attachment",
        filename=draw(st.text(_plain, min_size=1, max_size=120).map(str.strip).filter(bool)),
        content_type=draw(st.sampled_from(["application/pdf", "image/png", "application/octet-stream"])),
        content=draw(st.binary(max_size=600)),
    )


mails = st.builds(
    MailContent,
    from_email=mailboxes(),
    to=st.lists(mailboxes(), min_size=1, max_size=4).map(tuple),
    cc=st.lists(mailboxes(), max_size=2).map(tuple),
    reply_to=st.lists(mailboxes(), max_size=2).map(tuple),
    subject=header_texts,
    message_id=st.integers(0, 10**12).map(lambda n: f"<outbox-{n}-0@mail.example.com>"),
    date=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    body_text=bodies,
    body_html=bodies,
    headers=st.lists(
        st.tuples(st.sampled_from(["X-One", "X-A-Rather-Long-Header-Name"]), header_texts), max_size=1
    ).map(tuple),
    parts=st.lists(parts(), max_size=2).map(tuple),
)
