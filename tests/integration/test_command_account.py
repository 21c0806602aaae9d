"""``outbox_account``: the same result however often it runs, and never a secret in its output."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from prx_email_django.models import Account, AccountState
from prx_email_django.store.accounts import AccountChange, put_account
from tests.integration.face_rows import run
from tests.support.patience import PATIENCE
from tests.support.threads import CallInThread

pytestmark = pytest.mark.django_db

GMAIL = ("main", "--preset", "gmail", "--set", "user=ann@example.com", "--secret", "env:MAIL_PASSWORD")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "hunter2")


def account() -> Account:
    return Account.objects.get(name="main")


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_it_makes_an_account_once_and_then_has_nothing_to_change() -> None:
    assert "would be created" in run("outbox_account", *GMAIL, "--dry-run")
    assert not Account.objects.exists()
    first = run("outbox_account", *GMAIL)
    assert first.startswith("account “main”: created\n")
    assert "password: env:MAIL_PASSWORD" in first and "hunter2" not in first
    made = account()
    assert (made.host, made.email, made.password) == ("smtp.gmail.com", "ann@example.com", "env:MAIL_PASSWORD")
    with CaptureQueriesContext(connection) as queries:
        assert run("outbox_account", *GMAIL) == "account “main”: nothing to change"
    assert [query["sql"] for query in queries if query["sql"].startswith(("INSERT", "UPDATE"))] == []
    assert account().updated_at == made.updated_at


def test_it_changes_what_is_named_and_what_follows_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run("outbox_account", *GMAIL, "--set", "display_name=The shop")
    assert run("outbox_account", "main", "--set", "port=587", "--set", "is_active=false", "--dry-run") == (
        "account “main”: would be changed\n  is_active: True → False\n  port: 465 → 587\n  security: tls → starttls"
    )
    assert account().port == 465
    run("outbox_account", "main", "--set", "port=587")
    run("outbox_account", "main", "--set", "user=bob@example.com")
    changed = account()
    assert (changed.security, changed.email, changed.display_name) == ("starttls", "bob@example.com", "The shop")
    given(monkeypatch, "ya29.token\n")
    assert "oauth_token: set, not shown" in run("outbox_account", "main", "--secret", "oauth_token=-")
    changed = account()
    assert (changed.auth_method, changed.password, changed.oauth_token) == ("xoauth2", "", "ya29.token")
    run("outbox_account", "main", "--url", "smtp+clear://localhost:1025")
    changed = account()
    assert (changed.auth_method, changed.user, changed.oauth_token, changed.security) == ("none", "", "", "none")


def test_a_chosen_security_outlives_another_port() -> None:
    """A catcher on another port speaks clear text as well: STARTTLS would follow from the new port."""
    run("outbox_account", "main", "--preset", "local")
    assert run("outbox_account", "main", "--set", "port=1026") == "account “main”: changed\n  port: 1025 → 1026"
    assert account().security == "none"


def test_a_url_describes_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "env:not a reference")
    url = "smtps://ann%40example.com@smtp.example.com?email=shop@example.com&rate_limits=30/minute"
    output = run("outbox_account", "main", "--url", url, "--secret", "-")
    assert "not a reference" not in output
    made = account()
    assert (made.user, made.email, made.rate_limits) == ("ann@example.com", "shop@example.com", "30/minute")
    assert made.password == "\\env:not a reference", "what is typed is the secret itself"


def test_new_credentials_end_a_pause_that_a_worker_set(monkeypatch: pytest.MonkeyPatch) -> None:
    run("outbox_account", *GMAIL)
    AccountState.objects.update_or_create(
        account=account(), defaults={"pause_reason": "535 no", "pause_code": "auth", "paused_by": "worker"}
    )
    assert account().pause_reason
    run("outbox_account", *GMAIL)
    assert account().pause_reason, "nothing has changed"
    given(monkeypatch, "another")
    run("outbox_account", "main", "--secret", "-")
    assert not account().pause_reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "password=hunter2"), "--secret password=env:NAME"),
        (("--set", "oauth_refresh_token=hunter2"), "--secret oauth_refresh_token=env:NAME"),
        (("--secret", "hunter2"), "must be env:NAME"),
        (("--secret", "oauth_token=hunter2"), "--secret for oauth_token must be"),
        (("--secret", "hunter2=env:A"), "--secret sets one of password"),
        (("--secret", "env:A", "--secret", "password=env:B"), "names password twice"),
        (("--secret", "-", "--secret", "oauth_token=-"), "Only one --secret"),
        (("--secret", "-"), "holds no secret"),
        (("--set", "hostt=x"), "Did you mean host?"),
        (("--set", "username=x"), "Did you mean user?"),
        (("--url", "smtps://h.example?use_tls=true"), "Did you mean security?"),
        (("--set", "id=7"), "not a field that it can set"),
        (("--set", "hunter2"), "--set field=value"),
        (("--preset", "hotmail"), "choose one of local"),
        (("--preset", "ses", "--set", "user=AKIA"), "region: "),
        (("--url", "smtps://ann:hunter2@host:x"), "--url must be a URL"),
        (("--url", "smtps://ann:hunter2@smtp.example.com?colour=red"), "--url has a query that names what is no field"),
        (("--url", "smtps://a@h.example?oauth_client_secret=hunter2"), "--url cannot set oauth_client_secret"),
        (("--url", "smtps://a@h.example?oauth_refresh_token=hunter2"), "Use --secret oauth_refresh_token=env:NAME"),
        (("--url", "smtp+clear://mailpit:1025"), "security: clear text is not allowed to this host"),
        (("--preset", "gmail", "--set", "user=a@x.org"), "password: Set the password"),
        (("--preset", "gmail", "--set", "user=a@x.org", "--secret", "file:relative"), "password: The reference"),
        (("--preset", "gmail", "--set", "user=a@x.org", "--secret", "env:A", "--set", "port=many"), "port: "),
    ],
)
def test_what_is_refused_is_named_and_nothing_is_written(
    arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "")
    with pytest.raises(CommandError) as refused:
        run("outbox_account", "main", *arguments)
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert not Account.objects.exists()


@pytest.mark.parametrize(
    "field",
    [
        "max_connections",
        "max_in_flight",
        "pipelining",
        "oauth_token_expires_at",
        "is_active",
        "rate_limits",
        "auth_method",
        "auth_mechanism",
        "oauth_provider",
    ],
)
def test_a_piece_of_a_password_that_a_url_has_for_a_value_is_not_shown(field: str) -> None:
    """The password ``hunt?pipelining=er2`` was not percent-encoded."""
    with pytest.raises(CommandError) as refused:
        run("outbox_account", "main", "--url", f"smtps://ann:hunt@smtp.example.com?{field}=er2-swordfish")
    assert f"{field}: has a value that it cannot have" in str(refused.value)
    assert not {"hunt", "er2", "swordfish"} & set(re.findall(r"\w+", str(refused.value)))


def test_an_account_of_the_settings_is_changed_there(settings: Any) -> None:
    settings.PRX_EMAIL = {"ACCOUNTS": {"main": {"preset": "local"}}}
    with pytest.raises(CommandError, match=r'change PRX_EMAIL\["ACCOUNTS"\]\["main"\]'):
        run("outbox_account", *GMAIL)


CLIENT = ("--set", "user=a@example.com", "--set", "oauth_client_id=id")


@pytest.mark.parametrize(
    ("arguments", "waits"),
    [
        (("--preset", "outlook", *CLIENT), True),
        (("--preset", "outlook", *CLIENT, "--secret", "oauth_client_secret=env:MAIL_PASSWORD"), True),
        (("--preset", "gmail", *CLIENT), True),
        (("--preset", "gmail", *CLIENT, "--set", "is_active=false"), True),
        (("--preset", "gmail", *CLIENT, "--secret", "oauth_refresh_token=env:MAIL_PASSWORD"), False),
        (("--preset", "gmail", *CLIENT, "--secret", "env:MAIL_PASSWORD"), False),
        (("--preset", "gmail", *CLIENT, "--secret", "oauth_token=env:MAIL_PASSWORD"), False),
        (("--preset", "outlook", *CLIENT, "--set", "oauth_tenant=t", "--secret", "oauth_client_secret=env:X"), False),
    ],
)
def test_an_account_that_lacks_only_its_sign_in_waits_for_it_inactive(arguments: Any, waits: bool) -> None:
    told = "manage.py outbox_authorize main"
    assert "would be created" in run("outbox_account", "main", *arguments, "--dry-run")
    assert (told in run("outbox_account", "main", *arguments)) == waits
    assert account().is_active != waits
    again = run("outbox_account", "main", *arguments)
    assert again.startswith("account “main”: nothing to change")
    assert (told in again) == waits


@pytest.mark.parametrize("arguments", [(), ("--set", "is_active=true")])
def test_an_account_that_sends_is_not_switched_off_for_a_sign_in(arguments: tuple[str, ...]) -> None:
    if not arguments:
        run("outbox_account", *GMAIL)
    with pytest.raises(CommandError, match="oauth_refresh_token: Google fetches tokens by a refresh token only"):
        run("outbox_account", "main", "--preset", "gmail", *CLIENT, *arguments)
    assert list(Account.objects.values_list("is_active", flat=True)) == ([] if arguments else [True])


@pytest.mark.parametrize(("password", "warned"), [("hunter2", True), ("env%3AMAIL_PASSWORD", False)])
def test_a_password_that_others_could_see_is_accepted_with_a_warning(password: str, warned: bool) -> None:
    error = io.StringIO()
    url = f"smtps://ann:{password}@smtp.example.com"
    call_command("outbox_account", "main", "--url", url, stdout=io.StringIO(), stderr=error)
    assert ("visible to others" in error.getvalue(), "hunter2" in error.getvalue()) == (warned, False)


def test_an_absent_reference_is_stored_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = io.StringIO()
    arguments = (*GMAIL[:-1], f"file:{tmp_path}/absent")
    call_command("outbox_account", *arguments, stdout=io.StringIO(), stderr=error)
    assert "absent" in error.getvalue()
    assert account().password == f"file:{tmp_path}/absent"


@pytest.fixture
def started_together() -> Iterator[Barrier]:
    yield Barrier(4, timeout=PATIENCE)


@pytest.mark.django_db(transaction=True)
def test_containers_that_start_together_make_one_account(started_together: Barrier) -> None:
    fields = {"host": "smtp.example.com", "user": "ann@example.com", "password": "hunter2"}

    def start() -> AccountChange:
        started_together.wait()
        return put_account("main", fields)

    for _ in range(5):
        changes = [call.outcome() for call in [CallInThread(start) for _ in range(4)]]
        assert sum(change.created for change in changes) == 1
        assert all(change.created or not change.changed for change in changes)
        Account.objects.get(name="main").delete()
