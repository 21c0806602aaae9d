"""A message that is deleted while its result is being recorded: by a receiver of a signal, or by a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django import signals
from prx_email_django.models import OutboxMessage
from tests.support.factories import account_on, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

REFUSED = "554 5.7.1 Your account has been blocked"


@pytest.fixture
def deleting() -> Iterator[list[int]]:
    """Delete each message once it has failed, as a host that keeps its own record of bounces does."""
    deleted: list[int] = []

    def delete(message: OutboxMessage, **_: Any) -> None:
        deleted.append(message.pk)
        OutboxMessage.objects.filter(pk=message.pk).delete()

    signals.message_failed.connect(delete)
    yield deleted
    signals.message_failed.disconnect(delete)


def test_a_drain_goes_on(server: SmtpServer, deleting: list[int]) -> None:
    owner = account_on(server, max_connections=1)
    server.on("final", reply=REFUSED)
    prx.enqueue(**mail(owner))
    report = prx.drain()
    assert (report.claimed, report.failed) == (1, 1)
    assert len(deleting) == 1


def test_send_returns_its_result(server: SmtpServer, deleting: list[int]) -> None:
    owner = account_on(server)
    server.on("final", reply=REFUSED)
    result = prx.send(**mail(owner))
    assert (result.status, result.error_code) == ("failed", "provider")
    assert len(deleting) == 1
