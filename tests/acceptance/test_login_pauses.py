"""What a refused login, or a file that cannot be used, means for the account and its messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, AccountState, OutboxMessage
from tests.support.factories import account_on, backlog
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

USERS = {"ann": "s3cret"}


def account(server: SmtpServer, **fields: Any) -> Account:
    return account_on(server, auth_method="password", user="ann", password="s3cret", **fields)


@pytest.mark.parametrize(
    "reply", ["454 4.7.0 Temporary authentication failure", "432 4.3.2 slow down", "421 4.7.0 too many logins"]
)
def test_throttled_login_pauses_at_once(reply: str) -> None:
    with SmtpServer(users=USERS) as server:
        server.on("auth", reply=reply)
        backlog(account(server), 3)
        prx.drain()
        state = AccountState.objects.get()
        assert (state.pause_code, server.connections, server.auth_attempts) == ("auth", 1, ["PLAIN"])
        assert "throttles logins" in state.pause_reason and reply in state.pause_reason
        assert not OutboxMessage.objects.exclude(status="pending", attempts=0).exists()


def test_throttled_second_login_leaves_the_first_connection_at_work() -> None:
    """Its login was accepted: no password is wrong, and nobody tries again in this drain."""
    with SmtpServer(users=USERS) as server:
        server.on("auth", connection=1, raw=b"235 2.7.0 welcome\r\n", accept=True)
        for connection in (2, 3, 4, 5):
            server.on("auth", connection=connection, reply="454 4.7.0 too many logins")
        backlog(account(server, max_connections=3), 60)
        report = prx.drain()
        assert report.sent == 60 and AccountState.objects.get().pause_reason == ""
        assert server.connections <= 3


def test_account_logs_in_by_the_mechanism_that_it_names() -> None:
    with SmtpServer(users=USERS, mechanisms=("PLAIN", "CRAM-MD5")) as server:
        owner = account(server, auth_mechanism="cram-md5")
        assert prx.send(account=owner, to="bob@example.org", subject="s", body_text="b").status == "sent"
        assert server.auth_attempts == ["CRAM-MD5"]


@pytest.mark.parametrize("field", ["tls_ca_file", "tls_cert_file"])
@pytest.mark.parametrize("path", ["/nowhere/file.pem", "/", "/dev/zero"])
def test_file_that_cannot_be_used_pauses_the_account_with_its_name(field: str, path: str) -> None:
    with SmtpServer(tls="starttls") as server:
        backlog(account_on(server, security="starttls", **{field: path}), 1)
        prx.drain()
        state = AccountState.objects.get()
        assert (state.pause_code, server.connections) == ("tls", 0)
        assert f"{field} cannot be used" in state.pause_reason
        assert OutboxMessage.objects.get().attempts == 0


def test_setting_that_names_no_file_pauses_the_account_with_its_name(settings: Any, tmp_path: Path) -> None:
    settings.PRX_EMAIL = {"TLS_CA_FILE": str(tmp_path / "absent.pem")}
    with SmtpServer(tls="starttls") as server:
        backlog(account_on(server, security="starttls"), 1)
        prx.drain()
        state = AccountState.objects.get()
        assert (state.pause_code, server.connections) == ("tls", 0)
        assert "TLS_CA_FILE cannot be used: No such file" in state.pause_reason
