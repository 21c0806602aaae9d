"""A message that is deleted while its result is being recorded: by a receiver of a signal, or by a person."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django import signals
from prx_email_django.models import OutboxMessage
from tests.support.factories import account_on, backlog, mail
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

REFUSED = "554 5.7.1 Your account has been blocked"


@pytest.fixture(params=["by its key", "by its instance"])
def deleting(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Delete each message once it has failed, as a host that keeps its own record of bounces does."""
    deleted: list[int] = []

    def delete(message: OutboxMessage, **_: Any) -> None:
        deleted.append(message.pk)
        if request.param == "by its key":
            OutboxMessage.objects.filter(pk=message.pk).delete()
        else:
            message.delete()  # takes the key away from the instance

    for signal in (signals.message_failed, signals.message_sent):
        signal.connect(delete)
    yield deleted
    for signal in (signals.message_failed, signals.message_sent):
        signal.disconnect(delete)


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
    assert deleting == [result.outbox_id]


def test_a_message_that_was_sent_has_no_second_result(
    server: SmtpServer, deleting: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    owner = account_on(server)
    backlog(owner, 3)
    assert prx.drain().sent == 3
    assert prx.send(**mail(owner)).outbox_id == deleting[3]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], caplog.text
