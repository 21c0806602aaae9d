"""An account without a login: the check finds out whether the server takes its mail, and sends none."""

from __future__ import annotations

from typing import Any

import pytest

import prx_email_django as prx
from tests.integration.test_account_check import failed
from tests.support.factories import MEMORY, account_on
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def settings_for_smtp(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp"}
    monkeypatch.setattr("prx_email_django.api.account_check.ONE_ANSWER", 1.0)


REFUSALS = [
    ("mail", "530 5.7.0 Authentication required", "demands a login"),
    ("mail", "530 5.7.57 Client not authenticated to send mail", "demands a login"),
    ("mail", "550 SMTP AUTH is required", "demands a login"),
    ("mail", "503 AUTH first", "demands a login"),
    ("mail", "550 5.1.8 <app@example.com>: Sender address rejected: Domain not found", "own address as sender"),
    ("mail", "554 5.1.0 no", "administrator allow"),
    ("rcpt", "554 5.7.1 <app@example.com>: Relay access denied", "does not pass on mail"),
    ("rcpt", "550 relay not permitted", "does not pass on mail"),
    ("rcpt", "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", "administrator allow"),
    ("rcpt", "530 5.7.1 Authentication required", "demands a login"),
]


@pytest.mark.parametrize(("stage", "reply", "hint"), REFUSALS)
def test_a_relay_that_demands_a_login_is_found_without_a_mail(stage: str, reply: str, hint: str) -> None:
    with SmtpServer() as server:
        server.on(stage, reply=reply)
        name, detail, advice = failed(prx.check_account(account_on(server)))
        assert server.lines("DATA") == []
        assert server.lines("BDAT") == []
    assert (name, detail) == ("login", f"127.0.0.1:{server.port}: {stage.upper()}: {reply}")
    assert hint in advice


def test_a_relay_that_takes_mail_gets_none() -> None:
    with SmtpServer() as server:
        report = prx.check_account(account_on(server))
        commands = [command for _, command in server.commands]
    assert report.ok
    assert report.steps[-1].detail == "without a login"
    address = "<app@example.com>"
    assert commands[1:] == [f"MAIL FROM:{address}", f"RCPT TO:{address}", "RSET", "QUIT"]
    assert server.messages == []


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("rcpt", "550 5.1.1 no such user"),
        ("rcpt", "450 4.2.0 Greylisted, see http://postgrey.example"),
        ("mail", "451 4.7.1 Please try again later"),
    ],
)
def test_an_answer_about_the_address_or_for_now_is_shown_and_is_no_failure(stage: str, reply: str) -> None:
    with SmtpServer() as server:
        server.on(stage, reply=reply)
        report = prx.check_account(account_on(server))
    assert report.ok
    assert report.steps[-1].detail == f"without a login ({stage.upper()}: {reply})"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"drop": True}, "MAIL: the server closed the connection"),
        ({"stall": True}, "MAIL: no reply in time"),
        ({"reply": "421 4.3.2 closing"}, "MAIL: 421 4.3.2 closing"),
    ],
)
def test_a_server_that_ends_at_mail_is_said(rule: dict[str, Any], words: str) -> None:
    with SmtpServer() as server:
        server.on("mail", **rule)
        name, detail, advice = failed(prx.check_account(account_on(server)))
    assert (name, detail) == ("login", f"127.0.0.1:{server.port}: {words}")
    assert advice


@pytest.mark.parametrize("rule", [{"drop": True}, {"stall": True}])
def test_a_server_that_ends_at_rset_breaks_nothing(rule: dict[str, Any]) -> None:
    with SmtpServer() as server:
        server.on("rset", **rule)
        report = prx.check_account(account_on(server))
    assert report.steps[-1].name == "login"
    assert report.ok


@pytest.mark.parametrize("email", ["", "münze@example.com", "shop@exämple.com"])
def test_an_address_that_is_derived_or_has_other_characters(email: str, settings: Any) -> None:
    settings.DEFAULT_FROM_EMAIL = "Shop <from@example.net>"
    with SmtpServer() as server:
        report = prx.check_account(account_on(server, email=email))
        mails = server.lines("MAIL")
    assert report.ok
    assert (
        mails
        == {
            "": ["MAIL FROM:<from@example.net>"],
            "münze@example.com": [],
            "shop@exämple.com": ["MAIL FROM:<shop@xn--exmple-cua.com>"],
        }[email]
    )


def test_an_account_that_logs_in_is_asked_nothing_more(settings: Any) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TLS_CA_FILE": server.ca_file}
        login = {"auth_method": "password", "user": "ann", "password": "secret"}
        assert prx.check_account(account_on(server, **login)).ok
        assert server.lines("MAIL") == []
