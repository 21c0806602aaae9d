"""Real servers: what other people made comes through their parsers as it left, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import OutboxMessage
from tests.integration.test_forwarded_wire import KEPT, with_forwarded
from tests.servers.daemons import wait_until
from tests.servers.messages import Server
from tests.servers.private_ca import PrivateCA
from tests.servers.test_drain import account

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]

SERVERS = [("postfix_server", "PLAIN after STARTTLS"), ("exim_server", "STARTTLS")]


@pytest.fixture(autouse=True)
def _trust(ca: PrivateCA) -> Iterator[None]:
    with override_settings(PRX_EMAIL={"TLS_CA_FILE": str(ca.file), "DEFAULT_ACCOUNT": "main"}):
        yield


@pytest.mark.parametrize(("server", "name"), SERVERS)
def test_forwarded_messages_arrive_as_they_were(request: pytest.FixtureRequest, server: str, name: str) -> None:
    found: Server = request.getfixturevalue(server)
    account("main", found.settings[name])
    run = f"content-{server}"
    wanted: dict[str, bytes] = {}
    messages = []
    for number, content in enumerate(KEPT.values()):
        message = with_forwarded(content)
        message.to = [f"ok-{run}-{number}@example.org"]
        message.extra_headers["X-Test-Message"] = f"{run}-{number}"
        messages.append(message)
        wanted[f"X-Test-Message: {run}-{number}\n"] = content
    assert OutboxEmailBackend().send_messages(messages) == len(wanted)
    prx.drain()
    assert not OutboxMessage.objects.exclude(status="sent").values_list("last_error", flat=True)
    wait_until(lambda: len(found.mailbox.of(run)) >= len(wanted), what=run, log=found.mailbox.log)
    for mark, content in wanted.items():
        (arrived,) = [message for message in found.mailbox.of(run) if mark.encode() in message.replace(b"\r\n", b"\n")]
        # A maildir has the line ends of its system.
        assert content.replace(b"\r\n", b"\n") in arrived.replace(b"\r\n", b"\n"), mark
