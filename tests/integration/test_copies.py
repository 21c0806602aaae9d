"""A stored message once more: resent as a new message, or copied for a person; and the time line of what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.mail import EmailMultiAlternatives
from django.utils import timezone

from prx_email_django import AttachmentInput, FailureMode, copy_outbox, enqueue_many, resend_outbox, retry_outbox
from prx_email_django.admin.timeline import timeline
from prx_email_django.errors import AccountUnavailable, RetryRejected
from prx_email_django.models import Attachment, DeliveryAttempt, OutboxMessage
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

FILE = AttachmentInput(filename="ticket.txt", content_type="text/plain", content=b"seat 12")
BUSINESS = {"tag": "order", "metadata": {"order": 7}, "envelope_from": "bounce+7@example.com"}


def composed(**fields: Any) -> OutboxMessage:
    headers = {"List-Unsubscribe": "<https://example.com/u/7>", "X-Shop": "1"}
    mail = {"cc": "cy@example.org", "bcc": "bo@example.org", "body_html": "<p>On its way.</p>", "attachment": FILE}
    return rows.sent(rows.make_account(), **{**mail, "headers": headers, **BUSINESS, **fields})


def rendered() -> OutboxMessage:
    email = EmailMultiAlternatives(
        "Größe", "Hello.", "shop@example.com", ["ann@example.org"], cc=["cy@example.org"], bcc=["bo@example.org"]
    )
    email.extra_headers = {"Message-ID": "<own@example.com>", "List-Unsubscribe": "<https://example.com/u/7>"}
    email.attach("ticket.txt", "seat 12", "text/plain")
    (message,) = enqueue_many([email], account=rows.make_account())
    return message


@pytest.mark.parametrize("make", [composed, rendered])
def test_a_resent_mail_is_the_same_with_a_message_id_of_its_own(make: Any) -> None:
    message = make()
    before = OutboxMessage.objects.values().get(pk=message.pk)
    new = resend_outbox(message.pk)
    first, second = message.as_email(), OutboxMessage.objects.get(pk=new.pk).as_email()
    assert second["Message-ID"] == new.message_id != first["Message-ID"]
    for name in {*first.keys(), *second.keys()} - {"Message-ID", "Date", "Content-Type"}:
        assert first.get_all(name) == second.get_all(name), name
    parts = [[part.get_content() for part in mail.walk() if not part.is_multipart()] for mail in (first, second)]
    assert parts[0] == parts[1]
    addresses = ["ann@example.org", "cy@example.org", "bo@example.org"]
    assert list(new.recipients.order_by("pk").values_list("address", flat=True)) == addresses
    assert [(new.tag, new.metadata, new.envelope_from)] == [(message.tag, message.metadata, message.envelope_from)]
    assert (new.status, new.attempts) == ("pending", 0)
    assert OutboxMessage.objects.values().get(pk=message.pk) == before


@pytest.mark.parametrize("make", [composed, rendered])
def test_a_copy_is_marked_and_acts_for_nobody_else(make: Any) -> None:
    """A click on the customer's List-Unsubscribe would unsubscribe them; their tag would count the copy as mail."""
    message = make()
    new = copy_outbox(message.pk, to="duty@example.com")
    email = OutboxMessage.objects.get(pk=new.pk).as_email()
    assert email["Subject"] == f"[Copy] {message.subject}"
    assert (email["To"], email["Cc"], email["List-Unsubscribe"]) == ("duty@example.com", None, None)
    assert email["X-Outbox-Copy-Of"] == message.message_id
    assert b"seat 12" in email.as_bytes() or b"c2VhdCAxMg" in email.as_bytes()
    assert list(new.recipients.values_list("address", flat=True)) == ["duty@example.com"]
    assert (new.tag, new.metadata, new.envelope_from) == ("", {}, "")


def test_content_that_is_gone_or_secret_is_not_sent_as_an_empty_mail() -> None:
    account = rows.make_account()
    sensitive = rows.make_message(account, is_sensitive=True)
    erased = rows.sent(account)
    OutboxMessage.objects.filter(pk=erased.pk).update(body_text="", size=0)
    altered = rows.make_message(account, attachment=FILE)
    Attachment.objects.update(sha256="0" * 64)
    for message in (sensitive, erased, altered):
        with pytest.raises(RetryRejected) as refused:
            resend_outbox(message.pk)
        assert refused.value.code == "not_retriable"
    with pytest.raises(RetryRejected):
        copy_outbox(erased.pk, to="duty@example.com")
    with pytest.raises(RetryRejected, match="no message 4711"):
        resend_outbox(4711)
    assert copy_outbox(sensitive.pk, to="duty@example.com").is_sensitive
    account.is_active = False
    account.save()
    with pytest.raises(AccountUnavailable):
        resend_outbox(altered.pk)
    assert OutboxMessage.objects.count() == 4


def duty(*permissions: str, email: str = "duty@example.com") -> Any:
    client = rows.client_for("view_outboxmessage", *permissions)
    User.objects.update(email=email)
    return client


def test_a_double_click_resends_once_and_both_histories_say_so() -> None:
    message = composed()
    client = duty("change_outboxmessage")
    url = f"{rows.MESSAGES}{message.pk}/resend/"
    asked = client.post(url, {"once": "k"}, follow=True).content.decode()
    assert "All recipients will receive the mail once more." in asked
    assert '<input type="hidden" name="once" value="k">' in asked
    assert OutboxMessage.objects.count() == 1
    for _ in range(2):
        client.post(url, {"once": "k", "understood": "yes"})
    new = OutboxMessage.objects.exclude(pk=message.pk).get()
    entries = LogEntry.objects.filter(object_id=str(message.pk)).values_list("change_message", flat=True)
    assert set(entries) == {f"Resent as message {new.pk}."}
    client.post(url, {"once": "another page", "understood": "yes"})
    assert OutboxMessage.objects.count() == 3


def test_a_copy_goes_only_to_the_address_of_who_may_read_it() -> None:
    message = composed()
    url = f"{rows.MESSAGES}{message.pk}/copy/"
    page = f"{rows.MESSAGES}{message.pk}/change/"
    blind = duty("change_outboxmessage")
    assert "Send a copy to me" not in blind.get(page).content.decode()
    assert blind.post(url).status_code == 403
    reader = duty("change_outboxmessage", "view_message_content")
    assert "Send a copy to me" in reader.get(page).content.decode()
    shown = reader.post(url, {"to": "evil@example.net"}, follow=True)
    assert f"It was made from message {message.pk}." in rows.notices(shown)[0]
    new = OutboxMessage.objects.exclude(pk=message.pk).get()
    assert [recipient.address for recipient in new.recipients.all()] == ["duty@example.com"]
    User.objects.update(email="")
    assert "Send a copy to me" not in reader.get(page).content.decode()
    assert rows.notices(reader.post(url, follow=True)) == ["Your user has no email address."]


def test_the_time_line_is_in_order_and_says_what_comes_next() -> None:
    message = rows.deferred(rows.make_account())
    start = datetime(2026, 11, 1, 12, tzinfo=UTC)
    message.created_at, message.next_attempt_at = start, start + timedelta(hours=1)
    attempts = [
        DeliveryAttempt(
            message=message,
            number=number,
            started_at=start + timedelta(minutes=number),
            finished_at=start + timedelta(minutes=number, seconds=2),
            outcome="failed",
            error_code="network",
            error=f"refused {number}",
        )
        for number in (2, 1)
    ]
    events = timeline(message, attempts, now=start + timedelta(minutes=5))
    assert [event.label for event in events] == ["queued", "failed", "failed", "next attempt"]
    assert "refused 1" in events[1].text
    assert [event.after for event in events] == ["", "1 min later", "1 min later", "58 min later"]
    assert "in 55 min" in events[3].when
    assert events[1].seconds == "2.00 s"


def test_the_time_line_names_the_persons_who_acted_in_between() -> None:
    """Who retried and who dismissed it, each in its place among the attempts; a refused operation is no event."""
    account = rows.make_account()
    message, sent = rows.at_rest(account), rows.sent(account)
    client = rows.client_for("change_outboxmessage")
    client.post(f"{rows.MESSAGES}{message.pk}/retry/")
    retry_outbox(message.pk, failure_mode=FailureMode.PROVIDER_PERMANENT)
    selected = {"_selected_action": [message.pk, sent.pk], "understood": "yes", "action": "dismiss_selected"}
    client.post(rows.MESSAGES, selected)
    lines = {row: client.get(f"{rows.MESSAGES}{row.pk}/change/").context["timeline"] for row in (message, sent)}
    shown = [(event.label, event.attempt is None and str(event.text)) for event in lines[message]]
    by = "by change_outboxmessage"
    assert shown == [("queued", ""), ("Retry requested", by), ("failed", False), ("Dismissed", by)]
    assert sorted(event.label for event in lines[sent]) == ["queued", "sent"]


def test_a_claim_that_has_ended_is_not_shown_as_being_sent() -> None:
    account = rows.make_account()
    alive, lost = rows.sending(account), rows.sending(account)
    OutboxMessage.objects.filter(pk=lost.pk).update(claim_expires_at=timezone.now() - timedelta(minutes=42))
    client = rows.client_for("view_outboxmessage")
    pages = [unescape(client.get(f"{rows.MESSAGES}{row.pk}/change/").content.decode()) for row in (alive, lost)]
    assert ["worker lost?" in page for page in pages] == [False, True]
