"""Arguments of callers are accepted in every usual form, or refused in words before anything is written."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.mail import EmailMessage
from django.core.mail.message import EmailAttachment
from django.utils import timezone
from django.utils.functional import SimpleLazyObject, lazystr
from django.utils.translation import gettext_lazy

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.errors import AttachmentRejected, InvalidMessage, OutboxError, ReplyRejected
from prx_email_django.models import InboundMessage, OutboxMessage, PauseRecord
from tests.support.factories import MEMORY, NOW, account, fresh, message
from tests.support.factories import mail as mail_fields

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.PRX_EMAIL = MEMORY


BASE = {"to": "ann@example.org", "subject": "s", "body_text": "b"}
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
        ({"headers": "X-A: b"}, "invalid_header"),
        ({"headers": ["X-A"]}, "invalid_header"),
        ({"headers": 5}, "invalid_header"),
    ],
)
def test_what_is_missing_or_something_else_is_refused_by_name(fields: dict[str, Any], code: str) -> None:
    error = refusal(**fields)
    assert error.code == code
    assert str(error).startswith(next(iter(fields)))


def test_a_dict_is_no_attachment_and_is_called_a_dict() -> None:
    assert str(refusal(attachment={"filename": "a.txt", "content": b"x"})).endswith("not dict")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": "a@x.org"}, "missing 2 required keyword-only arguments: 'subject' and 'body_text'"),
        ({**BASE, "sent_at": 5}, "got an unexpected keyword argument 'sent_at'"),
        ({**BASE, "account": "other"}, "got multiple values for keyword argument 'account'"),
    ],
)
def test_a_wrong_argument_in_enqueue_many_is_named_without_a_name_of_ours(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        prx.enqueue_many([fields], account=account())
    assert str(refused.value).startswith(f"enqueue_many: in a message: {words}")  # Python 3.13 adds a guess


@pytest.mark.parametrize("limit", [-1, "3", 1.5, True])
def test_the_limit_of_a_drain_is_a_number_of_messages(limit: Any) -> None:
    with pytest.raises(InvalidMessage, match="limit: must be an integer, 0 or more"):
        prx.drain(limit=limit)


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
    ("given", "words"),
    [
        ("From: a@x.org\r\nMessage-ID: <1@x.org>\r\n\r\n", "message: give bytes or .*, not str"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_message_is_not_recorded(given: Any, words: str) -> None:
    with pytest.raises(InvalidMessage, match=words) as refused:
        prx.record_inbound(account(), given)
    assert refused.value.code == "invalid_option"
    assert not InboundMessage.objects.exists()


NO_ID = "Message-ID: none that a reply could name, so the message cannot be replied to"

STRANGE = {
    b"": f"{NO_ID}; From: no address",
    b"\x00\xff\r\n\r\n": f"{NO_ID}; From: no address",
    b"From: a@x.org\r\n\r\n": NO_ID,
    b"From: a@x.org\r\nMessage-ID: <%b@x>\r\n\r\n" % (b"l" * 1000): NO_ID,
    b"Message-ID: <1@x.org>\r\n\r\n": "From: no address",
    b"From: nobody\r\nMessage-ID: <1@x.org>\r\n\r\n": "From: no address; From: 1 that is no address",
    b"From: undisclosed:;\r\nMessage-ID: <1@x.org>\r\n\r\n": "From: no address",
    b'From: "%b" <%b@x.org>\r\nMessage-ID: <1@x.org>\r\n\r\n' % (b'\\"' * 900, b"l" * 240): "",
    b"From: =?utf-7?q?+2AA-?= <a@x.org>\r\nMessage-ID: <1@x.org>\r\nSubject: =?utf-7?q?+2AA-=00?=\r\n\r\n": "",
    "From: \U0001f4a9 <a@x.org>\r\nMessage-ID: <1@x.org>\r\n\r\n".encode(): "",
    b"From: a@x.org\r\nMessage-ID: <%b@x>\r\nReferences: <%b@x>\r\n\r\n" % (b"l" * 990, b"r" * 990): "",
    b"From: a@x.org\r\nMessage-ID: <1@x.org>\r\nReply-To: %b\r\n\r\n" % (b"(" * 5000): "Reply-To: 1 that is no address",
}


@pytest.mark.parametrize("raw", STRANGE, ids=lambda raw: repr(raw[:20]))
@pytest.mark.parametrize("kind", ["bytes", "compat32", "default"])
def test_whatever_a_stranger_wrote_is_recorded(kind: str, raw: bytes) -> None:
    policies: dict[str, Any] = {"compat32": email.policy.compat32, "default": email.policy.default}
    owner = account()
    given: Any = raw if kind == "bytes" else email.message_from_bytes(raw, policy=policies[kind])
    recorded = prx.record_inbound(owner, given)
    recorded.refresh_from_db()
    recorded.full_clean()
    assert recorded.left_out == STRANGE[raw]
    assert prx.record_inbound(owner, raw) == recorded
    if recorded.message_id and recorded.sender:
        assert prx.reply(account=owner, in_reply_to_message_id=recorded.message_id, body_text="yes").status == "sent"


def test_messages_without_an_id_are_told_apart() -> None:
    owner = account()
    for day in (1, 1, 2):
        prx.record_inbound(owner, b"From: a@x.org\r\nDate: %d Jan 2026 12:00:00 +0000\r\n\r\n" % day)
    assert InboundMessage.objects.count() == 2
    with pytest.raises(ReplyRejected):
        prx.reply(account=owner, in_reply_to_message_id="", body_text="yes")


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


@pytest.mark.parametrize("function", ["enqueue", "enqueue_many", "send", "backend"])
def test_a_call_that_is_repeated_after_its_expiry_gets_the_message_of_its_key(function: str) -> None:
    """The first answer was lost: the caller must not think that nothing was queued."""
    owner = account()
    options = {"expires_at": timezone.now() + timedelta(hours=1), "idempotency_key": "order-1"}
    fields = {"account": owner, "to": "a@x.org", "subject": "s", "body_text": "b", **options}
    first = prx.enqueue(**fields)
    OutboxMessage.objects.update(expires_at=NOW)
    fields["expires_at"] = options["expires_at"] = NOW
    if function == "enqueue_many":
        given = {name: value for name, value in fields.items() if name != "account"}
        assert prx.enqueue_many([given], account=owner) == [first]
    elif function == "send":
        assert prx.send(**fields).outbox_id == first.pk
    elif function == "enqueue":
        assert prx.enqueue(**fields) == first
    else:
        email = EmailMessage("s", "b", owner.email, ["a@x.org"])
        for name, value in options.items():
            setattr(email, f"outbox_{name}", value)
        assert OutboxEmailBackend(account=owner.name).send_messages([email]) == 1
        assert email.outbox_id == first.pk
    fields["idempotency_key"] = "order-2"
    with pytest.raises(InvalidMessage, match="expires_at must be in the future"):
        prx.enqueue(**fields)
    assert OutboxMessage.objects.count() == 1


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


def test_every_text_of_a_file_and_of_metadata_may_be_lazy() -> None:
    lazy = lazystr
    made = prx.enqueue(
        account=account(),
        to="a@x.org",
        subject="s",
        body_text="b",
        metadata={"label": lazy("Größe"), "list": [lazy("a")]},
        idempotency_key=lazy("k"),  # type: ignore[arg-type]
        on_unknown=lazy("hold"),  # type: ignore[arg-type]
        attachments=[
            prx.AttachmentInput(lazy("a.txt"), lazy("text/plain"), base64=lazy("eA==")),  # type: ignore[arg-type]
            (lazy("b.txt"), lazy("y"), lazy("text/plain")),
        ],
    )
    row = fresh(made)
    assert row.metadata == {"label": "Größe", "list": ["a"]}
    assert (row.idempotency_key, row.on_unknown) == ("k", "hold")
    assert sorted(row.attachments.values_list("filename", "content_type")) == [
        ("a.txt", "text/plain"),
        ("b.txt", "text/plain"),
    ]


def test_the_backend_takes_lazy_texts_too() -> None:
    email_message = EmailMessage(lazystr("s"), lazystr("b"), "a@x.org", [lazystr("b@x.org")])
    options = {"tag": lazystr("t"), "metadata": {"label": lazystr("m")}, "idempotency_key": lazystr("k")}
    for name, value in options.items():
        setattr(email_message, f"outbox_{name}", value)
    (row,) = prx.enqueue_many([email_message], account=account())
    assert (fresh(row).tag, row.metadata, row.idempotency_key) == ("t", {"label": "m"}, "k")


# Messages of Django in enqueue_many


def test_a_message_of_django_names_its_account_in_enqueue_many() -> None:
    default, other = account("default"), account("other")
    emails = [EmailMessage("s", "b", "a@x.org", ["b@x.org"]) for _ in range(3)]
    emails[1].outbox_account = "other"  # type: ignore[attr-defined]
    emails[2].outbox_account = other  # type: ignore[attr-defined]
    rows = prx.enqueue_many(emails, account=default)
    assert [row.account.name for row in rows] == ["default", "other", "other"]
    assert [email.outbox_id for email in emails] == [row.pk for row in rows]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("outbox_acount", "other", "invalid_option"),
        ("outbox_account", "absent", "account_not_found"),
        ("outbox_account", 1.5, "invalid_option"),
        ("outbox_expires_at", NOW - timedelta(days=9000), "invalid_option"),
    ],
)
def test_a_slip_in_enqueue_many_queues_nothing(name: str, value: Any, code: str) -> None:
    email_message = EmailMessage("s", "b", "a@x.org", ["b@x.org"])
    setattr(email_message, name, value)
    with pytest.raises(OutboxError) as refused:
        prx.enqueue_many([email_message], account=account())
    assert refused.value.code == code
    assert not OutboxMessage.objects.exists()


# Headers of URIs and ids


@pytest.mark.parametrize("function", ["send", "enqueue", "enqueue_many"])
@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-help", "List-Archive", "References", "In-Reply-To"])
@pytest.mark.parametrize("value", ["<https://example.com/größe>", f"<https://example.com/{'u' * 990}>"])
@pytest.mark.django_db(transaction=True)
def test_a_structured_header_that_no_line_can_carry_is_refused(function: str, name: str, value: str) -> None:
    fields: dict[str, Any] = mail_fields(account(), headers={name: value})
    with pytest.raises(InvalidMessage, match=name) as refused:
        if function == "enqueue_many":
            prx.enqueue_many(
                [{key: given for key, given in fields.items() if key != "account"}], account=fields["account"]
            )
        else:
            getattr(prx, function)(**fields)
    assert refused.value.code == "invalid_header"
    assert not OutboxMessage.objects.exists()


@pytest.mark.parametrize("headers", [{"Subject": "a", "subject": "b"}, {"References": "<a@x>", "REFERENCES": "<b@x>"}])
def test_a_header_that_a_message_has_once_is_not_given_twice(headers: dict[str, str]) -> None:
    assert refusal(headers=headers).code == "invalid_header"


def test_a_long_uri_and_a_long_id_leave_whole() -> None:
    link, long_id = f"<https://example.com/{'u' * 900}>", f"<{'m' * 960}@x.org>"
    row = prx.enqueue(**mail_fields(account(), headers={"List-Unsubscribe": link, "References": long_id}))
    found = email.message_from_bytes(bytes(row.as_email()))
    assert (found["List-Unsubscribe"].strip(), found["References"].strip()) == (link, long_id)


@pytest.mark.parametrize("lazy", [lazystr, lambda text: SimpleLazyObject(lambda: text)])
def test_every_function_takes_a_lazy_account(lazy: Any) -> None:
    account()
    name, raw = lazy("main"), b"Message-ID: <1@x.org>\r\nFrom: a@x.org\r\n\r\n"
    assert prx.enqueue(account=name, **BASE).account.name == "main"
    assert prx.enqueue_many([{**BASE, "subject": lazy("s")}], account=name)[0].subject == "s"
    assert prx.record_inbound(name, raw).account.name == "main"
    prx.pause_outbox(name, reason=lazy("why"), by=lazy("Ann"))
    assert PauseRecord.objects.get().by == "Ann"
    prx.resume_outbox(name, by=lazy("Ann"))
    assert prx.send(account=name, **BASE).status == "sent"
    assert prx.reply(account=name, in_reply_to_message_id=lazy("<1@x.org>"), body_text=lazy("t")).status == "sent"
    assert prx.drain(accounts=name).sent + prx.drain(accounts=[name]).sent == 2
    assert prx.check_account(name, timeout=2).steps


def test_what_stands_for_an_object_is_that_object() -> None:
    def lazy(value: Any) -> Any:
        return SimpleLazyObject(lambda: value)

    main, later = account(), timezone.now() + timedelta(days=1)
    row = prx.enqueue(account=main, **BASE, priority=lazy(3), expires_at=lazy(later), is_sensitive=lazy(True))
    assert (row.priority, row.expires_at, row.is_sensitive) == (3, later, True)
    with pytest.raises(InvalidMessage, match="not bytes"):
        prx.enqueue(account=main, **{**BASE, "to": lazy(b"ann@example.org")})
    metadata = {lazystr("k"): [{lazystr("l"): lazystr("v")}]}
    assert prx.enqueue(account=main, **BASE, metadata=metadata).metadata == {"k": [{"l": "v"}]}


@pytest.mark.parametrize("given", [b"main", 1.5, True, ["main"]])
def test_what_is_no_account_is_refused_by_name(given: Any) -> None:
    calls: list[Any] = [
        lambda: prx.enqueue(account=given, **BASE),
        lambda: prx.send(account=given, **BASE),
        lambda: prx.pause_outbox(given, reason="why"),
        lambda: prx.record_inbound(given, b""),
        lambda: prx.drain(accounts=[given]),
    ]
    for call in calls:
        with pytest.raises(InvalidMessage, match="account must be an account") as refused:
            call()
        assert refused.value.code == "invalid_option"


@pytest.mark.parametrize("value", [["hold"], {}, 5, b"hold"])
def test_on_unknown_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMessage, match="on_unknown must be"):
        prx.enqueue(account=account(), **BASE, on_unknown=value)


def test_metadata_in_a_header_that_is_nested_too_deep_is_refused() -> None:
    headers = {"X-Outbox-Metadata": "[" * 16_000}
    made = EmailMessage("s", "b", "a@example.org", ["b@example.org"], headers=headers)
    account()
    with pytest.raises(InvalidMessage, match="metadata"):
        OutboxEmailBackend(account="main").send_messages([made])
