"""The whole way, from the queue through a drain into a real server's mailbox, and what the rows say afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from django.test import override_settings

import prx_email_django as prx
from prx_email_django.models import Account, OutboxMessage, Recipient
from prx_email_django.transports.base import ConnectionSettings
from tests.servers import letters
from tests.servers.messages import Server
from tests.servers.private_ca import PrivateCA

pytestmark = [pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _trust(ca: PrivateCA) -> Iterator[None]:
    """The private authority is this installation's."""
    with override_settings(PRX_EMAIL={"TLS_CA_FILE": str(ca.file)}):
        yield


def account(name: str, login: ConnectionSettings) -> Account:
    """The account of a login; one connection, so that all its letters go over it."""
    one: Account = Account.objects.create(
        name=name,
        email=login.user,
        host=login.host,
        port=login.port,
        security=login.security,
        auth_method=login.auth_method,
        user=login.user,
        password=login.password,
        oauth_token=login.token,
        max_connections=1,
        max_messages_per_connection=1000,
    )
    return one


def enqueue(run: str, one: Account) -> list[str]:
    """Queue a run's letters; gives the addresses that must get one."""
    outgoing_messages = letters.outgoing_messages(run)
    prx.enqueue_many(
        [
            {
                "to": outgoing.recipients,
                "subject": f"letter {outgoing.id}",
                "body_text": letters.TEXT.replace("\r\n", "\n"),
                "headers": {"X-Letter": f"{run}-{outgoing.id}"},
            }
            for outgoing in outgoing_messages
        ],
        account=one,
    )
    return letters.good_addresses(outgoing_messages)


def deliver(server: Server, ways: Iterable[str], name: str) -> None:
    """An account for each way, one drain for all, and then mailbox and rows must agree."""
    good = {}
    for number, way in enumerate(ways):
        run = f"{name}-{number}-drain"
        good[run] = enqueue(run, account(run, server.logins[way]))
    report = prx.drain()
    runs = len(good)
    assert (report.sent, report.deferred, report.failed) == ((letters.COUNT - 4) * runs, 3 * runs, runs), report
    for run, addresses in good.items():
        server.mailbox.check(addresses, run)
        check_rows(run)


def check_rows(run: str) -> None:
    """Refused ones are told, deferred ones are due again, everything else is sent."""
    rows = OutboxMessage.objects.filter(account__name=run)
    answers = Recipient.objects.filter(message__account__name=run)
    again = rows.filter(status="failed", next_attempt_at__isnull=False)
    assert answers.filter(address__startswith="refused", result="refused", code=550).count() == 3
    assert answers.filter(address__startswith="deferred", result="", code=450).count() == 3
    assert rows.get(status="failed", next_attempt_at=None).last_error_code == "recipients_refused"
    assert set(again) == set(rows.filter(recipients__address__startswith="deferred"))
    assert not rows.exclude(status="sent").exclude(status="failed").exists()


def test_postfix_and_the_rows_agree(postfix_server: Server) -> None:
    deliver(postfix_server, postfix_server.logins, "postfix")


def test_exim_and_the_rows_agree(exim_server: Server) -> None:
    deliver(exim_server, exim_server.logins, "exim")


@pytest.mark.npm
def test_npm_smtp_server_and_the_rows_agree(npm_server: Server) -> None:
    deliver(npm_server, npm_server.logins, "npm")
