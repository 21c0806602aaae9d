"""Derived fields of an account are right however its row is written, in migrations and fixtures too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.migrations.loader import MigrationLoader

from prx_email_django.models import Account
from prx_email_django.models.managers import outbox_alias

pytestmark = pytest.mark.django_db

BY_PASSWORD: dict[str, Any] = {"host": "smtp.example.com", "user": "ann@example.com", "password": "hunter2"}
BY_TOKEN: dict[str, Any] = {"host": "smtp.example.com", "port": 587, "user": "relay-7", "oauth_token": "t"}
RIGHT = [("tls", "password", "ann@example.com"), ("starttls", "xoauth2", "")]


def historical() -> Any:
    """The model as a migration has it: without the methods of ``Account``."""
    state = MigrationLoader(connection).project_state(("prx_email_django", "0001_initial"))
    model = state.apps.get_model("prx_email_django", "Account")
    assert model is not Account and not hasattr(model, "paused_until")
    return model


def written(*names: str) -> list[tuple[str, str, str]]:
    """The columns in the table, read without the model."""
    columns = {}
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name, security, auth_method, email FROM {Account._meta.db_table}")
        for name, *values in cursor.fetchall():
            columns[name] = tuple(values)
    return [columns[name] for name in names]


@pytest.mark.parametrize("is_historical", [False, True])
def test_every_way_of_writing_derives_the_same(is_historical: bool, tmp_path: Path) -> None:
    model: Any = historical() if is_historical else Account
    model.objects.create(name="a1", **BY_PASSWORD)
    model.objects.create(name="a2", **BY_TOKEN)
    model(name="b1", **BY_PASSWORD).save()
    model(name="b2", **BY_TOKEN).save()
    model.objects.update_or_create(name="c1", defaults=BY_PASSWORD)
    model.objects.get_or_create(name="c2", defaults=BY_TOKEN)
    model.objects.bulk_create([model(name="d1", **BY_PASSWORD), model(name="d2", **BY_TOKEN)])
    fixture = [
        {
            "model": "prx_email_django.account",
            "fields": {"name": name, **fields, "created_at": "2026-01-01T00:00Z", "updated_at": "2026-01-01T00:00Z"},
        }
        for name, fields in (("e1", BY_PASSWORD), ("e2", BY_TOKEN))
    ]
    (tmp_path / "accounts.json").write_text(json.dumps(fixture), encoding="utf-8")
    call_command("loaddata", tmp_path / "accounts.json", verbosity=0)
    for letter in "abcde":
        assert written(f"{letter}1", f"{letter}2") == RIGHT, letter
    assert Account.objects.get(name="d1").password == "hunter2"
    assert Account.objects.get(name="e1").password == "hunter2"


def test_a_dump_loads_again(tmp_path: Path) -> None:
    Account.objects.create(name="a1", **BY_PASSWORD)
    Account.objects.create(name="a2", **BY_TOKEN)
    dump = tmp_path / "dump.json"
    call_command("dumpdata", "prx_email_django.account", output=str(dump), verbosity=0)
    assert "hunter2" not in dump.read_text(encoding="utf-8")
    Account.objects.all().delete()
    call_command("loaddata", str(dump), verbosity=0)
    assert written("a1", "a2") == RIGHT
    assert Account.objects.get(name="a1").password == "hunter2"


def test_a_fixture_names_an_account_by_its_name_and_may_be_loaded_again(tmp_path: Path) -> None:
    """As a person writes it: no numbers, no time of creation; the second time the account is changed, not doubled."""
    message = {"subject": "Hello", "body_text": "Hi.", "from_email": "ann@example.com", "message_number": None}
    for port, security in ((465, "tls"), (587, "starttls")):
        fixture = [
            {"model": "prx_email_django.account", "fields": {"name": "shop", **BY_PASSWORD, "port": port}},
            {"model": "prx_email_django.outboxmessage", "pk": 7, "fields": {**message, "account": ["shop"]}},
        ]
        (tmp_path / "shop.json").write_text(json.dumps(fixture), encoding="utf-8")
        call_command("loaddata", tmp_path / "shop.json", verbosity=0)
        account = Account.objects.get()
        assert (account.security, account.password, account.email) == (security, "hunter2", "ann@example.com")
        assert account.created_at is not None and account.updated_at is not None
    call_command("dumpdata", "prx_email_django", natural_foreign=True, output=str(tmp_path / "dump.json"), verbosity=0)
    assert '"account": ["shop"]' in (tmp_path / "dump.json").read_text()


def test_a_migration_can_use_the_presets() -> None:
    model = historical()
    made = model.objects.from_preset("gmail", name="main", user="ann@example.com", password="env:GMAIL_PASSWORD")
    assert made._state.db == outbox_alias()
    assert written("main") == [("tls", "password", "ann@example.com")]
    with pytest.raises(ValidationError) as refused:
        model.objects.from_preset("gmail", name="other", user="ann@example.com")
    assert refused.value.message_dict == {"password": ["Set the password (or a token, for OAuth)."]}


def test_a_value_that_was_given_is_not_derived() -> None:
    given = {"port": 465, "security": "starttls", "email": "shop@example.com"}
    Account.objects.create(name="a", **{**BY_PASSWORD, **given})
    assert written("a") == [("starttls", "password", "shop@example.com")]


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({**BY_PASSWORD, "oauth_token": "t"}, "account_has_password_or_token_not_both"),
        ({**BY_PASSWORD, "password": ""}, "account_has_password_or_token_not_both"),
        ({**BY_PASSWORD, "auth_method": "xoauth2"}, "account_has_password_or_token_not_both"),
        ({**BY_PASSWORD, "user": ""}, "account_login_has_a_user"),
        ({**BY_PASSWORD, "auth_method": "none"}, "account_without_login_has_no_user_or_secret"),
        ({**BY_PASSWORD, "auth_method": "magic"}, "account_authentication_is_known"),
        ({**BY_PASSWORD, "security": "ssl"}, "account_security_is_tls_starttls_or_none"),
        ({**BY_PASSWORD, "host": ""}, "account_host_is_not_empty"),
        ({**BY_PASSWORD, "port": 70_000}, "account_port_is_from_1_to_65535"),
        ({**BY_PASSWORD, "max_connections": 0}, "account_has_at_least_one_connection_and_message"),
        ({**BY_PASSWORD, "pipelining": "much"}, "account_pipelining_is_known"),
        ({**BY_TOKEN, "oauth_provider": "yahoo"}, "account_oauth_provider_is_known"),
    ],
)
def test_the_database_names_the_rule_that_a_contradiction_breaks(fields: dict[str, Any], rule: str) -> None:
    for write in (historical().objects.create, Account.objects.create):
        with pytest.raises(IntegrityError, match=rule), transaction.atomic():
            write(name="a", **fields)
    with pytest.raises(ValidationError):
        Account(name="a", **fields).full_clean()


def test_an_update_that_contradicts_the_row_is_refused_by_name() -> None:
    Account.objects.create(name="a", **BY_PASSWORD)
    with pytest.raises(IntegrityError, match="account_has_password_or_token_not_both"), transaction.atomic():
        Account.objects.filter(name="a").update(oauth_token="t")
