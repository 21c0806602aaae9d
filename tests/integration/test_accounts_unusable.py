"""Accounts that were written past the validation: they pause with a reason, and no message is lost or tried in vain."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import prx_email_django as prx
from prx_email_django.models import Account, DeliveryAttempt
from tests.support import factories
from tests.support.factories import account_reason

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORD: dict[str, Any] = {"user": "u", "password": "p", "auth_method": "password"}
TOKEN: dict[str, Any] = {"user": "u", "auth_method": "xoauth2"}
#: The field at fault, and the columns that make the account unusable.
UNUSABLE: list[tuple[str, dict[str, Any]]] = [
    ("host", {"host": "[::1]"}),
    ("host", {"host": "a..b"}),
    ("host", {"host": "127.1"}),
    ("host", {"host": "http://127.0.0.1/"}),
    ("user", {**PASSWORD, "user": "u\n"}),
    ("user", {**PASSWORD, "user": "u\x01"}),
    ("password", {**PASSWORD, "password": "p\x00"}),
    ("password", {**PASSWORD, "password": "\ud800"}),
    ("oauth_token", {**TOKEN, "oauth_token": "t\x01"}),
    ("oauth_client_id", {**TOKEN, "oauth_provider": "google", "oauth_refresh_token": "r"}),
    ("oauth_refresh_token", {**TOKEN, "oauth_provider": "google", "oauth_client_id": "app"}),
    ("oauth_callable", {**TOKEN, "oauth_provider": "custom"}),
    ("rate_limits", {"rate_limits": "as many as you like"}),
]


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.PRX_EMAIL = {"WAKE": ""}


def written(**fields: Any) -> Account:
    """An account as a script writes it: no validation is asked."""
    values = {"name": "main", "email": "app@example.com", "host": "127.0.0.1", "port": 9, "security": "none"}
    Account.objects.bulk_create([Account(**{**values, "auth_method": "none", **fields})])
    return Account.objects.get(name="main")


@pytest.mark.parametrize(("field", "fields"), UNUSABLE)
def test_a_drain_pauses_an_account_that_cannot_work_and_keeps_its_messages(
    field: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    owner = written(**fields)
    rows = factories.backlog(owner, 3)
    with caplog.at_level(logging.INFO, "prx_email_django"):
        prx.drain()
        prx.drain()
    state = owner.runtime_state
    assert state.pause_code == "configuration"
    assert state.pause_reason.startswith(f"this account cannot work ({field}: ")
    assert not [record for record in caplog.records if record.exc_info], "a traceback for each drain"
    assert [record.levelname for record in caplog.records] == ["ERROR"], "one line for the episode"
    for row in rows:
        assert (factories.fresh(row).status, factories.fresh(row).attempts) == ("pending", 0)
    assert not DeliveryAttempt.objects.exists()


@pytest.mark.parametrize(("field", "fields"), UNUSABLE)
def test_a_send_over_an_account_that_cannot_work_says_why(field: str, fields: dict[str, Any]) -> None:
    result = prx.send(**factories.mail(written(**fields)))
    assert (result.status, result.error_code) == ("failed", "configuration")
    assert result.error.startswith(f"{field}: ")


@pytest.mark.parametrize(("field", "fields"), UNUSABLE)
def test_an_account_that_cannot_work_is_never_called_ready(field: str, fields: dict[str, Any]) -> None:
    reason = account_reason(written(**fields))
    assert reason.startswith(f"it cannot work: {field}: ") and "may send" not in reason


@pytest.mark.parametrize(("name", "wrong", "right"), [("host", "a..b", "127.0.0.1"), ("rate_limits", "many", "9/day")])
def test_an_account_that_is_corrected_sends_at_once(name: str, wrong: str, right: str, settings: Any) -> None:
    settings.PRX_EMAIL = factories.MEMORY
    owner = written(**{name: wrong})
    row = factories.backlog(owner, 1)[0]
    prx.drain()
    assert factories.fresh(row).status == "pending"
    setattr(owner, name, right)
    owner.save()
    prx.drain()
    assert factories.fresh(row).status == "sent"


def test_editing_an_account_ends_no_pause_of_a_person() -> None:
    owner = written()
    prx.pause_outbox(owner, reason="holidays")
    owner.rate_limits = "9/day"
    owner.save()
    assert Account.objects.get().pause_reason == "holidays"


@pytest.mark.parametrize("name", ["Sh\nop", "Sh\x00op", "\x1b", "Shop\x85"])
def test_a_control_character_in_the_display_name_loses_no_message(name: str) -> None:
    owner = written(display_name="x")
    owner.display_name = name
    row = prx.enqueue(**factories.mail(owner))
    assert row.as_email()["From"].endswith("app@example.com>") or row.as_email()["From"] == "app@example.com"


def test_credentials_of_another_secret_key_are_not_called_refused(settings: Any) -> None:
    """Nobody has asked the server: the way out is the old key, not another password."""
    owner = written(**PASSWORD)
    row = factories.backlog(owner, 1)[0]
    settings.SECRET_KEY = "changed"
    prx.drain()
    state = owner.runtime_state
    assert state.pause_code == "configuration"
    assert "SECRET_KEY_FALLBACKS" in state.pause_reason and "refused" not in state.pause_reason
    assert factories.fresh(row).attempts == 0
    assert "SECRET_KEY_FALLBACKS" in account_reason(Account.objects.get(pk=owner.pk))
    result = prx.send(**factories.mail(Account.objects.get(pk=owner.pk)))
    assert result.error_code == "paused"
    prx.resume_outbox(owner)
    result = prx.send(**factories.mail(Account.objects.get(pk=owner.pk)))
    assert result.error_code == "configuration" and "SECRET_KEY_FALLBACKS" in result.error
