"""What the email backend guarantees to a project that switches to it by a setting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import DatabaseError, transaction

import prx_email_django as prx
from prx_email_django import backends
from prx_email_django.backends import OutboxEmailBackend, by_from_address
from prx_email_django.errors import AccountUnavailable, AttachmentRejected, InvalidMessage
from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.models.content import read_content
from tests.integration.backend_messages import FromScratch, OldSigned, Signed, make_email, overriding

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def main(settings: Any) -> Account:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "WAKE": ""}
    return account("main", "app@example.com")


def account(name: str, address: str, **fields: Any) -> Account:
    return Account.objects.create(name=name, email=address, host="localhost", port=25, auth_method="none", **fields)


def queued(message: EmailMessage, **options: Any) -> OutboxMessage:
    assert OutboxEmailBackend(**options).send_messages([message]) == 1
    return OutboxMessage.objects.get(pk=message.outbox_id)  # type: ignore[attr-defined]


def route_to_bulk(message: EmailMessage) -> str:
    return "bulk"


def route_nowhere(message: EmailMessage) -> None:
    return None


# In the caller's transaction


def test_mail_of_a_transaction_that_is_rolled_back_is_never_sent() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        assert OutboxEmailBackend().send_messages([make_email()]) == 1
        raise RuntimeError
    assert not OutboxMessage.objects.exists()


def test_one_bad_message_of_many_queues_none() -> None:
    with pytest.raises(ValueError, match="to: Invalid address"):
        OutboxEmailBackend().send_messages([make_email(), make_email(to=["nobody at all"])])
    assert not OutboxMessage.objects.exists()


def test_what_happens_to_the_message_later_changes_nothing() -> None:
    message = make_email()
    message.attach("a.txt", "first", "text/plain")
    row = queued(message)
    message.body, message.to[:] = "changed", ["else@example.org"]
    message.attachments.clear()
    sent = row.as_email()
    assert sent.get_body(("plain",)).get_content() == "Hi.\r\n"  # type: ignore[union-attr]
    assert [part.get_content().strip() for part in sent.iter_attachments()] == ["first"]
    assert [recipient.address for recipient in row.recipients.all()] == ["ann@example.org"]


def test_queueing_leaves_the_message_as_it_was() -> None:
    message = make_email(headers={"X-Outbox-Tag": "welcome", "X-Other": "1"})
    before = copy.deepcopy(vars(message))
    queued(message)
    after = {name: value for name, value in vars(message).items() if name != "outbox_id"}
    assert after == before


# What is counted


def test_the_number_of_queued_messages_is_returned() -> None:
    messages = [make_email(to=[f"p{number}@example.org"]) for number in range(3)]
    nobody = make_email(to=[])
    assert OutboxEmailBackend().send_messages(iter([*messages, nobody])) == 3
    assert [message.outbox_id for message in messages] == [row.pk for row in OutboxMessage.objects.order_by("pk")]  # type: ignore[attr-defined]
    assert not hasattr(nobody, "outbox_id")


@pytest.mark.parametrize("messages", [[], [make_email(to=[])]], ids=["none", "to nobody"])
def test_nothing_to_send_is_no_error_and_needs_no_account(messages: list[EmailMessage]) -> None:
    Account.objects.all().delete()
    assert OutboxEmailBackend().send_messages(messages) == 0


# fail_silently


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda settings: Account.objects.update(is_active=False), AccountUnavailable),
        (
            lambda settings: setattr(settings, "PRX_EMAIL", {"ATTACHMENT_MAX_SIZE": 3, "DEFAULT_ACCOUNT": "main"}),
            AttachmentRejected,
        ),
    ],
    ids=["account", "attachment"],
)
def test_what_the_outbox_refuses_is_raised_or_silently_left_out(
    break_it: Callable[[Any], None], error: type[Exception], settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    message = make_email()
    message.attach("a.bin", b"12345678", "application/octet-stream")
    break_it(settings)
    with pytest.raises(error):
        OutboxEmailBackend().send_messages([message])
    assert OutboxEmailBackend(fail_silently=True).send_messages([message]) == 0
    assert "not queued" in caplog.text
    assert "ann@example.org" not in caplog.text


def test_a_silent_failure_leaves_the_others_and_the_callers_transaction_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = backends.api.enqueue_drafts

    def refuse_one(drafts: Any, **options: Any) -> list[OutboxMessage]:
        if any(draft.fields["subject"] == "bad" for draft in drafts):
            OutboxMessage.objects.create(account=drafts[0].account, priority=99)  # the database refuses it
        return real(drafts, **options)

    monkeypatch.setattr(backends.api, "enqueue_drafts", refuse_one)
    with pytest.raises(DatabaseError), transaction.atomic():
        OutboxEmailBackend().send_messages([make_email("bad")])
    assert OutboxEmailBackend(fail_silently=True).send_messages([make_email("bad"), make_email("good")]) == 1
    assert [row.subject for row in OutboxMessage.objects.all()] == ["good"]


@pytest.mark.parametrize("fields", [{"subject": "two\nlines"}, {"bcc": ["a@b@c"]}], ids=["header", "address"])
def test_what_the_smtp_backend_raises_silently_or_not_is_raised(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        OutboxEmailBackend(fail_silently=True).send_messages([make_email(**fields)])


# What is refused


@pytest.mark.parametrize(
    "address",
    [
        "a@b@c",
        "ann@example.org, bob@example.org",
        "ann@",
        "@example.org",
        "<>",
        "a@exa mple",
        '"eve@example.org\r\nann"@example.org',
        '"eve@example.org\x00ann"@build_host',
        "ann@" + "x" * 320,
        "a\x7fb@build_host",
        "a\u2028b@build_host",
    ],
)
def test_an_impossible_address_is_a_value_error_as_it_is_for_django(address: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        queued(make_email(bcc=[address]))
    assert isinstance(refused.value, ValueError)
    assert refused.value.code == "invalid_address"


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "from_email"])
def test_a_line_end_in_an_address_injects_no_header(field: str) -> None:
    bad = "ann@example.org\r\nBcc: eve@example.org"
    with pytest.raises(ValueError):
        queued(make_email(**{field: bad if field == "from_email" else [bad]}))
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("mimetype", ["application/octet-stream", "text/plain"])
def test_only_the_size_of_an_attachment_is_checked(size: int, fits: bool, mimetype: str, settings: Any) -> None:
    settings.PRX_EMAIL = {
        "DEFAULT_ACCOUNT": "main",
        "ATTACHMENT_MAX_SIZE": 1000,
        "ATTACHMENT_CONTENT_TYPES": ["application/pdf"],
    }
    message = make_email(body="long " * 1000)
    message.attach("a.exe", b"x" * size, mimetype)
    if fits:
        assert queued(message).pk
        return
    with pytest.raises(AttachmentRejected, match="attachment exceeds size limit") as refused:
        queued(message)
    assert refused.value.code == "attachment_too_large"


def test_an_attached_message_is_held_to_the_size_too(settings: Any) -> None:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "ATTACHMENT_MAX_SIZE": 1000}
    message = make_email()
    message.attach("inner.eml", make_email(body="long " * 1000), "message/rfc822")
    with pytest.raises(AttachmentRejected):
        queued(message)


# Columns


def test_the_columns_show_the_message() -> None:
    message = make_email(
        "Grüße",
        "text",
        to=["Ann <ann@example.org>"],
        cc=["cy@example.org"],
        bcc=["dee@example.org"],
        reply_to=["help@example.com"],
        from_email="App <app@exämple.com>",
    )
    message.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    message.attach_alternative("<p>html</p>", "text/html")
    row = queued(message)
    assert (row.to, row.cc, row.bcc, row.reply_to) == (
        ["Ann <ann@example.org>"],
        ["cy@example.org"],
        ["dee@example.org"],
        ["help@example.com"],
    )
    assert (row.from_email, row.subject, row.body_text, row.body_html) == (
        "App <app@exämple.com>",
        "Grüße",
        "text",
        "<p>html</p>",
    )
    assert row.envelope_from == "app@xn--exmple-cua.com"
    assert list(row.recipients.values_list("kind", "address")) == [
        ("to", "ann@example.org"),
        ("cc", "cy@example.org"),
        ("bcc", "dee@example.org"),
    ]


def test_the_columns_show_an_html_body_as_html() -> None:
    message = make_email(body="<p>x</p>")
    message.content_subtype = "html"
    row = queued(message)
    assert (row.body_text, row.body_html) == ("", "<p>x</p>")


def test_the_columns_show_an_overridden_message() -> None:
    row = queued(overriding(FromScratch))
    assert (row.subject, row.body_text, row.body_html) == (
        "Ganz ünders",
        "Text from scratch.\n",
        "<p>HTML from scratch.</p>\n",
    )


def test_characters_that_no_database_holds_are_sent() -> None:
    row = queued(make_email(body="a\x00b"))
    assert row.body_text == "a\N{REPLACEMENT CHARACTER}b"
    assert row.as_email().get_payload(decode=True) == b"a\x00b\r\n"


# Overridden message()


@pytest.mark.parametrize("kind", [Signed, OldSigned])
def test_an_overridden_message_keeps_what_it_adds_and_gets_the_outboxs_name(kind: type[EmailMultiAlternatives]) -> None:
    row = queued(overriding(kind))
    assert row.fixed_message_id == ""
    sent = row.as_email()
    assert sent["X-Signature"] == "abc"
    assert sent["Message-ID"] == row.message_id == f"<outbox-{row.pk}-0@prx-email.local>"


def test_a_name_that_an_overridden_message_chose_is_kept() -> None:
    row = queued(overriding(FromScratch))
    assert row.fixed_message_id == row.message_id == row.as_email()["Message-ID"] == "<scratch-1@example.com>"
    assert row.as_email()["Date"] == "Mon, 05 Jan 2026 12:00:00 +0000"


class Remembering(EmailMultiAlternatives):
    """Makes its id as Django does, and keeps it in an attribute."""

    def message(self, **kwargs: Any) -> Any:
        """Django's message, its id kept."""
        made = super().message(**kwargs)
        self.known_as = str(made["Message-ID"])
        return made


def test_an_id_that_an_overridden_message_remembers_is_kept() -> None:
    message = overriding(Remembering)
    row = queued(message)
    assert row.message_id == row.as_email()["Message-ID"] == message.known_as  # type: ignore[attr-defined]


class Leaking(EmailMultiAlternatives):
    """Names its blind copies in a header, as Django 5.2 can."""

    def message(self, **kwargs: Any) -> Any:
        """Django's message with a header that must not be sent."""
        made = super().message(**kwargs)
        made["Bcc"] = "dee@example.org"
        made["Resent-Bcc"] = "dee@example.org"
        return made


def test_the_stored_message_is_in_wire_form_and_names_no_blind_copy() -> None:
    message = overriding(Leaking)
    message.body = "Zürich\n"
    row = queued(message)
    assert row.raw is not None
    stored = read_content(row.raw_id, row.raw.sha256)
    assert stored.isascii()
    assert b"bcc" not in stored.lower()
    assert b"dee" not in bytes(row.as_email())


# Options


def test_a_mailers_options_hold_for_its_messages() -> None:
    account("bulk", "news@example.com")
    row = queued(make_email(), account="bulk", priority=-5, expires_after="6h", on_unknown="hold")
    assert (row.account.name, row.priority, row.on_unknown) == ("bulk", -5, "hold")
    assert row.next_attempt_at is not None
    assert row.expires_at == row.next_attempt_at + timedelta(hours=6)


def test_attributes_of_a_message_reach_its_row_and_not_the_wire() -> None:
    message = make_email()
    due = datetime(2031, 1, 5, 12, 0, tzinfo=UTC)
    vars(message).update(
        outbox_tag="welcome",
        outbox_metadata={"user": 7},
        outbox_idempotency_key="welcome-7",
        outbox_send_at=due,
        outbox_priority=3,
    )
    row = queued(message, priority=-5, expires_after=timedelta(hours=1))
    assert (row.tag, row.metadata, row.idempotency_key, row.priority) == ("welcome", {"user": 7}, "welcome-7", 3)
    assert (row.next_attempt_at, row.due_since, row.expires_at) == (due, due, due + timedelta(hours=1))
    assert b"welcome" not in bytes(row.as_email())


def test_a_message_chooses_its_account_expiry_and_what_follows_an_unknown_outcome() -> None:
    account("mailer", "m@example.com")
    chosen = account("bulk", "news@example.com")
    expires_at = datetime(2131, 1, 5, 12, 0, tzinfo=UTC)
    for named in (chosen, chosen.pk, "bulk"):
        message = make_email()
        vars(message).update(outbox_account=named, outbox_expires_at=expires_at, outbox_on_unknown="hold")
        row = queued(message, account="mailer", expires_after="6h", on_unknown="retry")
        assert (row.account, row.expires_at, row.on_unknown) == (chosen, expires_at, "hold")


@pytest.mark.parametrize(
    "attributes",
    [
        {"outbox_tga": "welcome"},
        {"outbox_expire_at": None},
        {"outbox_": 1},
        {"outbox_account": 1.5},
        {"outbox_account": True},
        {"outbox_on_unknown": "drop"},
        {"outbox_expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"outbox_expires_at": "2131-01-05T12:00:00+00:00"},
    ],
)
def test_a_slip_in_an_attribute_is_refused(attributes: dict[str, Any]) -> None:
    message = make_email()
    vars(message).update(attributes)
    with pytest.raises(InvalidMessage) as refused:
        OutboxEmailBackend().send_messages([message])
    assert refused.value.code == "invalid_option"
    assert next(iter(attributes)).removeprefix("outbox_") in str(refused.value)
    assert not OutboxMessage.objects.exists()


def test_a_message_that_was_queued_can_be_sent_again() -> None:
    message = make_email()
    assert queued(message).pk != queued(message).pk


def test_headers_of_a_message_reach_its_row_and_not_the_wire() -> None:
    headers = {
        "X-Outbox-Tag": "willkommen ü",
        "X-OUTBOX-metadata": '{"user": 7, "long": "' + "words and " * 20 + '"}',
        "X-Outbox-Idempotency-Key": "welcome-7",
        "X-Outbox-Send-At": "2031-01-05T12:00:00+00:00",
        "X-Outbox-Priority": "3",
    }
    row = queued(make_email(headers=headers))
    assert (row.tag, row.idempotency_key, row.priority) == ("willkommen ü", "welcome-7", 3)
    assert row.metadata == {"user": 7, "long": "words and " * 20}
    assert row.next_attempt_at == datetime(2031, 1, 5, 12, 0, tzinfo=UTC)
    assert b"x-outbox" not in bytes(row.as_email()).lower()


def test_the_same_key_queues_once_and_returns_the_same_id() -> None:
    messages = [make_email(headers={"X-Outbox-Idempotency-Key": "welcome-7"}) for _ in range(2)]
    assert OutboxEmailBackend().send_messages(messages) == 2
    assert OutboxMessage.objects.count() == 1
    assert messages[0].outbox_id == messages[1].outbox_id  # type: ignore[attr-defined]


def test_metadata_of_null_is_no_metadata() -> None:
    message = queued(make_email(headers={"X-Outbox-Metadata": "null"}))
    message.refresh_from_db()
    assert message.metadata == {}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X-Outbox-Tags": "typo"}, "invalid_header"),
        ({"X-Outbox-Metadata": "{"}, "invalid_option"),
        ({"X-Outbox-Send-At": "tomorrow"}, "invalid_option"),
        ({"X-Outbox-Send-At": "2031-01-05T12:00:00"}, "invalid_option"),
        ({"X-Outbox-Priority": "11"}, "invalid_option"),
        ({"X-Outbox-Tag": "t" * 101}, "invalid_option"),
    ],
)
def test_an_invalid_option_is_neither_ignored_nor_sent(headers: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        queued(make_email(headers=headers))
    assert refused.value.code == code
    assert not OutboxMessage.objects.exists()


# Accounts


def test_the_account_is_the_mailers_else_the_routers_else_the_default_one(settings: Any) -> None:
    account("bulk", "news@example.com")
    account("other", "other@example.com")
    assert queued(make_email()).account.name == "main"
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "ACCOUNT_ROUTER": f"{__name__}.route_to_bulk"}
    assert queued(make_email()).account.name == "bulk"
    assert queued(make_email(), account="other").account.name == "other"
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "ACCOUNT_ROUTER": f"{__name__}.route_nowhere"}
    assert queued(make_email()).account.name == "main"


def test_no_account_at_all_says_what_to_set(settings: Any) -> None:
    settings.PRX_EMAIL = {}
    with pytest.raises(AccountUnavailable, match="DEFAULT_ACCOUNT"):
        queued(make_email())


@pytest.mark.parametrize(
    ("from_email", "headers", "expected"),
    [
        ("App <APP@example.com>", {}, "main"),
        ("news@example.com", {}, "bulk"),
        ("anybody@example.com", {}, "main"),
        ("anybody@example.net", {}, "net-a"),
        ("off@example.org", {}, ""),
        ("stranger@example.edu", {}, ""),
        ("anybody@notexample.com", {}, ""),
        ("app@example.com", {"From": "News <news@example.com>"}, "bulk"),
        ("shop@xn--bcher-kva.example", {}, "books"),
        ("Shop@Bücher.example", {}, "books"),
        ("localhost", {}, ""),
    ],
)
def test_a_message_goes_out_by_the_account_that_may_say_so(
    from_email: str, headers: dict[str, str], expected: str
) -> None:
    account("bulk", "news@Example.com")
    account("another", "a@notexample.net")
    account("a-book", "a@bücher.example")
    account("books", "shop@bücher.example")
    account("net-b", "b@example.net")
    account("net-a", "a@example.net")
    account("off", "off@example.org", is_active=False)
    assert by_from_address(make_email(from_email=from_email, headers=headers)) == expected


def test_the_ready_made_router_works_as_the_setting(settings: Any) -> None:
    account("bulk", "news@example.com")
    settings.PRX_EMAIL = {
        "DEFAULT_ACCOUNT": "main",
        "ACCOUNT_ROUTER": "prx_email_django.backends.by_from_address",
    }
    assert queued(make_email(from_email="news@example.com")).account.name == "bulk"
    assert queued(make_email(from_email="x@example.edu")).account.name == "main"


# enqueue_many


def test_messages_of_django_can_be_queued_in_bulk(main: Account) -> None:
    rows = prx.enqueue_many([make_email(to=[f"p{number}@example.org"]) for number in range(3)], account=main)
    assert list(Recipient.objects.order_by("pk").values_list("address", flat=True)) == [
        "p0@example.org",
        "p1@example.org",
        "p2@example.org",
    ]
    assert [row.to for row in rows] == [["p0@example.org"], ["p1@example.org"], ["p2@example.org"]]


def test_a_message_to_nobody_is_refused_in_bulk(main: Account) -> None:
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue_many([make_email(), make_email(to=[])], account=main)
    assert refused.value.code == "empty_to"
    assert not OutboxMessage.objects.exists()
