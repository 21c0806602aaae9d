"""A switch to the outbox changes no message: content, recipients and sender stay the same."""

from __future__ import annotations

import email.policy
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage as ParsedMessage
from typing import Any, cast

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import InvalidMessage
from prx_email_django.models import Account, OutboxMessage
from tests.integration.backend_messages import MESSAGES, make_email
from tests.support.smtp_server import Received, SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

#: Headers that the outbox makes (Message-ID, Date), and those that may differ without a difference in meaning.
OF_THE_OUTBOX = {"message-id", "date"}
ENCODING = {"content-transfer-encoding", "content-type", "content-disposition", "mime-version"}


@pytest.fixture(scope="module")
def catcher() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def server(catcher: SmtpServer, settings: Any) -> SmtpServer:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "WAKE": ""}
    catcher.messages.clear()
    Account.objects.create(
        name="main",
        email="app@example.com",
        host=catcher.host,
        port=catcher.port,
        security="none",
        auth_method="none",
    )
    return catcher


def by_smtp(message: EmailMessage, server: SmtpServer) -> Received:
    """The message as Django's own SMTP backend sends it."""
    alias: dict[str, Any] = {"alias": "reference"} if hasattr(mail, "mailers") else {}
    backend = smtp.EmailBackend(host=server.host, port=server.port, **alias)
    assert backend.send_messages([message]) == 1
    return server.messages.pop()


def by_outbox(message: EmailMessage, server: SmtpServer) -> Received:
    """The message as the outbox sends it."""
    assert OutboxEmailBackend().send_messages([message]) == 1
    report = prx.drain()
    assert report.sent == 1, list(OutboxMessage.objects.values("last_error", "last_error_code"))
    return server.messages.pop()


def parsed(data: bytes) -> ParsedMessage:
    return cast(ParsedMessage, message_from_bytes(data, policy=email.policy.default))


def header_of(part: ParsedMessage, left_out: set[str]) -> list[tuple[str, str]]:
    return sorted((name.lower(), str(value)) for name, value in part.items() if name.lower() not in left_out)


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


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_the_message_on_the_wire_is_the_one_that_the_smtp_backend_sends(name: str, server: SmtpServer) -> None:
    expected = by_smtp(MESSAGES[name](), server)
    found = by_outbox(MESSAGES[name](), server)
    given = {header.lower() for header in MESSAGES[name]().extra_headers} | (
        OF_THE_OUTBOX if name == "FromScratch" else set()
    )
    left_out = OF_THE_OUTBOX - given
    assert tree(parsed(found.data), left_out) == tree(parsed(expected.data), left_out)
    assert found.sender == expected.sender
    assert sorted(found.recipients) == sorted(set(expected.recipients))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_no_server_is_asked_for_more_than_seven_bits_and_short_lines(name: str, server: SmtpServer) -> None:
    data = by_outbox(MESSAGES[name](), server).data
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n")


@pytest.mark.parametrize("name", ["all_kinds_of_recipients", "bcc_only"])
def test_nobody_learns_of_a_blind_copy(name: str, server: SmtpServer) -> None:
    data = by_outbox(MESSAGES[name](), server).data
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


def test_the_outbox_names_a_message_that_the_caller_left_unnamed(server: SmtpServer) -> None:
    message = make_email()
    data = by_outbox(message, server).data
    assert parsed(data)["Message-ID"] == f"<outbox-{message.outbox_id}-0@prx-email.local>"  # type: ignore[attr-defined]
    assert len(parsed(data).get_all("Date", [])) == 1


def test_text_beyond_ascii_stays_readable_in_its_source(server: SmtpServer) -> None:
    data = by_outbox(make_email(body="Viele herzliche Grüße aus dem Norden\n"), server).data
    assert b"Viele herzliche Gr=C3=BC=C3=9Fe aus dem Norden\r\n" in data


def test_a_local_part_beyond_ascii_reaches_a_server_that_takes_it(server: SmtpServer) -> None:
    found = by_outbox(make_email(to=["Bjørn <bjørn@exämple.dk>"]), server)
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
    raw = by_outbox(make_email(headers={name: STRUCTURED[name]}), server).data
    head = raw.partition(b"\r\n\r\n")[0]
    assert b"=?" not in head
    assert max(map(len, head.split(b"\r\n"))) <= 998
    value = message_from_bytes(raw)[name]
    assert value.replace("\r\n", "").strip() == STRUCTURED[name]


@pytest.mark.parametrize("field", ["to", "from_email", "reply_to"])
def test_a_long_quoted_name_adds_no_address(field: str, server: SmtpServer) -> None:
    mailbox = '"' + "Sales, evil@example.net, " * 5 + 'Ltd" <ann@example.org>'
    raw = by_outbox(make_email(**{field: mailbox if field == "from_email" else [mailbox]}), server).data
    header = {"to": "To", "from_email": "From", "reply_to": "Reply-To"}[field]
    value: Any = parsed(raw)[header]
    assert [address.addr_spec for address in value.addresses] == ["ann@example.org"]
