"""Haraka does not bear an envelope behind a body: the account learns it once, and no message loses an attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, OutboxMessage
from tests.servers.conftest import started
from tests.servers.haraka import Haraka, haraka

pytestmark = [pytest.mark.servers, pytest.mark.npm, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def server() -> Iterator[Haraka]:
    with ExitStack() as stack:
        yield started(stack, haraka())


def test_haraka_gets_each_message_once_and_costs_none_an_attempt(
    server: Haraka, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Account.objects.create(
        name="haraka", email="a@example.org", host="127.0.0.1", port=server.port, security="none", auth_method="none"
    )
    addresses = [f"r{number}@example.org" for number in range(200)]
    prx.enqueue_many([{"to": address, "subject": "s", "body_text": "b"} for address in addresses], account=owner)
    report = prx.drain()
    assert (report.sent, report.deferred, report.failed) == (200, 0, 0)
    assert sorted(server.recipients.read_text().split()) == sorted(addresses)
    assert not OutboxMessage.objects.exclude(attempts=0, retries=0).exists()
    assert AccountState.objects.get().envelope_until is not None
    assert caplog.text.count("field pipelining to envelope") == 1
