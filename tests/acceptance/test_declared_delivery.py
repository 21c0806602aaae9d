"""Accounts of the settings deliver mail; their secrets are read at each connection and are in no dump."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection, transaction

import prx_email_django as prx
from prx_email_django.limits.pauses import note_failure
from prx_email_django.models import Account, AccountState, OutboxMessage
from prx_email_django.models.managers import outbox_alias
from prx_email_django.rules.outcomes import Trouble
from prx_email_django.store import declared
from tests.acceptance.test_oauth_delivery import USER as OAUTH_USER
from tests.acceptance.test_oauth_delivery import outbox as oauth_outbox
from tests.acceptance.workers import Worker, environment, eventually
from tests.support.factories import at as clock_at
from tests.support.factories import in_threads
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORDS = {"url": "planted:pass/1", "field": "planted-field-2", "env": "planted-env-3", "file": "planted-file-4"}


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer(users=dict(PASSWORDS)) as running:
        yield running


def at(server: SmtpServer, name: str, password: str) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, "security": "none", "user": name, "password": password}


def mail(account: str, **fields: Any) -> dict[str, Any]:
    return {"account": account, "to": "ann@example.org", "subject": "Hello", "body_text": "Hi.", **fields}


def dump() -> bytes:
    """The whole database, by the database's own tool."""
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        with sqlite3.connect(values["NAME"]) as opened:
            return "\n".join(opened.iterdump()).encode()
    login = ["-h", values["HOST"], "-U" if connection.vendor == "postgresql" else "-u", values["USER"]]
    tool = "pg_dump" if connection.vendor == "postgresql" else "mysqldump"
    found = shutil.which(tool)
    assert found, f"{tool} belongs to the client of this database"
    passwords = {"PGPASSWORD": values["PASSWORD"], "MYSQL_PWD": values["PASSWORD"]}
    return subprocess.run(
        [found, *login, values["NAME"]],
        env={**os.environ, **passwords},
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    ).stdout


def test_secrets_of_the_settings_and_of_references_are_in_no_dump(
    server: SmtpServer, settings: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLANTED_PASSWORD", PASSWORDS["env"])
    (tmp_path / "password").write_text(PASSWORDS["file"] + "\n")
    typed = at(server, "env", "env:PLANTED_PASSWORD")
    Account.objects.create(name="typed", email="typed@example.com", **typed)
    settings.PRX_EMAIL = {
        "ACCOUNTS": {
            # STARTTLS is demanded without "+clear"; here loopback may have a password in clear text.
            "url": f"smtp+clear://url:{quote(PASSWORDS['url'], safe='')}@{server.host}:{server.port}",
            "field": at(server, "field", PASSWORDS["field"]),
            "env": at(server, "env", "env:PLANTED_PASSWORD"),
            "file": at(server, "file", f"file:{tmp_path}/password"),
        }
    }
    names = ["url", "field", "env", "file", "typed"]
    for name in names:
        prx.enqueue(**mail(name, from_email="app@example.com", tag=f"findable-{name}"))
    assert prx.drain().sent == len(names)
    assert prx.send(**mail("file", from_email="app@example.com")).status == "sent"
    content = dump()
    assert b"findable-file" in content, "this is the dump of the messages"
    for secret in PASSWORDS.values():
        assert secret.encode() not in content and quote(secret, safe="").encode() not in content


def test_a_rotated_file_is_read_at_the_next_connection(server: SmtpServer, settings: Any, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("of yesterday")
    settings.PRX_EMAIL = {"ACCOUNTS": {"file": at(server, "file", f"file:{secret}")}}
    server.users["file"] = "of yesterday"
    assert prx.send(**mail("file")).status == "sent"
    server.users["file"] = "of today"
    secret.write_text("of today\n")
    assert prx.send(**mail("file")).status == "sent"


@pytest.mark.parametrize("reference", ["env:PLANTED_ABSENT", "file:{}/absent"])
def test_an_absent_secret_pauses_the_account_and_says_which(
    reference: str, server: SmtpServer, settings: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    reference = reference.format(tmp_path)
    settings.PRX_EMAIL = {"ACCOUNTS": {"env": at(server, "env", reference)}}
    row = prx.enqueue(**mail("env"))
    prx.drain()
    account = Account.objects.get()
    assert account.pause_code == "auth" and reference in account.pause_reason and account.paused_until
    row.refresh_from_db()
    assert (row.status, row.attempts, server.connections) == ("pending", 0, 0), "no attempt is lost, nobody is asked"
    monkeypatch.setenv("PLANTED_ABSENT", PASSWORDS["env"])
    (tmp_path / "absent").write_text(PASSWORDS["env"])
    assert prx.retry_outbox(row.pk).status == "sent"
    assert Account.objects.get().pause_code == ""


def test_secrets_of_a_token_provider_may_be_references(settings: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.delenv("PLANTED_REFRESH", raising=False)
    (tmp_path / "client").write_text("planted-client\n")
    with oauth_outbox(name="template") as (server, tokens, template):
        fields = {
            name: getattr(template, name)
            for name in ("user", "host", "port", "security", "oauth_provider", "oauth_client_id", "oauth_token_url")
        }
        secrets = {"oauth_client_secret": f"file:{tmp_path}/client", "oauth_refresh_token": "env:PLANTED_REFRESH"}
        settings.PRX_EMAIL = {"ACCOUNTS": {"main": {**fields, **secrets}}}
        row = prx.enqueue(**mail("main"))
        prx.drain()
        account = Account.objects.get(name="main")
        assert account.pause_code == "token" and "env:PLANTED_REFRESH" in account.pause_reason
        assert tokens.requests == []

        monkeypatch.setenv("PLANTED_REFRESH", "refresh-0")
        assert prx.retry_outbox(row.pk).status == "sent"
        assert (tokens.requests[0]["refresh_token"], tokens.requests[0]["client_secret"]) == (
            "refresh-0",
            "planted-client",
        )
        state = AccountState.objects.get(account=account)
        assert (state.refresh_token, server.tokens[OAUTH_USER]) == ("refresh-1", "token-1")
        assert b"planted-client" not in dump()


START = """
import os, sys, time
import prx_email_django as prx
from django.db import transaction
from prx_email_django.compose import accounts
print("ready", flush=True)
while not os.path.exists({go!r}):
    time.sleep(0.001)
with transaction.atomic():
    prx.enqueue(account="shop", to="ann@example.org", subject="Hello", body_text="Hi.")
prx.drain()
"""


def test_four_processes_that_start_at_once_make_one_row(server: SmtpServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    prx_email = {"ACCOUNTS": {"shop": at(server, "field", PASSWORDS["field"])}}
    env = environment(prx_email=prx_email)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("shell", "-c", START.format(go=str(go)), env=env)) for _ in range(4)]
        assert eventually(lambda: all("ready" in worker.output for worker in workers))
        go.touch()
        assert [worker.wait() for worker in workers] == [0, 0, 0, 0], [worker.output for worker in workers]
    assert Account.objects.count() == 1
    assert OutboxMessage.objects.filter(status="sent").count() == len(server.messages) == 4


@pytest.mark.parametrize("olds", [0, 2])
def test_four_processes_start_at_once_with_an_account_that_has_changed(
    olds: int, server: SmtpServer, settings: Any, tmp_path: Path
) -> None:
    """Four new ones, and a rolling deployment: two with the old settings, two with the new; each sends by its own."""
    old = {**at(server, "field", PASSWORDS["field"]), "rate_limits": "900/minute"}
    new = {**at(server, "env", PASSWORDS["env"]), "max_connections": 8}
    settings.PRX_EMAIL = {"ACCOUNTS": {"shop": old}}
    prx.enqueue(**mail("shop"))
    assert prx.drain().sent == 1
    note_failure(Account.objects.get(), Trouble.AUTH, "535 the old password", clock=clock_at(None))
    if olds:
        prx.resume_outbox("shop")
    go = tmp_path / "go"
    with ExitStack() as stack:
        workers = []
        for number in range(4):
            env = environment(prx_email={"ACCOUNTS": {"shop": old if number < olds else new}})
            workers.append(stack.enter_context(Worker("shell", "-c", START.format(go=str(go)), env=env)))
        assert eventually(lambda: all("ready" in worker.output for worker in workers))
        go.touch()
        assert [worker.wait() for worker in workers] == [0] * 4, [worker.output for worker in workers]
    settings.PRX_EMAIL = {"ACCOUNTS": {"shop": new}}
    prx.drain()
    assert OutboxMessage.objects.filter(status="sent").count() == len(server.messages) == 5
    account = Account.objects.get()
    assert (account.pause_code, account.source) == ("", "settings")
    row = Account.objects.values("user", "max_connections", "rate_limits").get()
    assert row == {"user": "env", "max_connections": 8, "rate_limits": ""}, "the row follows"
    content = dump()
    assert not [secret for secret in PASSWORDS.values() if secret.encode() in content]


def test_a_callers_open_transaction_and_a_changed_account_wait_for_nobody(server: SmtpServer, settings: Any) -> None:
    entry = at(server, "field", PASSWORDS["field"])
    settings.PRX_EMAIL = {"ACCOUNTS": {"shop": {**entry, "port": 9}}}
    prx.enqueue(**mail("shop"))
    settings.PRX_EMAIL = {"ACCOUNTS": {"shop": entry}}
    declared._written_at.clear()
    if connection.vendor == "sqlite":  # one writer at a time, for all rows
        assert prx.drain().sent == 1
        return
    inside, done = threading.Event(), threading.Event()

    def caller() -> None:
        with transaction.atomic(using=outbox_alias()):
            prx.enqueue(**mail("shop"))
            inside.set()
            assert done.wait(PATIENCE)

    def others() -> int:
        assert inside.wait(PATIENCE)
        with connection.cursor() as cursor:
            limit = (
                "SET lock_timeout = '2s'" if connection.vendor == "postgresql" else "SET innodb_lock_wait_timeout = 2"
            )
            cursor.execute(limit)
        try:
            prx.enqueue(**mail("shop"))
            return prx.drain().sent
        finally:
            done.set()

    assert in_threads(caller, others) == [None, 2]
    prx.drain()
    assert len(server.messages) == 3
