"""Accounts of the settings: their rows are made and kept equal, and their secrets are never in a row."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from django.core import checks, serializers
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

import prx_email_django as prx
from prx_email_django.apps import keep_accounts
from prx_email_django.conf.problems import problems
from prx_email_django.errors import AccountUnavailable
from prx_email_django.models import Account, AccountState, OutboxMessage
from prx_email_django.models.encrypted import is_set
from prx_email_django.models.managers import outbox_alias
from prx_email_django.store import declared as store
from prx_email_django.worker.token_keeper import connection_settings
from tests.integration import admin_rows as rows
from tests.integration.face_rows import run
from tests.support import factories
from tests.support.factories import MEMORY, NOW, account_reason

pytestmark = pytest.mark.django_db

SECRET = "pw-of-the-settings"
URL = f"smtps://shop:{SECRET}@smtp.example.com?email=shop@example.com"


def declare(settings: Any, **accounts: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": accounts}


def stored(column: str = "password", name: str = "shop") -> Any:
    """The column as the database has it."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM prx_email_django_account WHERE name = %s", [name])
        return cursor.fetchone()[0]


def ids(*, deploy: bool = False, database: bool = False) -> dict[str, str]:
    """Id -> message of the system checks."""
    if database:
        found = checks.run_checks(tags=[checks.Tags.database], databases=[outbox_alias()])
    else:
        found = checks.run_checks(tags=["prx_email"], include_deployment_checks=deploy)
    return {str(message.id).rpartition(".")[2]: f"{message.msg} {message.hint}" for message in found}


def enqueue(account: str | None = "shop") -> Any:
    return prx.enqueue(account=account, to="ann@example.org", subject="Hello", body_text="Hi.")


def by_migrate() -> None:
    keep_accounts(using=outbox_alias())


def by_drain() -> None:
    prx.drain()


def by_status() -> None:
    run("outbox_status")


@pytest.mark.parametrize("use", [by_migrate, enqueue, by_drain, by_status])
def test_whoever_uses_it_first_makes_the_row_without_its_secret(use: Any, settings: Any) -> None:
    declare(settings, shop=URL)
    use()
    account = Account.objects.get()
    assert (account.name, account.source, account.host, account.port) == ("shop", "settings", "smtp.example.com", 465)
    assert account.password == SECRET and is_set(account, "password")
    assert str(stored()).startswith("settings:") and SECRET not in str(stored())
    used = connection_settings(account, AccountState(), token="", now=NOW)
    assert (used.user, used.password) == ("shop", SECRET)
    assert SECRET not in repr(account.__dict__) + serializers.serialize("json", [account])
    assert SECRET.encode() not in pickle.dumps(account)


def test_a_row_that_is_equal_costs_no_statement(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    with CaptureQueriesContext(connection) as declared:
        enqueue()
    factories.account("typed")
    enqueue("typed")
    with CaptureQueriesContext(connection) as typed:
        enqueue("typed")
    assert len(declared) == len(typed)
    OutboxMessage.objects.all().delete()
    prx.drain()
    with CaptureQueriesContext(connection) as drained:
        prx.drain()
    Account.objects.filter(name="shop").update(source="")
    settings.PRX_EMAIL = MEMORY
    with CaptureQueriesContext(connection) as drained_without:
        prx.drain()
    assert len(drained) == len(drained_without)


def test_a_change_of_the_settings_is_in_force_at_once_and_gets_into_the_row(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    state, _ = AccountState.objects.get_or_create(account=Account.objects.get())
    AccountState.objects.update(access_token="old", refresh_token="rotated", paused_by="worker", pause_reason="x")
    declare(settings, shop=URL.replace("smtp.", "mx.") + "&rate_limits=5/minute")
    assert Account.objects.get().host == "mx.example.com", "whoever reads it has the settings"
    assert stored("host") == "smtp.example.com"
    enqueue()
    assert (stored("host"), stored("rate_limits")) == ("mx.example.com", "5/minute")
    state.refresh_from_db()
    assert (state.access_token, state.pause_reason) == ("", ""), "it belongs to the old server"


@pytest.mark.parametrize(
    ("changed", "is_forgotten"),
    [(SECRET, False), ("another", True), ("env:SHOP", True), (SECRET + "&is_active=no", False)],
)
def test_what_workers_learned_goes_with_a_changed_secret_only(changed: str, is_forgotten: bool, settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    AccountState.objects.update_or_create(account=Account.objects.get(), defaults={"access_token": "fetched"})
    password, _, more = changed.partition("&")
    declare(settings, shop=URL.replace(SECRET, password.replace(":", "%3A")) + (f"&{more}" if more else ""))
    store.keep_declared_accounts()
    assert (AccountState.objects.get().access_token == "") is is_forgotten


def test_a_new_secret_key_of_django_is_no_change_of_the_secret(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    before = stored()
    AccountState.objects.update_or_create(account=Account.objects.get(), defaults={"access_token": "fetched"})
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another key for tests only"
    store.keep_declared_accounts()
    assert stored() != before and str(stored()).startswith("settings:")
    assert AccountState.objects.get().access_token == "fetched"


def test_a_row_that_was_changed_behind_the_settings_back_is_mended(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    store._written_at.clear()
    Account.objects.update(host="evil.example.net", is_active=False)
    with transaction.atomic():
        assert enqueue().account.host == "smtp.example.com"
        assert stored("host") == "evil.example.net", "nobody must wait for this transaction"
    enqueue()
    assert stored("host") == "smtp.example.com" and stored().startswith("settings:") and stored("is_active")


def test_processes_with_different_settings_do_not_write_in_turns(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    Account.objects.update(host="new.example.com")  # as a process with newer settings does
    with CaptureQueriesContext(connection) as queries:
        enqueue()
    assert not [query for query in queries if query["sql"].startswith("UPDATE") and "account" in query["sql"]]
    assert Account.objects.get().host == "smtp.example.com"


def test_an_account_that_vanished_sends_nothing_and_is_named(settings: Any) -> None:
    declare(settings, shop=URL, other="smtp+clear://localhost:1025")
    row = enqueue()
    declare(settings, other="smtp+clear://localhost:1025")
    with pytest.raises(AccountUnavailable, match="“shop” sends nothing: the settings do not declare") as raised:
        enqueue()
    assert raised.value.code == "account_inactive"
    assert prx.drain().claimed == 0
    with pytest.raises(AccountUnavailable):
        prx.retry_outbox(row.pk)
    account = Account.objects.get(name="shop")
    assert "do not declare this account" in account_reason(account) and account.password == ""
    assert "“shop”" in ids(database=True)["W042"]
    declare(settings, shop=URL)
    assert prx.drain().sent == 1


def test_a_name_that_a_person_took_is_an_error_and_stays_the_persons(settings: Any) -> None:
    typed = factories.account("shop")
    declare(settings, shop=URL)
    assert enqueue().account == typed
    prx.drain()
    typed.refresh_from_db()
    assert (typed.source, typed.host) == ("", "127.0.0.1")
    message = ids(database=True)["E042"]
    assert "“shop”" in message and 'PRX_EMAIL["ACCOUNTS"]["shop"]' in message
    Account.objects.update(source="settings")  # what the hint says
    enqueue()
    assert stored("host") == "smtp.example.com" and "E042" not in ids(database=True)


@pytest.mark.parametrize("other", ["Shop", "shop ", "shöp"])
def test_two_names_that_mariadb_takes_for_one_never_share_an_account(other: str, settings: Any) -> None:
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": {"shop": URL, other: URL.replace("smtp.", "mx.")}}
    assert ids()["E009"].startswith(f'PRX_EMAIL["ACCOUNTS"]["{other}"]: and “shop” are one name')
    assert enqueue().account.host == "smtp.example.com"
    with pytest.raises(AccountUnavailable):
        enqueue(other)
    assert [account.host for account in Account.objects.all()] == ["smtp.example.com"]


def test_a_name_that_differs_in_case_from_a_persons_account_does_not_send_over_that(settings: Any) -> None:
    typed = factories.account("Shop")
    declare(settings, shop=URL)
    if connection.vendor != "mysql":
        assert enqueue().account.host == "smtp.example.com" and "E042" not in ids(database=True)
        return
    with pytest.raises(AccountUnavailable):
        enqueue()
    by_drain()
    assert list(Account.objects.all()) == [typed] and "“Shop”" in ids(database=True)["E042"]
    with pytest.raises(CommandError, match="takes it for the name of the account “Shop”"):
        call_command("outbox_account", "SHOP", "--preset", "local")


@pytest.mark.parametrize(
    ("entry", "path", "words"),
    [
        ({"host": "h", "port": 70_000, "user": "u", "password": SECRET}, '["port"]', "65535"),
        ({"host": "h", "port": "x", "user": "u", "password": SECRET}, '["port"]', "integer"),
        ({"host": "h", "user": "u", "pasword": SECRET}, '["pasword"]', 'Did you mean "password"?'),
        ({"host": "h", "username": "u", "password": SECRET}, '["username"]', 'Did you mean "user"?'),
        ({"host": "h", "user": "u", "password": SECRET, "use_ssl": True}, '["use_ssl"]', 'Did you mean "security"?'),
        ({"host": "h", "security": "tls", "use_tls": True}, '["use_tls"]', "Fields are"),
        ({"host": "h", "user": "u", "secret": SECRET}, '["secret"]', "Fields are"),
        ({"host": "h", "user": "u", "password": None}, '["password"]', "None"),
        ({"host": "h", "user": "u", "password": 7}, '["password"]', "text"),
        ({"host": "h", "user": "u", "password": "file:relative"}, '["password"]', "absolute path"),
        ({"host": "", "user": "u", "password": SECRET}, '["host"]', ""),
        ({"host": None, "user": "u", "password": SECRET}, '["host"]', "Is a variable of the environment not set?"),
        ({"host": "h", "user": None, "password": SECRET}, '["user"]', "must not be None"),
        ({"host": "h", "user": "u", "password": SECRET, "rate_limits": None}, '["rate_limits"]', "None"),
        ({"host": "h", "user": "u", "password": SECRET, "display_name": None}, '["display_name"]', "None"),
        ({"host": "h", "user": "u", "password": SECRET, "tls_ca_file": None}, '["tls_ca_file"]', "None"),
        ({"host": "h", "user": ["u"], "password": SECRET}, '["user"]', "must be text"),
        ({"host": "h", "user": [], "password": SECRET}, '["user"]', "must be text"),
        ({"host": "h", "user": "env:MAIL_USER", "password": SECRET}, '["user"]', "Only secrets may be references"),
        ({"host": "h", "user": "u", "password": SECRET, "port": True}, '["port"]', "integer"),
        ({"host": "h", "user": "u", "password": SECRET, "max_connections": 1.5}, '["max_connections"]', "integer"),
        ({"host": "h", "user": "u", "oauth_token": "t", "oauth_token_expires_at": 7}, '["oauth_token_expires_at"]', ""),
        (
            {"host": "h", "user": "u", "oauth_token": "t", "oauth_token_expires_at": "2026-01-01"},
            '["oauth_token_expires_at"]',
            "time zone",
        ),
        ({"host": "h", "user": "u", "password": SECRET, "auth_method": "oauth"}, '["auth_method"]', "valid choice"),
        ({"preset": "gmail", "user": "u", "password": SECRET, "name": "x"}, '["name"]', "not a field"),
        ({"preset": "gmail", "user": "u", "password": SECRET, 7: "x"}, '["7"]', "not a field"),
        ({"preset": "brevo", "user": None, "password": SECRET}, '["user"]', "empty"),
        ({"preset": "ses", "user": "u", "password": SECRET, "email": "a@x.org"}, '["region"]', "eu-central-1"),
        ({"host": "h", "user": "u"}, '["password"]', "password"),
        ({"host": "h", "user": "u", "password": SECRET, "source": ""}, '["source"]', "not a field"),
        ({"preset": "gmial", "user": "u", "password": SECRET}, '["preset"]', "unknown preset"),
        (f"smtp+clear://u:{SECRET}@relay.example.com", '["security"]', "CLEARTEXT_HOSTS"),
        (f"smtps://u:{SECRET}/@h", "", "URL"),
        (7, "", "dict of fields, or a URL"),
    ],
)
def test_a_bad_field_is_named_and_stops_no_other_account(entry: Any, path: str, words: str, settings: Any) -> None:
    declare(settings, shop=entry, other="smtp+clear://localhost:1025")
    found = ids()
    assert set(found) == {"E009"}
    assert found["E009"].startswith(f'PRX_EMAIL["ACCOUNTS"]["shop"]{path}: ')
    assert words in found["E009"] and SECRET not in found["E009"]
    with pytest.raises(AccountUnavailable) as raised:
        enqueue()
    assert f'["shop"]{path}: ' in str(raised.value) and SECRET not in str(raised.value)
    enqueue("other")
    assert prx.drain().sent == 1
    assert not Account.objects.filter(name="shop").exists()


@pytest.mark.parametrize(
    ("url", "path", "words"),
    [
        ("smtps://shop:12?hunter2=x@smtp.example.com", "", "no field of an account"),
        ("smtps://shop:p@ss?hunter2=x@smtp.example.com", "", "no field of an account"),
        ("smtps://shop@smtp.example.com?password=pa&hunter2=x", "", "no field of an account"),
        ("smtps://shop@smtp.example.com?password=pa&hunter2=x&hunter2=y", "", "name a field once"),
        ("smtps://shop:p@ss/hunter2@smtp.example.com", "", "percent-encoded"),
        ("smtps://shop:p@ss#hunter2@smtp.example.com", "", "percent-encoded"),
        ("smtps://shop:12?auth_method=hunter2@smtp.example.com", '["auth_method"]', "Values are password, xoauth2"),
        ("smtps://shop:12?max_connections=hunter2@smtp.example.com", '["max_connections"]', "not shown"),
        ("smtps://shop:12?rate_limits=5/day,%20hunter2@smtp.example.com", '["rate_limits"]', "not shown"),
        ("smtps://shop:12?preset=hunter2'%22@smtp.example.com", '["preset"]', "not shown"),
        ("smtps://shop:12?is_active=hunter2@smtp.example.com", '["is_active"]', "not shown"),
    ],
)
def test_a_password_that_is_not_percent_encoded_is_not_shown(
    url: str, path: str, words: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A ``?`` or ``&`` in it makes names and values of a query of what comes behind."""
    declare(settings, shop=url)
    found = ids()["E009"]
    assert found.startswith(f'PRX_EMAIL["ACCOUNTS"]["shop"]{path}: ')
    assert words in found
    with pytest.raises(AccountUnavailable) as raised:
        enqueue()
    prx.drain()
    assert "hunter2" not in f"{found} {raised.value} {caplog.text}"


def test_the_zone_of_an_ipv6_address_is_written_in_the_url(settings: Any) -> None:
    declare(settings, shop="smtp+clear://[::1%25lo]:1025?email=shop@example.com")
    assert ids() == {}
    enqueue()
    assert Account.objects.get().host == "::1%lo"


@pytest.mark.parametrize("preset", ["gmail", "outlook"])
def test_an_account_that_cannot_sign_in_is_not_told_to_do_so(preset: str, settings: Any) -> None:
    fields = {"preset": preset, "user": "shop@example.com", "oauth_client_id": "id"}
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": {"main": fields}}
    (error,) = [found for found in checks.run_checks(tags=["prx_email"]) if found.id == "prx_email_django.E009"]
    assert '["oauth_refresh_token"]: An account of the settings cannot sign in: set a refresh token' in error.msg
    settings.PRX_EMAIL = {**MEMORY, "ACCOUNTS": {"main": {**fields, "oauth_refresh_token": "env:TOKEN"}}}
    assert "prx_email_django.E009" not in {found.id for found in checks.run_checks(tags=["prx_email"])}


def test_a_field_that_became_bad_holds_the_row_back(settings: Any) -> None:
    declare(settings, shop=URL)
    enqueue()
    declare(settings, shop=URL + "&max_connections=0")
    assert prx.drain().claimed == 0
    assert '["max_connections"]' in account_reason(Account.objects.get())


def test_a_preset_and_every_field_may_be_declared(settings: Any) -> None:
    entry = {"preset": "gmail", "user": "shop@example.com", "password": "env:SHOP", "rate_limits": "5/minute"}
    declare(settings, shop=entry)
    enqueue()
    account = Account.objects.get()
    assert (account.host, account.port, account.email) == ("smtp.gmail.com", 465, "shop@example.com")
    assert account.password == "env:SHOP"


def test_a_reference_that_names_nothing_here_is_a_warning_of_deployment_only(
    settings: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHOP_PW", raising=False)
    declare(settings, shop={"host": "h.example.com", "user": "u", "password": "env:SHOP_PW"})
    assert ids() == {}, "an image is built without secrets"
    warning = ids(deploy=True)["W007"]
    assert 'PRX_EMAIL["ACCOUNTS"]["shop"]["password"]' in warning and "env:SHOP_PW" in warning
    monkeypatch.setenv("SHOP_PW", "x")
    assert "W007" not in ids(deploy=True)


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        ({"ACCOUNT": "main"}, "Known are"),
        ({"ACCOUNT": {}}, 'Did you mean "ACCOUNTS"?'),
        ({"DEFAULT_ACOUNT": "main"}, 'Did you mean "DEFAULT_ACCOUNT"?'),
        ({"DEFAULT_ACOUNT": "main", "DEFAULT_ACCOUNT": "main"}, "Known are"),
        ({"DEFAULT_FROM_EMAIL": "a@b.c"}, "Known are"),
        ({"BACKOFF": 5}, "Known are"),
        ({"MIN_BACKOFF": 5}, "Known are"),
        ({"TLS_KEY_FILE": "/x"}, "Known are"),
        ({"REDIRECT": []}, "Known are"),
        ({"DRAIN_BUDGET": 5}, 'Did you mean "DRAIN_TIME_BUDGET"?'),
        ({"MAX_BACKOF": 5}, 'Did you mean "MAX_BACKOFF"?'),
        ({7: 1}, "Known are"),
    ],
)
def test_a_wrong_key_never_suggests_a_wrong_thing(raw: dict[Any, Any], hint: str, settings: Any) -> None:
    settings.PRX_EMAIL = raw
    assert next(problem for problem in problems() if problem.id.endswith("E002")).hint.startswith(hint)


def test_the_admin_shows_it_and_changes_nothing_but_pauses(settings: Any) -> None:
    declare(settings, shop=URL, named={"host": "h.example.com", "user": "u", "password": "env:SHOP_PW"})
    store.keep_declared_accounts()
    account = Account.objects.get(name="shop")
    client = rows.client_for("*")
    url = f"/admin/prx_email_django/account/{account.pk}/change/"
    page = client.get(url).content.decode()
    assert SECRET not in page and "settings:" not in page
    assert "set in the settings" in page and 'name="_save"' not in page
    assert client.post(url, {"host": "evil.example.net"}).status_code == 403
    assert "pause" in page
    other = Account.objects.get(name="named")
    assert "reference: env:SHOP_PW" in client.get(url.replace(str(account.pk), str(other.pk))).content.decode()


def test_a_fixture_of_a_declared_account_is_loaded_and_holds_no_secret(settings: Any, tmp_path: Path) -> None:
    declare(settings, shop=URL)
    enqueue().delete()
    call_command("dumpdata", "prx_email_django.account", output=str(tmp_path / "a.json"), verbosity=0)
    assert SECRET not in (tmp_path / "a.json").read_text()
    AccountState.objects.all().delete()
    Account.objects.all().delete()
    call_command("loaddata", str(tmp_path / "a.json"), verbosity=0)
    assert Account.objects.get().password == SECRET
