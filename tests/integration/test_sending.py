"""A message is sent over a real socket, and its row ends as sent or failed."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.errors import InvalidMessage, RetryRejected
from prx_email_django.models import Account, ConnectionSlot, DeliveryAttempt, OutboxMessage
from tests.support.factories import NOW, account, account_on, backlog, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


def test_send_delivers_and_returns_the_message_id() -> None:
    with SmtpServer() as server:
        account = account_on(server)
        result = prx.send(**mail(account))
        assert result.status == "sent", result
        assert result.provider_message_id == f"<outbox-{result.outbox_id}-0@prx-email.local>"
        assert len(server.messages) == 1
        assert b"Subject: Hello" in server.messages[0].data
    row = OutboxMessage.objects.get()
    assert (row.status, row.retries, row.attempts, row.message_number) == ("sent", 0, 0, 0)
    assert DeliveryAttempt.objects.get().number == 1


def with_lone_line_feeds(data: bytes, message: OutboxMessage) -> bytes:
    """A TRANSFORM_MIME: some servers end a message at a dot between two of these."""
    return data.replace(b"\r\n", b"\n") + b"\n.\nMAIL FROM:<other@example.com>"


def test_what_the_host_makes_of_a_message_cannot_end_it(settings: Any) -> None:
    settings.PRX_EMAIL = {"TRANSFORM_MIME": f"{__name__}.with_lone_line_feeds"}
    with SmtpServer() as server:
        prx.enqueue(**mail(account_on(server)))
        assert prx.drain().sent == 1
    (received,) = server.messages
    assert received.data.endswith(b"\r\n\r\n.\r\nMAIL FROM:<other@example.com>\r\n")
    assert received.data.count(b"\n") == received.data.count(b"\r\n")


def test_a_drain_empties_a_backlog_over_several_connections() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=4)
        backlog(account, 300)
        report = prx.drain()
        assert (report.sent, report.failed, report.deferred) == (300, 0, 0), report
        assert len({tuple(received.recipients) for received in server.messages}) == 300
        assert len(server.messages) == 300
    assert OutboxMessage.objects.filter(status="sent").count() == 300


def test_simulated_failures_follow_the_backoff_table() -> None:
    with SmtpServer() as server:
        account = account_on(server)
        result = prx.send(**mail(account), now=NOW, failure_mode="network")
        assert (result.status, result.retries, result.error_code) == ("failed", 1, "network")
        assert "error_code='network'" in repr(result), "a result shows plain words"
        assert result.next_attempt_at == NOW + timedelta(seconds=10)
        with pytest.raises(RetryRejected) as refused:
            prx.retry_outbox(result.outbox_id, now=NOW)
        assert refused.value.code == "retry_not_due"
        again = prx.retry_outbox(result.outbox_id, now=NOW + timedelta(seconds=10), failure_mode="provider")
        assert again.next_attempt_at == NOW + timedelta(seconds=30)
        done = prx.retry_outbox(result.outbox_id, now=NOW, force=True)
        assert done.status == "sent"
        assert done.provider_message_id == f"<outbox-{result.outbox_id}-2@prx-email.local>"


def test_refused_and_deferred_recipients_have_different_results() -> None:
    with SmtpServer() as server:
        server.refuse("gone@example.org")
        server.defer("busy@example.org")
        account = account_on(server)
        result = prx.send(**mail(account, to=["ann@example.org", "gone@example.org", "busy@example.org"]))
        assert (result.status, result.retries) == ("failed", 1), result
        row = OutboxMessage.objects.get()
        assert {recipient.address: recipient.result for recipient in row.recipients.all()} == {
            "ann@example.org": "accepted",
            "gone@example.org": "refused",
            "busy@example.org": "",
        }


def test_a_dead_server_fails_a_send_but_in_a_drain_pauses_the_account() -> None:
    with SmtpServer() as server:
        port = server.port
    account = Account.objects.create(name="dead", host="127.0.0.1", port=port, security="none", auth_method="none")
    result = prx.send(**mail(account, from_email="a@example.com"))
    assert (result.status, result.error_code, result.retries) == ("failed", "network", 1)
    other = prx.enqueue(**mail(account, from_email="a@example.com"))
    report = prx.drain()
    assert report.sent == report.deferred == 0
    other.refresh_from_db()
    assert (other.status, other.attempts) == ("pending", 0)
    account.refresh_from_db()
    assert "connection failed" in account.pause_reason


def test_empty_fields_are_refused_before_anything_is_written() -> None:
    account = Account.objects.create(name="x", host="127.0.0.1", port=25, security="none", auth_method="none")
    for field, code in (("to", "empty_to"), ("subject", "empty_subject"), ("body_text", "empty_body")):
        with pytest.raises(InvalidMessage) as refused:
            prx.send(**mail(account, from_email="a@example.com", **{field: ""}))
        assert refused.value.code == code
    assert not OutboxMessage.objects.exists()


def test_a_send_without_a_thread_for_its_network_leaves_nothing_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at the limit of its threads: the row would wait for its lease and look like a possible copy."""
    owner = account()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patches, pytest.raises(RuntimeError):
        patches.setattr(threading.Thread, "start", no_thread)
        prx.send(**mail(owner))
    row = OutboxMessage.objects.get()
    assert (row.status, row.attempts) == ("pending", 0)
    assert not ConnectionSlot.objects.filter(token__isnull=False).exists()
