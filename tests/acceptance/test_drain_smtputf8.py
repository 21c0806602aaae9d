"""What one recipient's address needs of the server is that recipient's matter: the others get the message."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest

import prx_email_django as prx
from prx_email_django.models import OutboxMessage, Recipient
from tests.support.factories import account_on, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

BOTH = ["bob@example.org", "B\u00f6b <b\u00f6b@example.org>"]


@pytest.mark.parametrize("pipelining", ["off", "full"])
def test_only_the_address_that_the_server_cannot_name_is_refused(pipelining: str) -> None:
    with SmtpServer(utf8=False, eight_bit=False) as server:
        owner = account_on(server, pipelining=pipelining)
        row = prx.enqueue(**mail(owner, to=BOTH))
        prx.enqueue(**mail(owner, to="cid@example.org"))
        assert prx.drain().sent == 2
        received = next(found for found in server.messages if found.recipients == ("bob@example.org",))
        assert len(server.messages) == 2
    assert OutboxMessage.objects.get(pk=row.pk).status == "sent"
    refused = Recipient.objects.get(message=row, result="refused")
    assert (refused.address, refused.code) == ("b\u00f6b@example.org", 553)
    assert "SMTPUTF8" in refused.text
    assert received.data.isascii() and "SMTPUTF8" not in received.options
    to = message_from_bytes(received.data, policy=policy.default)["To"]
    assert [address.addr_spec for address in to.addresses] == ["bob@example.org"]
    assert "b\u00f6b@example.org" in str(to), "a reader sees who else was meant"


def test_a_server_that_can_name_them_gets_both() -> None:
    with SmtpServer() as server:
        prx.enqueue(**mail(account_on(server), to=BOTH))
        assert prx.drain().sent == 1
        assert server.messages[0].recipients == ("bob@example.org", "b\u00f6b@example.org")
        assert "b\u00f6b@example.org".encode() in server.messages[0].data


def test_a_message_to_nobody_else_is_refused_and_rests() -> None:
    with SmtpServer(utf8=False) as server:
        row = prx.enqueue(**mail(account_on(server), to=BOTH[1]))
        assert prx.drain().failed == 1
        assert not server.messages
    row.refresh_from_db()
    assert (row.status, row.next_attempt_at, row.last_error_code) == ("failed", None, "recipients_refused")
    assert row.recipients.get().result == "refused"
