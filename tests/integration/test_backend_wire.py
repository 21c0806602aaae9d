"""A switch to the outbox changes no message: content, recipients and sender stay the same."""

from __future__ import annotations

import email.policy
import re
from email import message_from_bytes
from email.charset import BASE64, QP, Charset
from email.header import decode_header
from email.message import EmailMessage as ParsedMessage
from typing import Any, cast

import django
import pytest
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import InvalidMessage
from prx_email_django.mime.encoded_words import decode_words
from prx_email_django.mime.field_kinds import ADDRESS_FIELDS
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import MESSAGES, make_email
from tests.integration.backend_odd_messages import ONLY_OURS
from tests.support import wire
from tests.support.smtp_server import Received, SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

#: Headers that the outbox makes (Message-ID, Date), and those that may differ without a difference in meaning.
OF_THE_OUTBOX = {"message-id", "date"}
ENCODING = {"content-transfer-encoding", "content-type", "content-disposition", "mime-version"}


catcher, server = wire.catcher, wire.server


def by_smtp(message: EmailMessage, server: SmtpServer) -> Received:
    """The message as Django's own SMTP backend sends it."""
    alias: dict[str, Any] = {"alias": "reference"} if hasattr(mail, "mailers") else {}
    backend = smtp.EmailBackend(host=server.host, port=server.port, **alias)
    assert backend.send_messages([message]) == 1
    return server.messages.pop()


def parsed(data: bytes) -> ParsedMessage:
    return cast(ParsedMessage, message_from_bytes(data, policy=email.policy.default))


def header_of(part: ParsedMessage, left_out: set[str]) -> list[tuple[str, str]]:
    """The fields that a reader sees, without the blanks that only Python's parser makes of a fold.

    It puts blanks between the encoded words of a name, and around a value.  Django 5.2
    sends a Subject of ``headers=`` as a second one, which readers do not show.
    """
    found = []
    for name, value in part.items():
        text = re.sub(r"\s", "", str(value)) if name.lower() in ADDRESS_FIELDS else str(value).strip()
        if name.lower() not in left_out and (name.lower(), "subject") not in [("subject", seen) for seen, _ in found]:
            found.append((name.lower(), text))
    return sorted(found)


def decode_words_strictly(word: bytes) -> str:
    """Raise for a word that ends within a character (RFC 2047 §5)."""
    ((content, charset),) = decode_header(word.decode())
    return cast(bytes, content).decode(charset or "ascii")


def with_domain_in_lower_case(address: str) -> str:
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"


def tree(part: ParsedMessage, left_out: set[str]) -> Any:
    """Everything that a mail program can read of a message; texts with the line ends that transport gives them."""
    values: dict[str, Any] = {
        "header": header_of(part, left_out | ENCODING),
        "type": part.get_content_type(),
        "charset": (part.get_content_charset() or "us-ascii").lower(),
        "name": part.get_filename(),
        "disposition": part.get_content_disposition(),
        "cid": part.get("Content-ID"),
    }
    if part.is_multipart():
        return (
            values
            | {"parts": [tree(cast(ParsedMessage, child), set()) for child in part.iter_parts()]}
            | (
                {"message": [tree(cast(ParsedMessage, attached), set()) for attached in cast(Any, part.get_payload())]}
                if part.get_content_maintype() == "message"
                else {}
            )
        )
    content = cast(bytes, part.get_payload(decode=True))
    if part.get_content_maintype() == "text":
        content = content.replace(b"\r\n", b"\n").rstrip(b"\n")
    return values | {"content": content}


@pytest.mark.parametrize("name", sorted(set(MESSAGES) - ONLY_OURS))
def test_the_message_on_the_wire_is_the_one_that_the_smtp_backend_sends(name: str, server: SmtpServer) -> None:
    expected = by_smtp(MESSAGES[name](), server)
    found = wire.sent(MESSAGES[name](), server)
    given = {header.lower() for header in MESSAGES[name]().extra_headers} | (
        OF_THE_OUTBOX if name == "FromScratch" else set()
    )
    left_out = OF_THE_OUTBOX - given
    assert tree(parsed(found.data), left_out) == tree(parsed(expected.data), left_out)
    assert with_domain_in_lower_case(found.sender) == with_domain_in_lower_case(expected.sender)
    assert sorted(map(with_domain_in_lower_case, found.recipients)) == sorted(
        set(map(with_domain_in_lower_case, expected.recipients))
    )


@pytest.mark.parametrize("name", sorted(ONLY_OURS))
def test_what_only_django_refuses_is_sent(name: str, server: SmtpServer) -> None:
    with pytest.raises((TypeError, ValueError)):
        by_smtp(MESSAGES[name](), server)
    wire.sent(MESSAGES[name](), server)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_no_server_is_asked_for_more_than_seven_bits_and_short_lines(name: str, server: SmtpServer) -> None:
    data = wire.sent(MESSAGES[name](), server).data
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")
    head = data.partition(b"\r\n\r\n")[0]
    names = [name.lower() for name in re.findall(rb"^([!-9;-~]+):", head, re.MULTILINE)]
    assert names.count(b"mime-version") == names.count(b"content-type") == names.count(b"subject") == 1
    for word in re.findall(rb"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=", head):
        assert len(word) <= 75
        decode_words_strictly(word)


@pytest.mark.parametrize("name", ["all_kinds_of_recipients", "bcc_only"])
def test_nobody_learns_of_a_blind_copy(name: str, server: SmtpServer) -> None:
    data = wire.sent(MESSAGES[name](), server).data
    assert b"dee@example.org" not in data
    assert b"bcc" not in data.lower()


def test_every_attempt_sends_the_same_bytes(server: SmtpServer) -> None:
    message = MESSAGES["attachments"]()
    OutboxEmailBackend().send_messages([message])
    row = OutboxMessage.objects.get()
    with_same_number = [bytes(row.as_email()) for _ in range(2)]
    assert with_same_number[0] == with_same_number[1]
    server.on("final", reply="451 4.3.0 later", times=1)
    prx.drain()
    row.refresh_from_db()
    assert row.status == "failed"
    prx.requeue_outbox([row.pk])
    prx.drain()
    (found,) = server.messages
    unsealed = [tree(parsed(data), OF_THE_OUTBOX) for data in (found.data, with_same_number[0])]
    assert unsealed[0] == unsealed[1]


def test_a_message_id_and_date_of_the_caller_outlive_a_failed_attempt(server: SmtpServer) -> None:
    OutboxEmailBackend().send_messages([MESSAGES["own_message_id_and_date"]()])
    server.on("final", reply="451 4.3.0 later", times=1)
    prx.drain()
    row = OutboxMessage.objects.get()
    prx.requeue_outbox([row.pk], force=True)
    prx.drain()
    (found,) = server.messages
    assert parsed(found.data)["Message-ID"] == "<ticket-7@help.example.com>"
    assert parsed(found.data)["Date"] == "Mon, 05 Jan 2026 12:00:00 +0100"
    row.refresh_from_db()
    assert row.provider_message_id == "<ticket-7@help.example.com>"


@pytest.mark.parametrize(("is_local", "zone"), [(True, "+0900"), (False, "0000")])
def test_the_date_is_in_the_time_zone_that_django_gives_it(
    is_local: bool, zone: str, server: SmtpServer, settings: Any
) -> None:
    settings.EMAIL_USE_LOCALTIME, settings.TIME_ZONE = is_local, "Asia/Tokyo"
    for received in (by_smtp(make_email(), server), wire.sent(make_email(), server)):
        assert parsed(received.data)["Date"].endswith(zone)


def test_the_time_zone_of_the_date_is_that_of_the_moment(server: SmtpServer, settings: Any) -> None:
    """Whoever assigns a setting at run time sends no signal."""
    wire.sent(make_email(), server)
    from django.conf import settings as of_django

    settings.TIME_ZONE = "Asia/Tokyo"
    settings.EMAIL_USE_LOCALTIME = False  # put back after the test
    of_django._wrapped.EMAIL_USE_LOCALTIME = True
    vars(of_django).pop("EMAIL_USE_LOCALTIME", None)
    assert parsed(wire.sent(make_email(), server).data)["Date"].endswith("+0900")


def test_the_outbox_names_a_message_that_the_caller_left_unnamed(server: SmtpServer) -> None:
    message = make_email()
    data = wire.sent(message, server).data
    assert parsed(data)["Message-ID"] == f"<outbox-{message.outbox_id}-0@prx-email.local>"  # type: ignore[attr-defined]
    assert len(parsed(data).get_all("Date", [])) == 1


def test_text_beyond_ascii_stays_readable_in_its_source(server: SmtpServer) -> None:
    data = wire.sent(make_email(body="Viele herzliche Grüße aus dem Norden\n"), server).data
    assert b"Viele herzliche Gr=C3=BC=C3=9Fe aus dem Norden\r\n" in data


def test_a_local_part_beyond_ascii_reaches_a_server_that_takes_it(server: SmtpServer) -> None:
    found = wire.sent(make_email(to=["Bjørn <bjørn@exämple.dk>"]), server)
    assert found.recipients == ("bjørn@xn--exmple-cua.dk",)
    assert "<bjørn@xn--exmple-cua.dk>\r\n".encode() in found.data


# Headers of the caller


@pytest.mark.parametrize("name", ["X-A: 1\r\nX-Evil", "X-A\n", "X A", "X-A:", "", "X-\xe4", "\u2028"])
def test_a_header_name_that_is_none_is_refused(name: str, server: SmtpServer) -> None:
    with pytest.raises(InvalidMessage) as refused:
        OutboxEmailBackend().send_messages([make_email(headers={name: "evil"})])
    assert refused.value.code in {"header_injection", "invalid_header"}
    assert isinstance(refused.value, ValueError)
    assert not OutboxMessage.objects.exists()


STRUCTURED = {
    "List-Unsubscribe": "<https://example.com/u/" + "t" * 300 + ">, <mailto:u@example.com>",
    "References": " ".join(f"<{number}{'r' * 90}@example.org>" for number in range(9)),
    "In-Reply-To": "<" + "p" * 200 + "@example.org>",
    "X-SMTPAPI": '{"to":["' + '","'.join(f"a{number}@example.org" for number in range(40)) + '"]}',
    "DKIM-Like": "v=1; b=" + "b" * 400,
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_structured_header_never_becomes_encoded_words(name: str, server: SmtpServer) -> None:
    raw = wire.sent(make_email(headers={name: STRUCTURED[name]}), server).data
    head = raw.partition(b"\r\n\r\n")[0]
    assert b"=?" not in head
    assert (
        max(map(len, head.split(b"\r\n"))) <= max(78, *map(len, f"{name}: {STRUCTURED[name]}".split())) + len(name) + 2
    )
    value = message_from_bytes(raw)[name]
    assert value.replace("\r\n", "").strip() == STRUCTURED[name]


@pytest.mark.parametrize("field", ["to", "from_email", "reply_to"])
def test_a_long_quoted_name_adds_no_address(field: str, server: SmtpServer) -> None:
    mailbox = '"' + "Sales, evil@example.net, " * 5 + 'Ltd" <ann@example.org>'
    raw = wire.sent(make_email(**{field: mailbox if field == "from_email" else [mailbox]}), server).data
    header = {"to": "To", "from_email": "From", "reply_to": "Reply-To"}[field]
    value: Any = parsed(raw)[header]
    assert [address.addr_spec for address in value.addresses] == ["ann@example.org"]


@pytest.mark.parametrize("field", ["from_email", "to", "cc", "reply_to", "Sender", "To"])
@pytest.mark.parametrize(
    "shown", ["evil@x.example,", "a, b", "Team: ann", "ann;", "<evil@x.example>", 'say "hi', "a\\", "(a"]
)
def test_a_name_in_an_encoded_word_adds_no_address(field: str, shown: str, server: SmtpServer) -> None:
    """Django 6.1 decodes the name, and writes it without quotes."""
    word = "=?utf-8?q?" + "".join(f"={ord(character):02X}" for character in shown) + "?="
    mailbox = f"{word} <ann@example.org>"
    if field in {"Sender", "To"}:
        message = make_email(headers={field: mailbox})
    else:
        message = make_email(**{field: mailbox if field == "from_email" else [mailbox]})
    name = {"from_email": "From", "reply_to": "Reply-To"}.get(field, field.title())
    (address,) = cast(Any, parsed(wire.sent(message, server).data)[name]).addresses
    assert (address.display_name, address.addr_spec) == (shown, "ann@example.org")


def add_to_tree(name: str, value: str) -> type[EmailMultiAlternatives]:
    """A class whose ``message()`` adds a field, past every check of the standard library."""

    class Changed(EmailMultiAlternatives):
        def message(self, **kwargs: Any) -> Any:
            made = super().message(**kwargs)
            part = made.get_payload()[-1] if made.is_multipart() else made
            part._headers.append((name, value))
            return made

    return Changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A: 1\r\nX-Evil", "evil"),
        ("X A", "evil"),
        ("", "evil"),
        ("X-A", "1\r\nX-Evil: evil"),
        ("X-A", "1\nX-Evil: evil"),
        ("X-A", "1\rX-Evil: evil"),
        ("X-A", "1\n\nevil"),
        ("Content-Disposition", 'attachment; filename="a\nX-Evil: b"'),
    ],
)
@pytest.mark.parametrize("attached", [False, True])
def test_no_line_end_of_a_tree_begins_a_field(attached: bool, name: str, value: str, server: SmtpServer) -> None:
    message = add_to_tree(name, value)("Hello", "Hi.", "app@example.com", ["ann@example.org"])
    if attached:
        message.attach("a.bin", b"x", "application/octet-stream")
    with pytest.raises(InvalidMessage) as refused:
        OutboxEmailBackend().send_messages([message])
    assert refused.value.code in {"header_injection", "invalid_header"}
    with pytest.raises(InvalidMessage):
        prx.enqueue_many([message])
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize("kind", ["text/plain", "application/pdf"])
@pytest.mark.parametrize("name", ["a\nX-Evil: b.pdf", "a\r\n\r\nevil.pdf", "ä\r.pdf"])
def test_a_line_end_in_a_file_name_is_refused(name: str, kind: str, server: SmtpServer) -> None:
    message = make_email()
    message.attach(name, b"x", kind)
    with pytest.raises(ValueError, match="file name") as refused:
        OutboxEmailBackend().send_messages([message])
    assert getattr(refused.value, "code", "") == "header_injection"


TWICE = {
    "Subject": "Another",
    "subject": "A third",
    "Content-Type": "text/html",
    "MIME-Version": "1.0",
    "content-transfer-encoding": "base64",
    "Message-ID": "<own@example.com>",
    "message-id": "<second@example.com>",
    "Date": "Mon, 05 Jan 2026 12:00:00 +0000",
    "date": "Tue, 06 Jan 2026 12:00:00 +0000",
    "Sender": "one@example.com",
    "sender": "two@example.com",
    "References": "<a@example.com>",
    "REFERENCES": "<b@example.com>",
}


@pytest.mark.parametrize("with_file", [False, True])
def test_no_field_that_a_message_has_once_leaves_twice(with_file: bool, server: SmtpServer) -> None:
    message = make_email(headers=dict(TWICE))
    if with_file:
        message.attach("a.bin", b"x")
    found = parsed(wire.sent(message, server).data)
    assert max(len(found.get_all(name, [])) for name in TWICE) == 1
    assert (found["Subject"], found["Message-ID"], found["References"]) == (
        "Hello",
        "<own@example.com>",
        "<a@example.com>",
    )
    assert found.get_content_type() == ("multipart/mixed" if with_file else "text/plain")
    assert message.extra_headers == TWICE


def test_a_subject_that_only_the_headers_have_is_sent(server: SmtpServer) -> None:
    data = wire.sent(make_email("", headers={"Subject": "Größe"}), server).data
    assert parsed(data).get_all("Subject") == ["Größe"]
    assert OutboxMessage.objects.get().subject == "Größe"


@pytest.mark.parametrize("name", ["Message-ID", "In-Reply-To", "References"])
def test_a_long_id_of_the_caller_is_kept(name: str, server: SmtpServer) -> None:
    long_id = f"<{'m' * 970}@example.com>"
    data = wire.sent(make_email(headers={name: long_id}), server).data
    assert message_from_bytes(data)[name].strip() == long_id
    assert max(map(len, data.split(b"\r\n"))) <= 998


def test_an_id_that_fits_on_no_line_is_refused(server: SmtpServer) -> None:
    with pytest.raises(InvalidMessage, match="fit on a line"):
        OutboxEmailBackend().send_messages([make_email(headers={"Message-ID": f"<{'m' * 1000}@example.com>"})])


def test_many_references_are_folded_as_short_as_they_can_be(server: SmtpServer) -> None:
    ids = [f"<{number}{'r' * 60}@example.org>" for number in range(60)]
    head = wire.sent(make_email(headers={"References": " ".join(ids)}), server).data.partition(b"\r\n\r\n")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 89


LINKS = [f"<https://example.com/{number}/{'u' * 400}>" for number in range(5)]


@pytest.mark.parametrize("way", ["backend", "enqueue"])
def test_links_that_commas_alone_separate_leave_on_lines_that_servers_take(way: str, server: SmtpServer) -> None:
    headers = {"List-Unsubscribe": ",".join(LINKS)}
    if way == "backend":
        data = wire.sent(make_email(headers=headers), server).data
    else:
        prx.enqueue(account="main", to="ann@example.org", subject="Hello", body_text="Hi.", headers=headers)
        assert prx.drain().sent == 1
        data = server.messages.pop().data
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert re.split(r",\s+", message_from_bytes(data)["List-Unsubscribe"].strip()) == LINKS


def test_a_link_beyond_ascii_leaves_as_a_link(server: SmtpServer) -> None:
    link = "<mailto:u@example.com?subject=größe>"
    data = wire.sent(make_email(headers={"List-Unsubscribe": link}), server).data
    assert message_from_bytes(data)["List-Unsubscribe"] == "<mailto:u@example.com?subject=gr%C3%B6%C3%9Fe>"


def test_a_link_that_fits_on_no_line_is_refused(server: SmtpServer) -> None:
    with pytest.raises(InvalidMessage, match="List-Unsubscribe") as refused:
        OutboxEmailBackend().send_messages([make_email(headers={"List-Unsubscribe": f"<https://e.com/{'u' * 1200}>"})])
    assert refused.value.code == "invalid_header"


@pytest.mark.parametrize(
    ("written", "sent"), [("<größe@example.org> <a@example.org>", "<a@example.org>"), ("<größe@example.org>", None)]
)
@pytest.mark.parametrize("name", ["References", "In-Reply-To"])
def test_an_id_beyond_ascii_never_becomes_encoded_words(
    name: str, written: str, sent: str | None, server: SmtpServer
) -> None:
    data = wire.sent(make_email(headers={name: written}), server).data
    assert message_from_bytes(data)[name] == sent


def test_a_message_id_beyond_ascii_is_refused(server: SmtpServer) -> None:
    with pytest.raises(ValueError):  # Django 6 raises UnicodeEncodeError itself
        OutboxEmailBackend().send_messages([make_email(headers={"Message-ID": "<größe@example.org>"})])
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize("name", ["ö" * 300 + ".pdf", "Rechnung, \N{PILE OF POO}; " * 60 + ".pdf", "n" * 1200 + ".pdf"])
def test_a_long_file_name_leaves_on_lines_that_servers_take(name: str, server: SmtpServer) -> None:
    message = make_email()
    message.attach(name, b"x", "application/pdf")
    data = wire.sent(message, server).data
    assert max(map(len, data.split(b"\r\n"))) <= 998
    (attached,) = parsed(data).iter_attachments()
    assert attached.get_filename() == name


@pytest.mark.parametrize("kind", ["text/plain", "application/pdf"])
def test_no_nul_of_a_file_name_leaves(kind: str, server: SmtpServer) -> None:
    message = make_email()
    message.attach("a\x00b.pdf", b"x", kind)
    data = wire.sent(message, server).data
    assert b"\x00" not in data
    (attached,) = parsed(data).iter_attachments()
    assert attached.get_filename() == "ab.pdf"


@pytest.mark.parametrize("field", ["to", "cc", "reply_to", "from_email"])
def test_a_tab_in_an_address_is_a_blank(field: str, server: SmtpServer) -> None:
    mailbox = "Ann\tSmith <ann@example.org>"
    found = wire.sent(make_email(**{field: mailbox if field == "from_email" else [mailbox]}), server)
    assert "ann@example.org" in (found.sender, *found.recipients) or field == "reply_to"
    header: Any = parsed(found.data)[{"to": "To", "cc": "Cc", "reply_to": "Reply-To", "from_email": "From"}[field]]
    assert [(address.display_name, address.addr_spec) for address in header.addresses] == [
        ("Ann Smith", "ann@example.org")
    ]


class ReceivedMail(EmailMultiAlternatives):
    """Sends a received message on, as the standard library reads it."""

    sender = "Jörg <app@example.com>"

    def message(self, **kwargs: Any) -> Any:
        """A message with raw bytes in its header."""
        raw = f"From: {self.sender}\r\nTo: ann@example.org\r\nSubject: Größe\r\n\r\nHi.\r\n"
        return message_from_bytes(raw.encode(), policy=email.policy.SMTP)


def test_raw_bytes_in_a_header_leave_as_text_of_a_known_charset(server: SmtpServer) -> None:
    found = wire.sent(ReceivedMail("", "", "app@example.com", ["ann@example.org"]), server)
    assert b"unknown-8bit" not in found.data
    assert parsed(found.data)["Subject"] == "Größe"
    assert parsed(found.data)["From"] == "Jörg <app@example.com>"


@pytest.mark.parametrize("sender", ["Jörg <app@@example.com>", '"Jörg" app', "Jörg <app@example.com"])
def test_raw_bytes_in_a_malformed_from_too(sender: str, server: SmtpServer) -> None:
    mail = ReceivedMail("", "", "app@example.com", ["ann@example.org"])
    mail.sender = sender
    found = wire.sent(mail, server)
    assert b"unknown-8bit" not in found.data
    assert parsed(found.data)["Subject"] == "Größe"


def test_a_field_that_a_subclass_adds_never_becomes_encoded_words(server: SmtpServer) -> None:
    link = f"<https://example.com/{'u' * 300}>"

    class WithLink(EmailMultiAlternatives):
        def message(self, **kwargs: Any) -> Any:
            made = super().message(**kwargs)
            made["List-Unsubscribe"] = link
            return made

    message = WithLink(
        "Hello", "Hi.", "app@example.com", ["ann@example.org"], headers={"References": f"<{'r' * 200}@x>"}
    )
    data = wire.sent(message, server).data
    assert b"=?" not in data
    assert message_from_bytes(data)["List-Unsubscribe"].strip() == link


class Remembering(EmailMultiAlternatives):
    """A subclass that keeps the Message-ID, as projects do to recognise answers."""

    def message(self, **kwargs: Any) -> Any:
        """Django's message, its Message-ID stored."""
        made = super().message(**kwargs)
        self.remembered = made["Message-ID"]
        return made


def test_a_subclass_that_stores_the_message_id_finds_the_id_that_leaves(server: SmtpServer) -> None:
    message = Remembering("Hello", "Hi.", "app@example.com", ["ann@example.org"])
    data = wire.sent(message, server).data
    assert parsed(data)["Message-ID"] == message.remembered
    assert OutboxMessage.objects.get().provider_message_id == message.remembered


# What Django reads more leniently than the functions of the outbox


@pytest.mark.parametrize(
    "mailbox",
    [
        "Ann <ann@example.org",
        "ann smith@example.org",
        "ann. smith@example.org",
        "ann\u200b@example.org",
        "<@relay.example: ann@example.org>",
        "ann@example.org (",
        '"Ann <ann@example.org>',
        '"ann@example.org',
        "\tann@example.org\t",
        "root\t",
        "ann@build+host",
        "ann@[box]",
        "Ann <ann@\u2603.example>",
    ],
)
def test_an_address_that_django_sends_to_loses_no_batch(mailbox: str, server: SmtpServer) -> None:
    batch = [make_email(to=[mailbox, "bob@example.org"]), make_email()]
    try:
        expected = by_smtp(batch[0], server)
    except ValueError:  # Django 6 refuses most of them
        expected = None
    if expected is None or " <" in str(expected.recipients):  # no address, but all of the text
        with pytest.raises(InvalidMessage):
            OutboxEmailBackend().send_messages(batch)
        return
    found = wire.sent(batch[0], server)
    if all(map(str.isascii, mailbox.partition("@")[0])):
        assert found.recipients == expected.recipients
    assert OutboxEmailBackend().send_messages(batch) == 2


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Django 6 takes no Charset")
@pytest.mark.parametrize("encoding", [BASE64, QP, None])
def test_a_charset_of_the_callers_own_is_used(encoding: int | None, server: SmtpServer) -> None:
    def made() -> EmailMessage:
        message = make_email("Größe", "Süßes\n")
        message.encoding = Charset("utf-8")
        message.encoding.body_encoding = encoding
        return message

    found, expected = wire.sent(made(), server).data, by_smtp(made(), server).data
    assert tree(parsed(found), OF_THE_OUTBOX) == tree(parsed(expected), OF_THE_OUTBOX)


@pytest.mark.parametrize("name", ["subject", "X-Note"])
@pytest.mark.parametrize("text", ["=? größe " * 30, "=?utf-8?q?=C3=A4?= größe " * 12, "ü =?x?q?y?= " + "x" * 200])
def test_no_encoded_word_of_a_text_with_marks_is_too_long(name: str, text: str, server: SmtpServer) -> None:
    message = make_email(text) if name == "subject" else make_email(headers={name: text})
    data = wire.sent(message, server).data
    words = re.findall(rb"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=", data.partition(b"\r\n\r\n")[0])
    assert max(map(len, words)) <= 75
    expected = by_smtp(message, server).data
    assert decoded(data, name) == decoded(expected, name)


def decoded(data: bytes, name: str) -> str:
    return decode_words(message_from_bytes(data)[name].replace("\r\n", "").strip())


def test_an_address_beyond_ascii_is_found_in_a_folded_header(server: SmtpServer) -> None:
    other = '"' + "long, " * 30 + 'name" <ann@example.org>'
    found = wire.sent(make_email(reply_to=["Bjørn <bjørn@example.org>", other]), server)
    assert "Reply-To: =?utf-8?b?QmrDuHJu?= <bjørn@example.org>".encode() in found.data
    assert "SMTPUTF8" in found.options
