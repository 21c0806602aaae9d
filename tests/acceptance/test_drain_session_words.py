"""What was delivered never rests as failed."""

from __future__ import annotations

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage, Recipient
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


def test_delivered_message_does_not_rest_as_failed() -> None:
    with SmtpServer() as server:
        server.refuse("trap@example.org", "550 5.7.1 too many messages in this session")
        Account.objects.create(
            name="main", email="a@example.com", host=server.host, port=server.port, security="none", auth_method="none"
        )
        prx.enqueue(account="main", to=["trap@example.org", "bob@example.org"], subject="s", body_text="b")
        prx.drain()
        row = OutboxMessage.objects.get()
        results = dict(Recipient.objects.values_list("address", "result"))
        delivered = [message.recipients for message in server.messages]
        assert not (delivered and row.next_attempt_at is None and row.status == "failed"), (
            row.last_error,
            results,
            delivered,
        )
