"""check_account against real servers: every step is named, and the one that fails says what to do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from time import monotonic
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

import prx_email_django as prx
from prx_email_django.api.account_check import check_steps
from prx_email_django.errors import AccountUnavailable, InvalidMessage, SendInsideTransaction, WrongInstance
from prx_email_django.limits.pauses import note_failure
from prx_email_django.models import Account, AccountState, ConnectionSlot, OutboxMessage, OutboxState
from prx_email_django.rules.outcomes import Trouble
from tests.integration import admin_rows as rows
from tests.support.authorization_server import AuthorizationServer
from tests.support.factories import MEMORY, account_on, at
from tests.support.patience import PATIENCE
from tests.support.slots import acquire_slot
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

WALK = ["resolve", "connect", "tls", "greeting", "extensions", "login"]
WALK_STARTTLS = ["resolve", "connect", "greeting", "tls", "extensions", "login"]


@pytest.fixture(autouse=True)
def settings_for_smtp(settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "TRANSPORT": "smtp"}


def secured(server: SmtpServer, settings: Any, **fields: Any) -> Account:
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TLS_CA_FILE": server.ca_file}
    login = {"auth_method": "password", "user": "ann", "password": "secret"}
    return account_on(server, **{**login, **fields})


def names(report: prx.AccountReport) -> list[str]:
    return [step.name for step in report.steps]


@pytest.mark.parametrize(("tls", "walk"), [("implicit", WALK), ("starttls", WALK_STARTTLS)])
def test_all_is_well(tls: str, walk: list[str], settings: Any) -> None:
    with SmtpServer(tls=tls, users={"ann": "secret"}) as server:
        report = prx.check_account(secured(server, settings).name)
    assert report.ok
    assert names(report) == walk
    details = {step.name: step.detail for step in report.steps}
    assert details["resolve"].split(", ")[0] in ("127.0.0.1", "::1")
    assert details["connect"].endswith(f":{server.port}")
    assert details["tls"].startswith("TLSv1.3, certificate by trustme")
    assert "days left" in details["tls"]
    assert "SIZE 50000000, PIPELINING" in details["extensions"]
    assert "AUTH PLAIN" in details["extensions"]
    assert details["login"] == "ann"
    assert all(step.seconds >= 0 and not step.advice for step in report.steps)
    assert "secret" not in str(report)
    assert [command.split()[0] for _, command in server.commands][-1] == "QUIT"
    assert not ConnectionSlot.objects.exclude(token=None).exists()


def failed(report: prx.AccountReport) -> tuple[str, str, str]:
    assert not report.ok
    assert [step.ok for step in report.steps] == [True] * (len(report.steps) - 1) + [False]
    last = report.steps[-1]
    return last.name, last.detail, last.advice


def test_a_wrong_password(settings: Any) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        name, detail, advice = failed(prx.check_account(secured(server, settings, password="no-such-pw")))
    assert name == "login"
    assert "535" in detail
    assert "no-such-pw" not in detail
    assert "password" in advice


def test_a_name_that_does_not_resolve() -> None:
    fields = {"host": "nowhere.invalid", "port": 465, "user": "ann", "password": "x", "email": "a@x.org"}
    name, _, advice = failed(prx.check_account(Account.objects.create(name="main", **fields)))
    assert (name, "DNS" in advice) == ("resolve", True)


def test_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fields = {"host": "127.0.0.1", "port": port, "security": "none", "auth_method": "none", "email": "a@x.org"}
    name, detail, advice = failed(prx.check_account(Account.objects.create(name="main", **fields)))
    assert (name, "refused" in detail.lower(), "firewall" in advice) == ("connect", True, True)


def test_tls_on_a_port_that_begins_in_clear_text(settings: Any) -> None:
    with SmtpServer(tls="starttls", users={"ann": "secret"}) as server:
        name, _, advice = failed(prx.check_account(secured(server, settings, security="tls")))
    assert (name, "STARTTLS" in advice) == ("tls", True)


def test_starttls_on_a_port_that_begins_with_tls(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prx_email_django.api.account_check.ONE_ANSWER", 1.0)
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        name, detail, advice = failed(prx.check_account(secured(server, settings, security="starttls")))
    assert name == "greeting"
    assert detail == f"no greeting from localhost:{server.port} in 1 s; that port may begin with TLS"
    assert "choose implicit TLS" in advice


def test_no_starttls_is_offered(settings: Any) -> None:
    with SmtpServer() as server:
        account = account_on(server)
        Account.objects.filter(pk=account.pk).update(security="starttls")
        name, detail, advice = failed(prx.check_account(account.pk))
    assert (name, detail) == ("tls", f"{server.host}:{server.port}: the server does not offer STARTTLS")
    assert "465" in advice


def test_a_certificate_of_an_unknown_authority_or_for_another_name(settings: Any) -> None:
    with SmtpServer(tls="implicit") as server:
        name, _, advice = failed(prx.check_account(account_on(server)))
        assert (name, "TLS_CA_FILE" in advice) == ("tls", True)
    with SmtpServer(tls="implicit", certificate_for=("other.example",)) as server:
        name, _, advice = failed(prx.check_account(secured(server, settings, name="second")))
        assert (name, "contains" in advice) == ("tls", True)


def test_a_server_that_says_nothing_is_left_in_time(settings: Any) -> None:
    with SmtpServer() as server:
        server.on("greeting", stall=True)
        report = prx.check_account(account_on(server), timeout=1.5)
    assert failed(report)[0] == "greeting"
    assert sum(step.seconds for step in report.steps) < 10


@pytest.mark.parametrize("by", ["worker", "person"])
def test_a_pause_is_ignored_and_a_success_ends_only_that_of_a_worker(by: str) -> None:
    with SmtpServer() as server:
        account = account_on(server)
        if by == "worker":
            note_failure(account, Trouble.AUTH, "535 no", clock=at(None))
        else:
            prx.pause_outbox(account, reason="holidays")
        assert prx.check_account(account).ok
    account.refresh_from_db()
    assert bool(account.pause_reason) == (by == "person")


def test_a_connection_that_is_in_use_is_not_exceeded() -> None:
    with SmtpServer() as server:
        account = account_on(server, max_connections=1)
        assert acquire_slot(account, noted=set(), clock=at(None))
        # A machine that stands still for a minute between the two lines would let the lease end, rightly.
        ConnectionSlot.objects.update(expires_at=timezone.now() + timedelta(days=1))
        name, detail, _ = failed(prx.check_account(account))
    assert (name, detail) == ("connect", "its 1 connection is in use")
    assert server.connections == 0


@pytest.mark.parametrize("paused", [False, True])
def test_a_message_is_sent_and_followed(paused: bool) -> None:
    with SmtpServer() as server:
        account = account_on(server)
        if paused:
            prx.pause_outbox(account, reason="holidays")
        report = prx.check_account(account, send_to="me@example.org")
        assert report.ok
        assert names(report)[-1] == "message"
        assert "queued" in report.steps[-1].detail or report.steps[-1].detail.startswith("2")
        assert [message.recipients for message in server.messages] == [("me@example.org",)]
        server.refuse("no@example.org")
        name, detail, _ = failed(prx.check_account(account, send_to="no@example.org"))
    assert (name, detail[:3]) == ("message", "550")
    assert OutboxMessage.objects.filter(tag="account-check").count() == 2


@pytest.mark.parametrize("stage", ["rcpt", "final"])
def test_a_message_that_is_not_answered_does_not_outlast_the_timeout(stage: str) -> None:
    with SmtpServer() as server:
        server.on(stage, stall=True, nth=1 if stage == "final" else 2)  # the first RCPT is that of the check
        begun = monotonic()
        report = prx.check_account(account_on(server), send_to="me@example.org", timeout=1.5)
        assert monotonic() - begun < 10
    name, detail, advice = failed(report)
    assert name == "message"
    assert advice not in detail or not advice
    message = OutboxMessage.objects.get()
    assert (message.status, message.may_have_been_delivered) == ("failed", stage == "final")


def test_what_send_would_refuse_is_refused(settings: Any) -> None:
    with SmtpServer() as server:
        account = account_on(server)
        with transaction.atomic(), pytest.raises(SendInsideTransaction):
            prx.check_account(account)
        with pytest.raises(AccountUnavailable):
            prx.check_account("nobody")
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "INSTANCE": "copy"}
        OutboxState.objects.update_or_create(pk=1, defaults={"instance": "original"})
        with pytest.raises(WrongInstance):
            prx.check_account(account)
    assert server.connections == 0


def test_an_access_token_that_is_refused_and_one_that_is_missing(settings: Any) -> None:
    with SmtpServer(tls="implicit", tokens={"ann": "good"}) as server:
        login = {"auth_method": "xoauth2", "user": "ann", "password": ""}
        good = secured(server, settings, **login, oauth_token="good")
        assert names(prx.check_account(good))[-2:] == ["token", "login"]
        assert (
            failed(prx.check_account(secured(server, settings, name="bad", **login, oauth_token="bad")))[0] == "login"
        )
        grant = {"oauth_provider": "google", "oauth_client_id": "x", "oauth_client_secret": "y"}
        none = secured(server, settings, name="none", **login, **grant, oauth_refresh_token="z")
        Account.objects.filter(pk=none.pk).update(oauth_token_url="http://127.0.0.1:9/token")
        name, detail, _ = failed(prx.check_account(none))
    assert (name, detail.startswith("no access token")) == ("token", True)


def test_steps_come_while_the_token_server_is_silent_and_a_refused_token_is_replaced_once(settings: Any) -> None:
    login = {"auth_method": "xoauth2", "user": "shop@example.com", "password": ""}
    with AuthorizationServer() as provider, SmtpServer(tls="implicit", tokens={login["user"]: "unknown"}) as server:
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "OAUTH_SERVERS": provider.settings}
        provider.refresh_tokens.add("good")
        answer = threading.Event()
        provider.issued = lambda token: answer.wait(PATIENCE) and server.tokens.update({login["user"]: token})
        account = secured(server, settings, **{**provider.fields(), **login}, oauth_refresh_token="good")
        steps = check_steps(account)
        assert [next(steps).name for _ in range(5)] == WALK[:5]
        answer.set()
        assert [(step.name, step.ok) for step in steps] == [("token", True), ("login", True)]
        server.tokens[login["user"]] = "revoked"
        report = prx.check_account(account)
    assert report.ok, report
    assert names(report) == [*WALK[:5], "token", "login"]
    assert [form["grant_type"] for form in provider.forms] == ["refresh_token"] * 2


@contextmanager
def two_accounts() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        account_on(server, "good")
        account_on(server, "off", is_active=False)
        yield server


def test_the_command_prints_steps_and_says_by_its_exit_code_whether_all_is_well() -> None:
    with two_accounts() as server:
        out = StringIO()
        call_command("outbox_check", stdout=out)
        assert "good\n  ok     resolve" in out.getvalue()
        assert "off" not in out.getvalue()
        out = StringIO()
        call_command("outbox_check", "good", json=True, send_to="me@example.org", stdout=out)
        report = json.loads(out.getvalue())["good"]
        assert (report["ok"], report["steps"][-1]["name"]) == (True, "message")
        assert len(server.messages) == 1
        Account.objects.filter(name="good").update(host="nowhere.invalid")
        out = StringIO()
        with pytest.raises(SystemExit) as exit_:
            call_command("outbox_check", stdout=out)
    assert exit_.value.code == 1
    assert "failed resolve" in out.getvalue()
    assert "check the spelling of the host name" in out.getvalue()


# The button


@contextmanager
def checked_over(server: SmtpServer, **post: str) -> Iterator[str]:
    account = account_on(server)
    client = rows.client_for("view_account", "change_account")
    response = client.post(f"{rows.ACCOUNTS}{account.pk}/check/", post)
    assert response.streaming
    yield b"".join(response.streaming_content).decode()


@pytest.mark.parametrize("atomic", [False, True])
def test_the_button_shows_the_steps_outside_of_any_transaction(atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic)
    with SmtpServer() as server, checked_over(server, send_to="me@example.org") as page:
        assert page.index(">resolve<") < page.index(">extensions<") < page.index(">message<")
        assert "All is well." in page
        assert len(server.messages) == 1


def test_the_button_says_what_to_do_about_the_step_that_fails() -> None:
    with SmtpServer() as server:
        server.on("greeting", reply="554 5.7.1 go away <script>alert(1)</script>")
        with checked_over(server) as page:
            assert "This account cannot send as it is." in page
            assert "<script>alert" not in page


def test_a_database_that_breaks_in_mid_page_is_said_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    """The page has begun, so Django's error page could not replace it: it would end in the middle without a word."""
    table, away = AccountState._meta.db_table, "outbox_elsewhere"
    with SmtpServer() as server:
        account = account_on(server)
        client = rows.client_for("view_account", "change_account")
        chunks = iter(client.post(f"{rows.ACCOUNTS}{account.pk}/check/").streaming_content)
        page = next(chunks).decode() + next(chunks).decode()
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME TO {away}")
        try:
            page += b"".join(chunks).decode()
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f"ALTER TABLE {away} RENAME TO {table}")
    assert page.index(">login<") < page.index(">broken off<") < page.index("This account cannot send as it is.")
    assert "The database could not be used." in page
    assert page.rstrip().endswith("</html>")
    assert "the check of an account broke off" in caplog.text


def test_only_a_person_who_may_change_accounts_checks_them_and_no_link_does() -> None:
    with SmtpServer() as server:
        account = account_on(server)
        url = f"{rows.ACCOUNTS}{account.pk}/check/"
        assert rows.client_for("view_account").post(url).status_code == 403
        client = rows.client_for("view_account", "change_account")
        assert client.get(url).status_code == 403
        assert client.get(f"{url}?go=forged").status_code == 403
    assert server.connections == 0


def test_save_and_check_is_one_click_and_its_link_is_for_this_person_only() -> None:
    with SmtpServer() as server:
        account = account_on(server)
        client = rows.client_for("*")
        page = client.get(f"{rows.ACCOUNTS}{account.pk}/change/")
        form = page.context["adminform"].form
        data = {name: value for name, value in form.initial.items() if value is not None}
        response = client.post(f"{rows.ACCOUNTS}{account.pk}/change/", {**data, "display_name": "New", "_check": "1"})
        assert response.status_code == 302
        other = rows.client_for("view_account", "change_account")
        assert other.get(response["Location"]).status_code == 403
        assert "All is well." in b"".join(client.get(response["Location"]).streaming_content).decode()
    account.refresh_from_db()
    assert account.display_name == "New"


def test_a_send_that_fails_on_the_connection_says_where_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fields = {"host": "127.0.0.1", "port": port, "security": "none", "auth_method": "none", "email": "a@x.org"}
    Account.objects.create(name="main", **fields)
    result = prx.send(account="main", to="b@x.org", subject="s", body_text="t")
    assert (result.status, result.error_code) == ("failed", "network")
    assert f"127.0.0.1:{port}" in result.error
    assert "firewall" in result.error


@pytest.mark.parametrize(
    ("stage", "reply", "words", "hint"),
    [
        ("greeting", "554 5.7.1 your address is blocked", "greeting: 554 5.7.1", "refuses this machine"),
        ("auth", "535 5.7.8 no", "login: 535 5.7.8", "Enter the user"),
        ("auth", "454 4.7.0 later", "the server throttles logins: 454 4.7.0", "slows down logins"),
    ],
)
def test_a_send_that_the_server_refuses_before_mail_names_host_port_and_phase_with_advice(
    stage: str, reply: str, words: str, hint: str, settings: Any
) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        server.on(stage, reply=reply)
        result = prx.send(account=secured(server, settings), to="b@x.org", subject="s", body_text="t")
    assert result.error.startswith(f"localhost:{server.port}: {words}"), result.error
    assert hint in result.error
    assert ".. " not in result.error


@pytest.mark.parametrize("method", ["password", "token"])
def test_a_reference_that_names_nothing_is_said_by_its_name(method: str, settings: Any) -> None:
    with SmtpServer(tls="implicit", users={"ann": "secret"}) as server:
        secret = {"password": "env:NO_SUCH_VARIABLE"}
        if method == "token":
            secret = {"password": "", "auth_method": "xoauth2", "oauth_token": "env:NO_SUCH_VARIABLE"}
        name, detail, _ = failed(prx.check_account(secured(server, settings, **secret)))
    assert (name, "NO_SUCH_VARIABLE" in detail) == ("login" if method == "password" else "token", True)


def test_what_is_no_address_is_refused_before_anything_is_tried() -> None:
    with SmtpServer() as server:
        account = account_on(server)
        with pytest.raises(InvalidMessage):
            prx.check_account(account, send_to="nobody")
        client = rows.client_for("view_account", "change_account")
        response = client.post(f"{rows.ACCOUNTS}{account.pk}/check/", {"send_to": "nobody"}, follow=True)
        assert rows.notices(response)[0].startswith("send_to: not a valid address")
    assert server.connections == 0
