"""Passwords, tokens and client secrets of the tests appear only where they are used."""

from __future__ import annotations

import base64
import io
import logging
import pickle
import re
import sys
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from aiosmtplib.protocol import SMTPProtocol
from django.apps import apps
from django.core.management import call_command
from django.core.signals import got_request_exception
from django.db import connection
from django.http import HttpRequest
from django.test import Client
from django.views.debug import ExceptionReporter

from prx_email_django import drain, enqueue, send
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState, OutboxMessage
from tests.integration import admin_rows as rows
from tests.support.smtp_server import SmtpServer

PLANTED = {
    "password": "planted-password-7Hq",
    "oauth_token": "planted-token-9Kx",
    "oauth_client_secret": "planted-client-3Wz",
    "oauth_refresh_token": "planted-refresh-5Ty",
    "access_token": "planted-access-1Bv",
}
USER = "shop@example.com"


def leaks(text: str) -> list[str]:
    """The secrets in ``text``: plain, or in base64 at any offset."""
    text = unescape(text)
    return [name for name, secret in PLANTED.items() if any(form in text for form in _forms(secret))]


def _forms(secret: str) -> Iterator[str]:
    yield secret
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + secret.encode()).decode()
        # The first group also encodes bytes before the secret, the last group bytes after it.
        yield encoded[4:-4]


def plant(**fields: Any) -> tuple[Account, Account]:
    """An account with a password, an account with tokens, and their runtime state."""
    server = {"host": "127.0.0.1", "port": 2, "security": "none", "user": USER, "email": USER, **fields}
    oauth = {name: PLANTED[name] for name in ("oauth_token", "oauth_client_secret", "oauth_refresh_token")}
    first: Account = Account.objects.create(name="password", password=PLANTED["password"], **server)
    second: Account = Account.objects.create(name="oauth", auth_method="xoauth2", **oauth, **server)
    account_state(second)
    AccountState.objects.filter(account=second).update(access_token=PLANTED["access_token"])
    return first, second


def test_the_search_for_leaks_finds_what_it_looks_for() -> None:
    password = PLANTED["password"]
    assert leaks(f"a {password} b") == ["password"]
    for before in ("\0", f"\0{USER}\0", "user=x\x01auth=Bearer "):
        assert leaks(base64.b64encode(f"{before}{password}\x01\x01".encode()).decode()) == ["password"]


def everything_stored() -> str:
    """All rows of all tables as text, and the unpacked tasks in django-q2's queue."""
    parts = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            parts.extend(repr(row) for row in cursor.fetchall())
    if apps.is_installed("django_q"):
        from django_q.signing import SignedPackage

        for queued in apps.get_model("django_q", "OrmQ").objects.all():
            parts.append(repr(SignedPackage.loads(queued.payload)))
    return "\n".join(parts)


@pytest.mark.django_db(transaction=True)
def test_no_secret_is_in_the_database_its_dump_the_logs_or_the_task_table(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("prx_email_django").setLevel(logging.DEBUG)
    with SmtpServer(users={USER: PLANTED["password"]}, tokens={USER: "another"}) as server:
        right, wrong = plant(port=server.port)
        result = send(account=right, to="ann@example.org", subject="x", body_text="x")
        assert result.status == "sent"
        enqueue(account=wrong, to="ann@example.org", subject="x", body_text="x")
        drain()
    assert server.auth_attempts, "the secrets were never used"
    assert OutboxMessage.objects.filter(status="sent").count() == 1
    client = Client()
    client.force_login(rows.User.objects.create_superuser("root"))
    client.get(f"{rows.ACCOUNTS}{right.pk}/change/")
    out = io.StringIO()
    call_command("dumpdata", stdout=out)
    assert leaks(out.getvalue()) == []
    assert leaks(everything_stored()) == []
    assert leaks(caplog.text + "".join(repr(record.__dict__) for record in caplog.records)) == []


@pytest.mark.django_db
def test_no_secret_is_in_what_python_says_of_an_account() -> None:
    for account in plant():
        found = [repr(account), str(account), f"{account!s} {account!r}", repr(vars(account)), format(account)]
        state = account_state(account)
        found += [repr(state), repr(vars(state)), pickle.dumps(account).decode("latin-1")]
        found += [repr(list(Account.objects.values())), repr(list(AccountState.objects.values_list()))]
        assert leaks("\n".join(found)) == []


class ConnectionLost(Exception):
    """An exception that no code expects."""


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """Django's error reports of requests that failed, with the locals of all frames."""
    found: list[str] = []

    def report(request: HttpRequest, **_: object) -> None:
        reporter = ExceptionReporter(request, *sys.exc_info())
        found.extend([reporter.get_traceback_html(), reporter.get_traceback_text()])

    got_request_exception.connect(report)
    yield found
    got_request_exception.disconnect(report)


def typed(account: Account) -> dict[str, str]:
    """The form data that a browser sends with new secrets."""
    return {
        "name": account.name,
        "host": account.host,
        "port": str(account.port),
        "security": "none",
        "user": USER,
        "auth_method": account.auth_method,
        "password": PLANTED["password"],
        "oauth_client_secret": PLANTED["oauth_client_secret"],
        "oauth_refresh_token": PLANTED["oauth_refresh_token"],
        "max_connections": "3",
        "max_messages_per_connection": "100",
        "max_in_flight": "4",
        "pipelining": "auto",
    }


@pytest.mark.django_db
@pytest.mark.parametrize(
    "place",
    [
        "prx_email_django.models.account.Account.save",
        "prx_email_django.models.account.Account.clean",
        "prx_email_django.admin.forms.AccountForm._keep_unchanged",
        "prx_email_django.models.encrypted._cipher",
        "django.db.models.query.QuerySet._update",
    ],
)
def test_no_secret_is_in_the_error_report_of_a_failed_save(
    place: str, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account, _ = plant()
    client = Client(raise_request_exception=False)
    client.force_login(rows.User.objects.create_superuser("root"))

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionLost

    monkeypatch.setattr(place, broken)
    response = client.post(f"{rows.ACCOUNTS}{account.pk}/change/", typed(account))
    assert response.status_code == 500
    assert "ConnectionLost" in reports[0]
    assert leaks("\n".join(reports)) == []
    assert leaks(response.content.decode()) == []


@pytest.mark.django_db
def test_a_stored_secret_is_not_even_in_the_report_of_a_debug_server(
    reports: list[str], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.DEBUG = True
    account, _ = plant()

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionLost

    monkeypatch.setattr(Account, "save", broken)
    client = Client(raise_request_exception=False)
    client.force_login(rows.User.objects.create_superuser("root"))
    data = {**typed(account), "password": "", "oauth_client_secret": "", "oauth_refresh_token": ""}
    assert client.post(f"{rows.ACCOUNTS}{account.pk}/change/", data).status_code == 500
    assert "ConnectionLost" in reports[0]
    assert leaks("\n".join(reports)) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "XOAUTH2"])
def test_no_secret_is_in_the_error_report_of_a_login_that_broke(
    mechanism: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[Exception] = []

    write = SMTPProtocol.write

    def breaks_at_the_secret(protocol: SMTPProtocol, data: bytes) -> None:
        carries = leaks(data.decode("latin-1"))
        if not carries:
            return write(protocol, data)
        del data
        errors.append(ConnectionLost())
        raise errors[0]

    monkeypatch.setattr(SMTPProtocol, "write", breaks_at_the_secret)
    with SmtpServer(users={USER: "x"}, tokens={USER: "x"}, mechanisms=(mechanism,)) as server:
        account, other = plant(port=server.port)
        AccountState.objects.all().delete()
        used = other if mechanism == "XOAUTH2" else account
        enqueue(account=used, to="ann@example.org", subject="x", body_text="x")
        with_locals = report_of_call(drain)
    assert errors, "the login never used the secret"
    logged = [record.exc_info for record in caplog.records if record.exc_info and record.exc_info[0]]
    with_locals += [ExceptionReporter(None, *info).get_traceback_html() for info in logged]
    reporter = ExceptionReporter(None, type(errors[0]), errors[0], errors[0].__traceback__)
    with_locals += [reporter.get_traceback_html(), reporter.get_traceback_text()]
    assert leaks("\n".join(with_locals) + caplog.text) == []


def report_of_call(function: Any) -> list[str]:
    """Django's error report of the exception that the call raises, with locals; empty without an exception."""
    try:
        function()
    except ConnectionLost:
        return [ExceptionReporter(None, *sys.exc_info()).get_traceback_html()]
    return []


@pytest.mark.django_db
def test_no_page_of_the_admin_shows_a_secret() -> None:
    for account in plant():
        rows.at_rest(account)
        rows.unknown(account)
    client = rows.client_for("*")
    waiting, seen = ["/admin/"], set[str]()
    while waiting:
        url = waiting.pop()
        seen.add(url)
        response = client.get(url)
        content = b"".join(response) if response.streaming else response.content
        assert leaks(content.decode("latin-1")) == [], url
        for link in re.findall(rb'href="(/admin/[^"?]*)', content):
            target = link.decode()
            if target not in seen and target not in waiting and "logout" not in target:
                waiting.append(target)
    assert len([path for path in seen if "/prx_email_django/" in path]) > 25
