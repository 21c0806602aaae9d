"""Between two probes of an account the reason of its trouble stays, until a message has been sent."""

from __future__ import annotations

from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, AccountState
from prx_email_django.status.figures import outbox_status
from tests.integration.face_rows import run
from tests.support import factories
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.PRX_EMAIL = {"WAKE": ""}


def why() -> str:
    text: str = outbox_status()["accounts"][0]["why"]
    return text


def let_pause_end() -> None:
    AccountState.objects.update(paused_until=factories.NOW)


def test_the_reason_of_a_pause_that_has_ended_is_shown_until_a_success() -> None:
    with SmtpServer() as server:
        owner = factories.account_on(server)
        factories.backlog(owner, 1)
        server.on("mail", reply="530 5.7.0 Authentication required")
        prx.drain()
        assert "530 5.7.0 Authentication required" in why() and why().startswith("paused")
        let_pause_end()
        assert why().startswith("may send; one message is tried first") and "530 5.7.0" in why()
        assert outbox_status()["accounts"][0]["last_trouble"] == "530 5.7.0 Authentication required"
        assert "demands a login" in run("outbox_status"), "the advice stays too"
        server.clear()
        prx.drain()
        assert why() == "may send" and outbox_status()["accounts"][0]["last_trouble"] == ""


def test_a_failed_connection_that_causes_no_pause_yet_is_shown_with_its_reason() -> None:
    owner = factories.account()  # nobody listens there
    prx.send(**factories.mail(owner))
    assert why() == "may send; the last connection failed (connection failed: 127.0.0.1:9: Connection refused)"


def test_the_reason_survives_a_persons_resume_and_goes_with_changed_credentials() -> None:
    owner = factories.account()
    for _ in range(3):
        prx.retry_outbox(prx.send(**factories.mail(owner)).outbox_id, force=True)
    prx.resume_outbox(owner)
    assert "Connection refused" in why()
    owner.port = 10
    owner.save()
    assert why() == "may send"


def test_a_success_of_another_drain_clears_the_reason_of_a_resumed_account() -> None:
    with SmtpServer() as server:
        owner = factories.account_on(server)
        AccountState.objects.create(account=owner, last_trouble="connection failed: x")
        factories.backlog(owner, 1)
        prx.drain()
        assert why() == "may send"
        assert Account.objects.get().runtime_state.last_trouble == ""


def test_a_message_says_what_may_help() -> None:
    with SmtpServer() as server:
        result = prx.send(**factories.mail(factories.account_on(server, security="starttls")))
    assert result.error_code == "tls"
    assert result.error.startswith(
        f"{server.host}:{server.port}: the server does not offer STARTTLS. Choose implicit TLS"
    )
    assert "Choose implicit TLS" in run("outbox_status", str(result.outbox_id))
