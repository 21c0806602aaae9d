"""Arguments of callers are accepted in every usual form, or refused in words before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.mail.message import EmailAttachment
from django.utils.functional import SimpleLazyObject, lazystr
from django.utils.translation import gettext_lazy

import prx_email_django as prx
from prx_email_django.errors import AttachmentRejected, InvalidMessage
from prx_email_django.models import InboundMessage, OutboxMessage
from tests.support.factories import MEMORY, NOW, account, fresh, message
from tests.support.factories import mail as mail_fields

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY


FILE = prx.AttachmentInput(filename="a.txt", content_type="text/plain", content=b"x")


def refusal(**fields: Any) -> InvalidMessage:
    """The error of ``enqueue``; nothing is written."""
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue(**mail_fields(account(), **fields))
    assert not OutboxMessage.objects.exists()
    return refused.value


# None, and a single value for a list


@pytest.mark.parametrize("field", ["cc", "bcc", "reply_to", "attachment", "attachments", "headers", "body_html"])
def test_none_means_none(field: str) -> None:
    row = fresh(message(account(), **{field: None}))
    assert (row.cc, row.bcc, row.reply_to, row.headers, row.body_html) == ([], [], [], {}, "")
    assert not row.attachments.exists()


@pytest.mark.parametrize("send", ["send", "enqueue", "enqueue_many", "reply"])
def test_none_means_none_in_every_function(send: str) -> None:
    owner = account()
    if send == "reply":
        prx.record_inbound(owner, b"From: b@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n")
        prx.reply(account=owner, in_reply_to_message_id="<1@x.org>", body_text="yes", attachments=None)
    elif send == "enqueue_many":
        prx.enqueue_many([{"to": "a@x.org", "subject": "s", "body_text": "b", "attachments": None}], account=owner)
    else:
        getattr(prx, send)(**mail_fields(owner, cc=None, attachments=None))
    assert not OutboxMessage.objects.get().attachments.exists()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": None}, "empty_to"),
        ({"subject": None}, "empty_subject"),
        ({"body_text": None}, "empty_body"),
        ({"to": 5}, "invalid_address"),
        ({"cc": 5}, "invalid_address"),
        ({"reply_to": object()}, "invalid_address"),
        ({"to": [None]}, "invalid_address"),
        ({"subject": 5}, "invalid_option"),
        ({"attachments": "a.txt"}, "invalid_option"),
        ({"attachments": b"x"}, "invalid_option"),
        ({"attachments": 5}, "invalid_option"),
        ({"attachments": ["a.txt"]}, "invalid_option"),
        ({"attachments": [("a.txt",)]}, "invalid_option"),
        ({"attachments": [("a.txt", 5)]}, "invalid_option"),
        ({"attachments": [None]}, "invalid_option"),
        ({"attachment": {"filename": "a.txt"}}, "invalid_option"),
    ],
)
def test_what_is_missing_or_something_else_is_refused_by_name(fields: dict[str, Any], code: str) -> None:
    error = refusal(**fields)
    assert error.code == code
    assert str(error).startswith(next(iter(fields)))


def test_a_body_of_html_needs_no_text() -> None:
    assert fresh(message(account(), body_text=None, body_html="<p>Hi</p>")).body_text == ""


@pytest.mark.parametrize("field", ["attachment", "attachments"])
@pytest.mark.parametrize(
    "given",
    [
        FILE,
        ("a.txt", b"x", "text/plain"),
        ("a.txt", "x", "text/plain"),
        ("a.txt", b"x"),
        ("a.txt", b"x", None),
        EmailAttachment("a.txt", b"x", "text/plain"),
    ],
)
def test_one_attachment_may_be_given_alone_and_as_django_takes_it(field: str, given: Any) -> None:
    for value in (given, [given], iter([given])) if field == "attachments" else (given,):
        part = message(account(str(uuid4())), **{field: value}).attachments.get()
        assert (part.filename, part.content_type, part.size) == ("a.txt", "text/plain", 1)


def test_the_policy_holds_for_attachments_as_django_takes_them() -> None:
    with pytest.raises(AttachmentRejected) as refused:
        message(account(), attachments=[("a.exe", b"x")])
    assert refused.value.code == "attachment_type_not_allowed"


@pytest.mark.parametrize("reason", [None, "", " ", 5])
def test_a_pause_needs_a_reason(reason: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"^reason must ") as refused:
        prx.pause_outbox(reason=reason)
    assert refused.value.code == "invalid_option"


# record_inbound


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n", "invalid_option", "message: give bytes or .*, not str"),
        (None, "invalid_option", "not NoneType"),
        (b"From: a@x.org\r\n\r\n", "invalid_header", "no Message-ID that a reply could name: up to 900 "),
        (b"From: a@x.org\r\nMessage-ID: <%b@x>\r\n\r\n" % (b"l" * 1000), "invalid_header", "up to 900 printable"),
        (b"Message-ID: <1@x.org>\r\n\r\n", "invalid_header", "no sender's address"),
        (b"From: nobody\r\nMessage-ID: <1@x.org>\r\n\r\n", "invalid_header", "no sender's address"),
    ],
)
def test_what_nobody_could_reply_to_is_refused_with_what_is_true_of_it(given: Any, code: str, words: str) -> None:
    with pytest.raises(InvalidMessage, match=words) as refused:
        prx.record_inbound(account(), given)
    assert refused.value.code == code
    assert not InboundMessage.objects.exists()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_type_are_recorded(kind: Any) -> None:
    recorded = prx.record_inbound(account(), kind(b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n"))
    assert recorded.message_id == "<1@x.org>"


# metadata


@pytest.mark.parametrize("value", [[1], [], "text", "", 5, 0, False, {"a": [1, {"b": None}]}])
def test_metadata_is_whatever_json_can_hold(value: object) -> None:
    assert fresh(message(account(), metadata=value)).metadata == value


def test_no_metadata_is_an_empty_dict() -> None:
    assert fresh(message(account(), metadata=None)).metadata == {}


def test_a_dict_that_is_reused_for_each_message_is_not_shared() -> None:
    owner = account()
    notes: dict[str, Any] = {}

    def arguments() -> Iterator[dict[str, Any]]:
        for number in range(3):
            notes["order"] = {"number": number}
            yield {"to": "ann@example.org", "subject": "Hello", "body_text": "Hi.", "metadata": notes}

    rows = prx.enqueue_many(arguments(), account=owner)
    assert [fresh(row).metadata["order"]["number"] for row in rows] == [0, 1, 2]


# time_budget


@pytest.mark.parametrize("budget", [None, 500, 250.5, "500s", timedelta(seconds=500)])
def test_a_time_budget_is_a_duration(budget: Any) -> None:
    row = message(account())
    assert prx.drain(now=NOW, time_budget=budget).sent == 1
    assert fresh(row).status == "sent"


@pytest.mark.parametrize("budget", [0, "0s"])
def test_an_empty_time_budget_starts_nothing(budget: Any) -> None:
    message(account())
    assert prx.drain(now=NOW, time_budget=budget).sent == 0


@pytest.mark.parametrize("budget", ["soon", -1, "-1s", timedelta(seconds=-1), float("nan"), [], True])
def test_a_time_budget_that_is_none_is_refused(budget: Any) -> None:
    message(account())
    with pytest.raises(InvalidMessage, match=r"^time_budget: ") as refused:
        prx.drain(time_budget=budget)
    assert refused.value.code == "invalid_option"
    assert OutboxMessage.objects.get().status == "pending"


# An account and an instant


@pytest.mark.parametrize("function", ["send", "enqueue", "enqueue_many", "reply"])
def test_the_default_account_is_taken_where_none_is_named(function: str, settings: Any) -> None:
    owner = account()
    settings.PRX_EMAIL = {**MEMORY, "DEFAULT_ACCOUNT": owner.name}
    fields = {"to": "a@x.org", "subject": "s", "body_text": "b"}
    if function == "reply":
        prx.record_inbound(owner, b"From: b@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n")
        prx.reply(in_reply_to_message_id="<1@x.org>", body_text="yes")
    elif function == "enqueue_many":
        prx.enqueue_many([fields])
    else:
        getattr(prx, function)(**fields)
    assert OutboxMessage.objects.get().account == owner


@pytest.mark.parametrize("late", [timedelta(0), timedelta(days=1)])
def test_an_instant_of_expiry_that_has_passed_is_refused(late: timedelta) -> None:
    error = refusal(now=NOW, expires_at=NOW - late)
    assert (error.code, str(error)) == ("invalid_option", "expires_at must be in the future")


# Texts that are lazy, and values that are no text


@pytest.mark.parametrize("lazy", [gettext_lazy, lazystr, lambda text: SimpleLazyObject(lambda: text)])
def test_every_text_may_be_lazy(lazy: Any) -> None:
    row = prx.enqueue(
        account=account(),
        to=lazy("Ann <a@x.org>"),
        cc=[lazy("c@x.org")],
        subject=lazy("Hello"),
        body_text=lazy("text"),
        body_html=lazy("<p>html</p>"),
        from_email=lazy("shop@x.org"),
        reply_to=lazy("r@x.org"),
        headers={"X-A": lazy("value")},
        tag=lazy("tag"),
        attachments=[prx.AttachmentInput(lazy("a.txt"), "text/plain", b"x"), (lazy("b.txt"), "y", "text/plain")],
    )
    row.refresh_from_db()
    assert (row.to, row.cc, row.reply_to) == (["Ann <a@x.org>"], ["c@x.org"], ["r@x.org"])
    assert (row.subject, row.body_text, row.body_html) == ("Hello", "text", "<p>html</p>")
    assert (row.from_email, row.headers, row.tag) == ("shop@x.org", {"X-A": "value"}, "tag")
    assert sorted(row.attachments.values_list("filename", flat=True)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
@pytest.mark.parametrize("value", [b"ann@example.org", bytearray(b"ann@example.org"), 7])
def test_what_is_no_address_is_named_by_its_type(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.code == "invalid_address"
    assert str(error) == f"{field} must be an address or a list of addresses, not {type(value).__name__}"
