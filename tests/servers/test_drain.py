"""From the outbox through a drain into the mailbox of a real server; afterwards the rows must agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.transports.base import ConnectionSettings
from tests.servers import messages
from tests.servers.messages import Server
from tests.servers.private_ca import PrivateCA

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _settings(ca: PrivateCA) -> Iterator[None]:
    """Trust the private certificate authority; no deferred message is due again, however long the drain lasts."""
    with override_settings(PRX_EMAIL={"TLS_CA_FILE": str(ca.file), "BASE_BACKOFF": "5m"}):
        yield


def account(name: str, settings: ConnectionSettings) -> Account:
    """An account with these settings and one connection, so that all its messages go over it."""
    created: Account = Account.objects.create(
        name=name,
        email=settings.user,
        host=settings.host,
        port=settings.port,
        security=settings.security,
        auth_method=settings.auth_method,
        user=settings.user,
        password=settings.password,
        oauth_token=settings.token,
        max_connections=1,
        max_messages_per_connection=1000,
    )
    return created


def enqueue(run: str, owner: Account) -> list[str]:
    """Enqueue the messages of a run; return the addresses that must receive one."""
    outgoing_messages = messages.outgoing_messages(run)
    prx.enqueue_many(
        [
            {
                "to": outgoing.recipients,
                "subject": f"message {outgoing.id}",
                "body_text": messages.TEXT.replace("\r\n", "\n"),
                "headers": {"X-Test-Message": f"{run}-{outgoing.id}"},
            }
            for outgoing in outgoing_messages
        ],
        account=owner,
    )
    return messages.good_addresses(outgoing_messages)


def deliver(server: Server, names: Iterable[str], prefix: str) -> None:
    """Make an account for each of the server's settings, drain once, and compare mailbox and rows."""
    good = {}
    for number, name in enumerate(names):
        run = f"{prefix}-{number}-drain"
        good[run] = enqueue(run, account(run, server.settings[name]))
    report = prx.drain()
    runs = len(good)
    assert (report.sent, report.deferred, report.failed) == ((messages.COUNT - 4) * runs, 3 * runs, runs), report
    for run, addresses in good.items():
        server.mailbox.check(addresses, run)
        check_rows(run)


def check_rows(run: str) -> None:
    """Refused messages are at rest, deferred messages are due again, and all others are sent."""
    rows = OutboxMessage.objects.filter(account__name=run)
    answers = Recipient.objects.filter(message__account__name=run)
    due_again = rows.filter(status="failed", next_attempt_at__isnull=False)
    assert answers.filter(address__startswith="refused", result="refused", code=550).count() == 3
    assert answers.filter(address__startswith="deferred", result="", code=450).count() == 3
    assert rows.get(status="failed", next_attempt_at=None).last_error_code == "recipients_refused"
    assert set(due_again) == set(rows.filter(recipients__address__startswith="deferred"))
    assert not rows.exclude(status="sent").exclude(status="failed").exists()


def test_postfix_and_the_rows_agree(postfix_server: Server) -> None:
    deliver(postfix_server, postfix_server.settings, "postfix")


def test_exim_and_the_rows_agree(exim_server: Server) -> None:
    deliver(exim_server, exim_server.settings, "exim")


@pytest.mark.npm
def test_npm_smtp_server_and_the_rows_agree(npm_server: Server) -> None:
    deliver(npm_server, npm_server.settings, "npm")
